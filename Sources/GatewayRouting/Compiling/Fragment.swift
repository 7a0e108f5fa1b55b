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
        var listeners: [ListenerPlan.Key: MergedListener] = [:]
        for fragment in self.fragments {
            var listener = listeners.removeValue(forKey: fragment.key) ?? MergedListener(fragment.service)
            self.merge(fragment, into: &listener)
            listeners[fragment.key] = listener
        }
        self.result.plan.listeners = listeners.map { $1.plan(for: $0) }.sorted { first, second in
            let keys = [first.key, second.key].map { ($0.port, $0.transport.rawValue, $0.address?.description ?? "") }
            return keys[0] < keys[1]
        }
    }

    private mutating func merge(_ fragment: Fragment, into listener: inout MergedListener) {
        switch (fragment.service, listener.service) {
        case (.http(let hosts), .http): listener.http.add(hosts)
        case (.tls(let servers), .tls):
            for server in servers {
                let taken = listener.tls.add(server)
                guard !taken.isEmpty else { continue }
                self.find(
                    .error,
                    fragment.resource,
                    fragment.field,
                    "TLS clients that ask port \(fragment.key.port) for \(taken.map(\.text).joined(separator: ", ")) are served by "
                        + "an older object or route; use another name or port"
                )
            }
        case (.stream, .stream) where listener.origins.isEmpty: break
        default:
            self.find(
                .error,
                fragment.resource,
                fragment.field,
                "port \(fragment.key.port) serves something else for \(listener.origins.joined(separator: ", ")) already, "
                    + "not \(fragment.service.sort); use another port"
            )
            return
        }
        listener.add(origin: fragment.origin)
    }
}

/// What the fragments of a port have become so far. Each host is looked up, never looked for: a port may have thousands.
private struct MergedListener {
    /// That of the first fragment: its sort is the port's, and of a stream it is all.
    let service: Fragment.Service
    var http = MergedHosts()
    var tls = MergedServers()
    private(set) var origins: [String] = []
    private var known: Set<String> = []

    init(_ service: Fragment.Service) { self.service = service }

    mutating func add(origin: String) {
        if self.known.insert(origin).inserted { self.origins.append(origin) }
    }

    func plan(for key: ListenerPlan.Key) -> ListenerPlan {
        let service: ListenerPlan.Service =
            switch self.service {
            case .http: .http(self.http.hosts)
            case .tls: .tls(self.tls.servers)
            case .stream(let route): .stream(route)
            }
        return ListenerPlan(key: key, service: service, origins: self.origins)
    }
}

/// Hosts of HTTP: the rules of older objects come first.
private struct MergedHosts {
    private var merged: [HostPattern: HTTPHosts.Host] = [:]

    mutating func add(_ hosts: [HTTPHosts.Host]) {
        for host in hosts {
            let new = HTTPHosts.Host(pattern: host.pattern, rules: [])
            self.merged[host.pattern, default: new].rules += host.rules
            if host.redirectsToHTTPS { self.merged[host.pattern]?.redirectsToHTTPS = true }
        }
    }

    var hosts: HTTPHosts {
        HTTPHosts(self.merged.values.sorted { HostPattern.isMoreSpecific($0.pattern, than: $1.pattern) })
    }
}

/// Servers of TLS: a host that an older one has stays with it, and what is HTTP behind the same hosts and certificates is one.
private struct MergedServers {
    private struct Identity: Hashable {
        var hosts: [HostPattern]
        var termination: TLSTermination?
    }

    private var merged: [TLSServer] = []
    private var places: [Identity: Int] = [:]
    private var taken: Set<HostPattern> = []
    /// By the place of the server.
    private var http: [Int: MergedHosts] = [:]

    /// - Returns: the hosts that others have.
    mutating func add(_ server: TLSServer) -> [HostPattern] {
        if case .http(let hosts) = server.service,
            let place = self.places[Identity(hosts: server.hosts, termination: server.termination)],
            self.http[place] != nil
        {
            self.http[place]?.add(hosts.hosts)
            return []
        }
        var server = server
        let lost = server.hosts.filter { self.taken.contains($0) }
        server.hosts.removeAll { self.taken.contains($0) }
        guard !server.hosts.isEmpty else { return lost }
        self.taken.formUnion(server.hosts)
        let place = self.merged.count
        self.places[Identity(hosts: server.hosts, termination: server.termination)] = place
        if case .http(let hosts) = server.service { self.http[place, default: MergedHosts()].add(hosts.hosts) }
        self.merged.append(server)
        return lost
    }

    var servers: [TLSServer] {
        self.merged.enumerated().map { place, server in
            guard let hosts = self.http[place]?.hosts else { return server }
            return TLSServer(hosts: server.hosts, termination: server.termination, service: .http(hosts))
        }
    }
}
