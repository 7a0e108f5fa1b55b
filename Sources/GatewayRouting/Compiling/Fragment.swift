import KubeModel
import MeshCore

/// What one server of an Istio Gateway, or one listener of a Gateway, asks of its port.
struct Fragment {
    enum Service {
        case http([HTTPHosts.Host])
        case tls([TLSServer])
        case stream(StreamRoute)

        /// Services of one sort can share a port.
        var sort: String {
            switch self {
            case .http: "plain HTTP"
            case .tls: "TLS"
            case .stream: "a stream of bytes"
            }
        }
    }

    var key: ListenerPlan.Key
    var resource: GatewayResource
    var field: String
    var service: Service

    var origin: String { "\(self.resource.kind.rawValue) \(self.resource.name)" }
}

extension GatewayCompiler {
    /// Makes one listener of all fragments of a port.
    mutating func mergeFragments() {
        var listeners: [ListenerPlan.Key: ListenerPlan] = [:]
        for fragment in self.fragments {
            guard var plan = listeners[fragment.key] else {
                listeners[fragment.key] = self.listener(of: fragment)
                continue
            }
            guard let merged = self.merge(fragment, with: plan.service) else {
                self.find(
                    .error,
                    fragment.resource,
                    fragment.field,
                    "port \(fragment.key.port) serves something else for \(plan.origins.joined(separator: ", ")) already, "
                        + "not \(fragment.service.sort); use another port"
                )
                continue
            }
            plan.service = merged
            if !plan.origins.contains(fragment.origin) { plan.origins.append(fragment.origin) }
            listeners[fragment.key] = plan
        }
        self.result.plan.listeners = listeners.values.sorted { first, second in
            let keys = [first.key, second.key].map { ($0.port, $0.transport.rawValue, $0.address?.description ?? "") }
            return keys[0] < keys[1]
        }
    }

    private mutating func listener(of fragment: Fragment) -> ListenerPlan {
        let service: ListenerPlan.Service =
            switch fragment.service {
            case .http(let hosts): .http(self.merged(hosts, []))
            case .tls(let servers): .tls(self.merged(servers, [], fragment))
            case .stream(let route): .stream(route)
            }
        return ListenerPlan(key: fragment.key, service: service, origins: [fragment.origin])
    }

    private mutating func merge(_ fragment: Fragment, with service: ListenerPlan.Service) -> ListenerPlan.Service? {
        switch (fragment.service, service) {
        case (.http(let hosts), .http(let former)): .http(self.merged(hosts, former.hosts))
        case (.tls(let servers), .tls(let former)): .tls(self.merged(servers, former, fragment))
        default: nil
        }
    }

    private func merged(_ hosts: [HTTPHosts.Host], _ former: [HTTPHosts.Host]) -> HTTPHosts {
        var merged = Dictionary(uniqueKeysWithValues: former.map { ($0.pattern, $0) })
        for host in hosts {
            guard var older = merged[host.pattern] else {
                merged[host.pattern] = host
                continue
            }
            older.rules += host.rules
            older.redirectsToHTTPS = older.redirectsToHTTPS || host.redirectsToHTTPS
            merged[host.pattern] = older
        }
        return HTTPHosts(merged.values.sorted { HostPattern.isMoreSpecific($0.pattern, than: $1.pattern) })
    }

    /// A host that an older server has stays with it.
    private mutating func merged(_ servers: [TLSServer], _ former: [TLSServer], _ fragment: Fragment) -> [TLSServer] {
        var merged = former
        for server in servers {
            if let index = merged.firstIndex(where: { $0.hosts == server.hosts && $0.termination == server.termination }
            ),
                case .http(let hosts) = server.service, case .http(let older) = merged[index].service
            {
                merged[index].service = .http(self.merged(hosts.hosts, older.hosts))
                continue
            }
            var server = server
            let taken = server.hosts.filter { host in merged.contains { $0.hosts.contains(host) } }
            if !taken.isEmpty {
                self.find(
                    .error,
                    fragment.resource,
                    fragment.field,
                    "TLS clients that ask port \(fragment.key.port) for \(taken.map(\.text).joined(separator: ", ")) are served by "
                        + "an older object or route; use another name or port"
                )
                server.hosts.removeAll { taken.contains($0) }
            }
            if !server.hosts.isEmpty { merged.append(server) }
        }
        return merged
    }
}
