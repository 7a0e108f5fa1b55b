public import Documents
import HashTreeCollections
import KubeModel
import LoadBalancing
public import MeshCore
public import ServiceCatalog

/// How the data path serves a service, for people.
public struct ServicePath: Hashable, Sendable {
    /// `kernel`, `user`, `none`, or several of them where the ports differ.
    public var path: String
    /// Why not the kernel, or why not at all.
    public var reason: String
    /// Calls by path, of those paths that were counted.
    public var calls: [String: Int64]

    public init(path: String, reason: String, calls: [String: Int64] = [:]) {
        self.path = path
        self.reason = reason
        self.calls = calls
    }

    /// By service, from the member `services` of those reports that have one: each with `frontends` of `path` and `reason`.
    static func read(fromReports reports: [Document]) -> [String: ServicePath] {
        var paths: [String: ServicePath] = [:]
        for service in reports.lazy.flatMap({ $0["services"]?.array ?? [] }) {
            guard let name = service["service"]?.string else { continue }
            let frontends = service["frontends"]?.array ?? []
            let distinct = { (key: String) in
                frontends.compactMap { $0[key]?.string }.filter { !$0.isEmpty }
                    .reduce(into: [String]()) { if !$0.contains($1) { $0.append($1) } }
            }
            let notes = distinct("note")
            var calls: [String: Int64] = [:]
            for frontend in frontends {
                guard let path = frontend["path"]?.string, let count = frontend["calls"]?.integer else { continue }
                calls[path] = (calls[path] ?? 0).addingReportingOverflow(count).partialValue
            }
            paths[name] = ServicePath(
                path: distinct("path").joined(separator: "+"),
                reason: (distinct("reason") + notes).joined(separator: "; "),
                calls: calls
            )
        }
        return paths
    }
}

/// The services of a snapshot as `edgemesh status` shows them.
public enum ServiceRows {
    /// Services listed at once; a larger catalog is cut off, and says so. One service is always there in detail.
    public static let defaultLimit = 2000

    /// The services in the order of their names, and how many were left out.
    public static func list(
        _ snapshot: CatalogSnapshot,
        limit: Int = Self.defaultLimit,
        path: (ObjectName) -> ServicePath?
    ) -> (rows: [Document], omitted: Int) {
        let names = snapshot.services.keys.sorted()
        let rows = names.prefix(max(0, limit)).compactMap { name in
            snapshot.services[name].map { self.row($0, path: path(name)) }
        }
        return (rows, names.count - rows.count)
    }

    public static func row(_ service: Service, path: ServicePath?) -> Document {
        let endpoints = service.groups.lazy.flatMap(\.endpoints)
        let addresses = Set(endpoints.map(\.address))
        let ready = Set(endpoints.filter { $0.conditions.contains(.ready) }.map(\.address))
        return [
            "namespace": .string(service.name.namespace), "name": .string(service.name.name),
            "type": .string(self.type(of: service)), "addresses": .array(self.addresses(of: service)),
            "ports": .array(service.object.ports.map { .string(self.describe($0)) }),
            "endpoints": .integer(addresses.count), "ready": .integer(ready.count),
            "policy": .string(service.policy.map(self.describe) ?? "default"),
            "path": .string(path?.path ?? (service.isProxied ? "" : "not proxied")),
            "reason": .string(path?.reason ?? ""),
            "calls": .object(
                (path?.calls ?? [:]).sorted { $0.key < $1.key }.map { .init($0.key, .integer($0.value)) }
            ),
        ]
    }

    /// A row with every endpoint of the service.
    public static func detail(_ service: Service, path: ServicePath?) -> Document {
        var members = self.row(service, path: path).members ?? []
        var endpoints: [Document] = []
        for group in service.groups {
            for endpoint in group.endpoints {
                for port in group.ports {
                    endpoints.append([
                        "address": .string(TransportAddress(endpoint.address, port.port).description),
                        "port": .string(port.name.isEmpty ? "\(port.transport)" : "\(port.name)/\(port.transport)"),
                        "state": .string(self.describe(endpoint.conditions)),
                        "node": .string(endpoint.nodeName ?? ""), "zone": .string(endpoint.zone ?? ""),
                        "pod": .string(endpoint.podName ?? endpoint.hostname ?? ""),
                    ])
                }
            }
        }
        members.append(.init("endpointList", .array(endpoints)))
        let policies = service.portPolicies.sorted { $0.key < $1.key }
        members.append(
            .init("portPolicies", .object(policies.map { .init(String($0.key), .string(self.describe($0.value))) }))
        )
        members.append(.init("affinitySeconds", service.object.clientIPAffinitySeconds.map { .integer($0) } ?? nil))
        return .object(members)
    }

    private static func type(of service: Service) -> String {
        service.object.isHeadless ? "Headless" : service.object.type.rawValue
    }

    private static func addresses(of service: Service) -> [Document] {
        if let name = service.object.externalName { return [.string(name)] }
        let object = service.object
        return (object.clusterIPs + object.externalIPs + object.loadBalancerIngress).map { .string($0.description) }
    }

    private static func describe(_ port: ServiceObject.Port) -> String {
        "\(port.port)\(port.nodePort == 0 ? "" : ":\(port.nodePort)")/\(port.transport)"
    }

    private static func describe(_ conditions: EndpointConditions) -> String {
        if conditions.contains(.terminating) {
            return conditions.contains(.serving) ? "terminating, serving" : "terminating"
        }
        return conditions.contains(.ready) ? "ready" : "not ready"
    }

    static func describe(_ policy: LoadBalancingPolicy) -> String {
        switch policy {
        case .roundRobin: "round robin"
        case .random: "random"
        case .leastRequest: "least request"
        case .consistentHash(let hash):
            switch hash.key {
            case .sourceAddress: "hash of source address"
            case .httpHeader(let name): "hash of header \(name)"
            case .httpCookie(let name, _, _): "hash of cookie \(name)"
            case .httpQueryParameter(let name): "hash of parameter \(name)"
            }
        }
    }
}
