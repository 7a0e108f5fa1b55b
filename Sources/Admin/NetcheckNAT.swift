import Documents

extension Netcheck {
    /// How the NAT of a node maps ports, as far as what peers have seen tells (RFC 4787, section 4.1).
    enum NATKind: String {
        /// Peers see an address of this node's own.
        case none
        /// One port for all destinations: it can be opened from inside.
        case endpointIndependent
        /// Another port for each destination, which nobody can foretell.
        case endpointDependent
        /// Only one peer outside has seen this node, at the port that the node has itself.
        case portPreserving
        case unknown

        /// What one peer has seen.
        struct Sighting {
            let seen: Endpoint
            let local: Endpoint
            let by: String

            init?(_ document: Document) {
                guard let seen = document["seen"]?.string.flatMap({ Endpoint($0) }), let by = document["by"]?.string,
                    let local = document["local"]?.string.flatMap({ Endpoint($0) })
                else { return nil }
                (self.seen, self.local, self.by) = (seen, local, by)
            }
        }

        /// - Parameter isPublic: peers dial this node, or it has a public address of its own.
        init(_ sightings: [Sighting], isPublic: Bool) {
            let own = Set(sightings.map(\.local.host))
            // IPv6 is not translated.
            let translated = sightings.filter { !own.contains($0.seen.host) && !$0.seen.host.contains(":") }
            guard !translated.isEmpty else {
                self = isPublic ? .none : .unknown
                return
            }
            let mappings = Dictionary(grouping: translated) { [$0.seen.host, $0.local.host, $0.local.port] }.values
            if mappings.contains(where: { Set($0.map(\.seen.port)).count > 1 }) {
                self = .endpointDependent
            } else if mappings.contains(where: { Set($0.map(\.by)).count > 1 }) {
                self = .endpointIndependent
            } else {
                self = translated.allSatisfy { $0.seen.port == $0.local.port } ? .portPreserving : .unknown
            }
        }

        var words: String {
            switch self {
            case .none: "none seen"
            case .endpointIndependent:
                "endpoint-independent mapping: one port for all who have seen this node (can be punched)"
            case .endpointDependent:
                "address- and port-dependent mapping: another port for each destination (symmetric, can hardly be punched)"
            case .portPreserving:
                "keeps the port, as far as the one peer outside tells (can most likely be punched)"
            case .unknown: "unknown: too few peers outside have seen this node; a second relay would tell"
            }
        }
    }

    /// Of a multiaddress such as `/ip4/192.0.2.1/tcp/10006`.
    struct Endpoint {
        let host: String
        let port: String

        init?(_ text: String) {
            let parts = text.split(separator: "/").map(String.init)
            guard parts.count >= 4 else { return nil }
            (self.host, self.port) = (parts[1], parts[3])
        }
    }
}
