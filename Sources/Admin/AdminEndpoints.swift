public import Documents
import HashTreeCollections
import KubeModel
import MeshCore
public import MeshInterfaces
import ServiceCatalog

/// The routes of the admin interface and what answers them. Any task may call it.
public struct AdminEndpoints: Sendable {
    /// Rejected objects listed at once.
    public static let rejectedLimit = 500

    let catalog: any CatalogReading
    let reporters: [any StatusReporting]
    let queries: TunnelQueries?
    let agent: @Sendable () async -> Document
    private let readiness: @Sendable () async -> [String]
    private let reload: @Sendable () async -> Document

    /// - Parameters:
    ///   - tunnel: nil if the tunnel is off.
    ///   - agent: the agent as a whole: version, node, modules, warnings.
    ///   - readiness: what is not ready yet, in words; empty if all is.
    ///   - reload: reads the configuration again; says what changed, or has a member `error`.
    public init(
        catalog: any CatalogReading,
        reporters: [any StatusReporting],
        tunnel: TunnelQueries? = nil,
        agent: @escaping @Sendable () async -> Document,
        readiness: @escaping @Sendable () async -> [String],
        reload: @escaping @Sendable () async -> Document
    ) {
        self.catalog = catalog
        self.reporters = reporters
        self.queries = tunnel
        self.agent = agent
        self.readiness = readiness
        self.reload = reload
    }

    /// Every route: for the Unix socket.
    public func respond(to request: AdminRequest) async -> AdminResponse {
        switch (request.method, request.path) {
        case (.get, "/status"):
            if let service = request.query["service"] { return await self.service(service) }
            return .json(await self.status(limit: request.query["limit"].flatMap { Int($0) }))
        case (.get, "/tunnel"):
            return await self.tunnel()
        case (.get, "/routes"):
            return await self.routes(request.query["service"] ?? "")
        case (.post, "/ping"):
            return await self.ping(request.query["node"] ?? "")
        case (.post, "/reload"):
            let outcome = await self.reload()
            return .json(outcome, status: outcome["error"] == nil ? 200 : 422)
        default:
            return await self.respondToCollector(request)
        }
    }

    /// The routes without secrets or effects: for the metrics port.
    public func respondToCollector(_ request: AdminRequest) async -> AdminResponse {
        switch (request.method, request.path) {
        case (.get, "/healthz"):
            return AdminResponse(status: 200, body: "ok\n")
        case (.get, "/readyz"):
            let missing = await self.readiness()
            guard missing.isEmpty else {
                return AdminResponse(status: 503, body: missing.map { "not ready: \($0)\n" }.joined())
            }
            return AdminResponse(status: 200, body: "ok\n")
        case (.get, "/metrics"):
            var samples = self.catalogMetrics()
            for reporter in self.reporters { samples += await reporter.metrics() }
            return AdminResponse(
                status: 200,
                contentType: PrometheusText.contentType,
                body: PrometheusText.render(samples)
            )
        default:
            return AdminResponse(status: 404, body: "No such route: \(request.method.rawValue) \(request.path)\n")
        }
    }

    private func status(limit: Int?) async -> Document {
        let snapshot = self.catalog.snapshot
        let reports = await self.reports()
        let paths = ServicePath.read(fromReports: reports.map(\.value))
        let (rows, omitted) = ServiceRows.list(snapshot, limit: limit ?? ServiceRows.defaultLimit) {
            paths[$0.description]
        }
        let rejected = snapshot.rejected.values.sorted { ($0.kind.rawValue, $0.name) < ($1.kind.rawValue, $1.name) }
        var members: [Document.Member] = [
            .init("agent", await self.agent()),
            .init("services", .array(rows)), .init("servicesOmitted", .integer(omitted)),
            .init(
                "rejected",
                .array(
                    rejected.prefix(Self.rejectedLimit).map {
                        [
                            "kind": .string($0.kind.rawValue), "name": .string($0.name.description),
                            "field": .string($0.field), "reason": .string($0.reason),
                        ]
                    }
                )
            ),
            .init("rejectedOmitted", .integer(max(0, rejected.count - Self.rejectedLimit))),
        ]
        members.append(
            .init(
                "warnings",
                .array(
                    snapshot.warnings.sorted {
                        ($0.key.kind.rawValue, $0.key.name) < ($1.key.kind.rawValue, $1.key.name)
                    }
                    .prefix(Self.rejectedLimit)
                    .map { .string("\($0.key.kind.rawValue) \($0.key.name): \($0.value)") }
                )
            )
        )
        return .object(members + reports)
    }

    func reports() async -> [Document.Member] {
        var reports: [Document.Member] = []
        for reporter in self.reporters {
            reports.append(.init(reporter.statusName, await reporter.status()))
        }
        return reports
    }

    private func service(_ text: String) async -> AdminResponse {
        let paths = ServicePath.read(fromReports: await self.reports().map(\.value))
        return self.withService(text) { ServiceRows.detail($0, path: paths[$0.name.description]) }
    }

    /// Answers with what is to be told of a service: `namespace/name`, a DNS name of it, or a name alone, which must then be the
    /// only one.
    func withService(_ text: String, _ document: (Service) -> Document) -> AdminResponse {
        let snapshot = self.catalog.snapshot
        let found =
            Self.objectName(text).map { name in snapshot.services[name].map { [$0] } ?? [] }
            ?? snapshot.services.values.filter { $0.name.name == text }
        guard let service = found.first else {
            return AdminResponse(status: 404, body: "There is no service \(text) in the catalog.\n")
        }
        guard found.count == 1 else {
            let names = found.map(\.name).sorted().map(\.description).joined(separator: ", ")
            return AdminResponse(status: 409, body: "There are several: \(names). Name one with its namespace.\n")
        }
        return .json(document(service))
    }

    /// `namespace/name`, `name.namespace` or `name.namespace.svc` with any domain behind it; nil if no namespace is named.
    static func objectName(_ text: String) -> ObjectName? {
        let parts = text.split(separator: "/", maxSplits: 1).map(String.init)
        if parts.count == 2 { return ObjectName(namespace: parts[0], name: parts[1]) }
        // Names of services and namespaces hold no dots.
        let labels = text.split(separator: ".").map(String.init)
        guard labels.count == 2 || labels.count > 2 && labels[2] == "svc" else { return nil }
        return ObjectName(namespace: labels[1], name: labels[0])
    }

    private func catalogMetrics() -> [MetricSample] {
        let snapshot = self.catalog.snapshot
        return [
            MetricSample(
                name: "edgemesh_catalog_services",
                kind: .gauge,
                help: "Services in the catalog.",
                value: Double(snapshot.services.count)
            ),
            MetricSample(
                name: "edgemesh_catalog_rejected_objects",
                kind: .gauge,
                help: "Cluster objects that were refused.",
                value: Double(snapshot.rejected.count)
            ),
            MetricSample(
                name: "edgemesh_catalog_changes_total",
                kind: .counter,
                help: "Published changes of the catalog.",
                value: Double(snapshot.version)
            ),
        ]
    }
}
