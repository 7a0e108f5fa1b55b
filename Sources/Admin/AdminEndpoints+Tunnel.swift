import Documents
import HashTreeCollections
public import KubeModel
public import MeshInterfaces
import ServiceCatalog

/// What the admin interface asks of the tunnel beyond its report.
public struct TunnelQueries: Sendable {
    var ping: @Sendable (_ node: String) async throws(TunnelError) -> (path: NodePath, roundTrip: Duration)
    var tunnelNode: @Sendable (Endpoint) -> String?

    /// - Parameters:
    ///   - ping: one round trip to a node.
    ///   - tunnelNode: the node through whose agent an endpoint is reached; nil if it is dialled from here.
    public init(
        ping: @escaping @Sendable (_ node: String) async throws(TunnelError) -> (path: NodePath, roundTrip: Duration),
        tunnelNode: @escaping @Sendable (Endpoint) -> String?
    ) {
        self.ping = ping
        self.tunnelNode = tunnelNode
    }
}

extension AdminEndpoints {
    /// The name of the tunnel's report.
    static let tunnelReport = "edgeTunnel"

    /// The tunnel's report, or why there is none.
    func tunnel() async -> AdminResponse {
        guard let reporter = self.reporters.first(where: { $0.statusName == Self.tunnelReport }) else {
            return Self.tunnelIsOff
        }
        let report = await reporter.status()
        guard report["running"]?.bool != false else {
            return AdminResponse(
                status: 503,
                body: "The tunnel of this agent is on, but not up: `edgemesh status` and its log say why.\n"
            )
        }
        return .json(report)
    }

    /// One ping: 200 with path and round trip, 504 if no answer came, else why none can come.
    func ping(_ node: String) async -> AdminResponse {
        guard let queries = self.queries else { return Self.tunnelIsOff }
        do {
            let (path, roundTrip) = try await queries.ping(node)
            return .json(PingReport.reply(from: node, path, roundTrip))
        } catch {
            let status =
                switch error.code {
                case .unknownNode: 404
                case .notRunning: 503
                default: 504
                }
            return AdminResponse(status: status, body: "\(error.message)\n")
        }
    }

    /// Each endpoint of a service and the way to it.
    func routes(_ name: String) async -> AdminResponse {
        let reports = await self.reports()
        let tunnel = reports.first { $0.key == Self.tunnelReport }?.value
        let node = await self.agent()["node"]?.string ?? ""
        let place = RouteRows.Place(node: node, zone: self.catalog.snapshot.nodes[node]?.zone)
        return self.withService(name) { service in
            RouteRows.document(
                service,
                reports: reports.map(\.value),
                peers: tunnel?["peers"],
                place: place,
                tunnelNode: self.queries?.tunnelNode ?? { _ in nil }
            )
        }
    }

    private static let tunnelIsOff = AdminResponse(
        status: 404,
        body: "The tunnel of this agent is off: set modules.edgeTunnel.enable: true and restart the agent.\n"
    )
}
