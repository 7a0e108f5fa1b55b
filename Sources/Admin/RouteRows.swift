public import Documents
import KubeModel
import MeshCore
import ServiceCatalog

/// `edgemesh routes`: who answers for a service, and by which way this node reaches each.
public enum RouteRows {
    /// - Parameters:
    ///   - reports: of the parts of the agent; the proxy's says how each frontend is served.
    ///   - peers: the member of the tunnel's report; nil if it is off.
    ///   - place: of this node.
    ///   - tunnelNode: the node through whose agent an endpoint is reached.
    static func document(
        _ service: Service,
        reports: [Document],
        peers: Document?,
        place: Place,
        tunnelNode: (Endpoint) -> String?
    ) -> Document {
        let whole = ServicePath.read(fromReports: reports)[service.name.description]
        let frontends = self.frontends(of: service, reports)
        var rows: [Document] = []
        for group in service.groups {
            for port in group.ports {
                let served = frontends[port.name]?.paths ?? (service.isProxied ? [] : ["not proxied"])
                let used = frontends[port.name]?.used
                let takesAll = service.object.publishNotReadyAddresses
                let ways = group.endpoints.map { Way($0, takesAll: takesAll, tunnelNode($0), peers) }
                let hasReady = ways.contains { $0.isReady }
                // Those on nodes that no path leads to are left out only while there are others.
                let hasReachable = ways.contains { $0.isUsable(hasReady: hasReady) && !$0.isUnreachable }
                for (endpoint, way) in zip(group.endpoints, ways) {
                    let address = TransportAddress(endpoint.address, port.port).description
                    let isFarther = used?.isEmpty == false && used?.contains(address) == false
                    let leftOut = way.leftOut(hasReady: hasReady, hasReachable: hasReachable)
                    rows.append([
                        "address": .string(address),
                        "port": .string(port.name.isEmpty ? "\(port.transport)" : "\(port.name)/\(port.transport)"),
                        "node": .string(endpoint.nodeName ?? ""),
                        "served": .string(served.map { $0 == "user" ? way.means : $0 }.joined(separator: "+")),
                        "state": way.path?["state"] ?? nil, "kind": way.path?["kind"] ?? nil,
                        "relay": way.path?["relay"] ?? nil, "rttMilliseconds": way.path?["rttMilliseconds"] ?? nil,
                        "near": .string(place.nearness(of: endpoint, way.path).rawValue),
                        "zone": endpoint.zone.map { .string($0) } ?? nil,
                        "leftOut": (leftOut ?? (isFarther ? "nearer ones are preferred" : nil)).map { .string($0) }
                            ?? nil,
                    ])
                }
            }
        }
        return [
            "service": .string(service.name.description),
            "path": .string(whole?.path ?? (service.isProxied ? "" : "not proxied")),
            "reason": .string(whole?.reason ?? ""), "zone": place.zone.map { .string($0) } ?? nil,
            "trafficDistribution": service.object.trafficDistribution.map { .string($0) } ?? nil,
            "endpoints": .array(rows),
        ]
    }

    /// How the frontends of one port are served.
    private struct Frontends {
        var paths: [String] = []
        /// The endpoints that calls go to; nil if the report does not list them all.
        var used: Set<String>? = []
    }

    /// By the names of their ports.
    private static func frontends(of service: Service, _ reports: [Document]) -> [String: Frontends] {
        let own = reports.lazy.flatMap { $0["services"]?.array ?? [] }
            .filter { $0["service"]?.string == service.name.description }
        return own.flatMap { $0["frontends"]?.array ?? [] }.reduce(into: [:]) { ports, frontend in
            guard let path = frontend["path"]?.string else { return }
            var port = ports[frontend["portName"]?.string ?? ""] ?? Frontends()
            if !port.paths.contains(path) { port.paths.append(path) }
            let used = (frontend["endpoints"]?.array ?? []).compactMap { $0["address"]?.string }
            let isWhole = frontend["endpointCount"]?.integer == Int64(used.count)
            port.used = isWhole ? port.used?.union(used) : nil
            ports[frontend["portName"]?.string ?? ""] = port
        }
    }

    /// Where a node is.
    struct Place {
        enum Nearness: String {
            case sameNode, sameLAN, sameZone, elsewhere
        }

        var node: String
        var zone: String?

        func nearness(of endpoint: Endpoint, _ path: Document?) -> Nearness {
            if endpoint.nodeName == self.node { return .sameNode }
            if path?["sameNetwork"]?.bool == true { return .sameLAN }
            return self.zone != nil && endpoint.zone == self.zone ? .sameZone : .elsewhere
        }
    }

    /// The way to one endpoint, if the proxy in user space takes it.
    private struct Way {
        let isReady: Bool
        /// It still serves while it terminates.
        let isLeaving: Bool
        let node: String?
        let path: Document?

        init(_ endpoint: Endpoint, takesAll: Bool, _ node: String?, _ peers: Document?) {
            self.isReady = takesAll || endpoint.conditions.contains(.ready)
            self.isLeaving = endpoint.conditions.isSuperset(of: [.serving, .terminating])
            self.node = peers == nil ? nil : node
            self.path = node.flatMap { peers?[$0] }
        }

        var means: String { self.node == nil ? "socket" : "tunnel" }
        var isUnreachable: Bool { self.path?["state"]?.string == "down" }

        func isUsable(hasReady: Bool) -> Bool { hasReady ? self.isReady : self.isLeaving }

        func leftOut(hasReady: Bool, hasReachable: Bool) -> String? {
            guard self.isUsable(hasReady: hasReady) else { return self.isLeaving ? "terminating" : "not ready" }
            guard self.isUnreachable, hasReachable, let node = self.node else { return nil }
            return "node \(node) is unreachable" + (self.path?["problem"]?.string.map { ": \($0)" } ?? "")
        }
    }

    /// For people.
    public static func text(_ routes: Document) -> String {
        let text = { (key: String) in routes[key]?.string ?? "" }
        var result = "Service   \(text("service"))\n"
        result += "Served    \(text("path").isEmpty ? "-" : text("path"))"
        result += "\(text("reason").isEmpty ? "" : "  (\(text("reason")))")\n"
        if !text("trafficDistribution").isEmpty {
            result +=
                "Prefers   \(text("trafficDistribution")), from zone \(text("zone").isEmpty ? "-" : text("zone"))\n"
        }
        result += "\n"
        var table = TextTable(header: ["ENDPOINT", "PORT", "NODE", "NEAR", "BY", "PATH", "RTT", "LEFT OUT"])
        for row in routes["endpoints"]?.array ?? [] {
            let cell = { (key: String) in row[key]?.string ?? "" }
            let isTunnel = cell("served").contains("tunnel")
            let state = cell("state").isEmpty ? "idle" : cell("state")
            let path = state == "up" ? TunnelText.path(row) : state
            table.add([
                cell("address"), cell("port"), cell("node").isEmpty ? "-" : cell("node"), self.near(row),
                cell("served").isEmpty ? "-" : cell("served"), isTunnel ? path : "-",
                isTunnel ? TunnelText.roundTrip(row) : "-", cell("leftOut"),
            ])
        }
        return result + (table.isEmpty ? "It has no endpoints.\n" : table.text)
    }

    private static func near(_ row: Document) -> String {
        let zone = row["zone"]?.string.map { "zone \($0)" }
        switch row["near"]?.string.flatMap({ Place.Nearness(rawValue: $0) }) {
        case .sameNode: return "this node"
        case .sameLAN: return ["same LAN", zone].compactMap(\.self).joined(separator: ", ")
        case .sameZone: return "same \(zone ?? "zone")"
        case .elsewhere, nil: return zone ?? "-"
        }
    }
}
