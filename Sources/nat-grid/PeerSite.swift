import MeshCore
import NetLab

/// A site of the internet with one host, which runs a peer.
struct PeerSite {
    static let port = 4001

    let kind: NATKind
    /// The host that the peer runs on.
    let host: String
    private let reachable: [IPAddress]

    /// Adds it to an internet.
    init(_ kind: NATKind, _ name: String, in internet: inout Internet) throws {
        let site = try internet.addSite(kind, name)
        try internet.add(LabPlan.Host(name: name), to: site, index: 0)
        self.kind = kind
        self.host = name
        self.reachable = try site.reachableAddresses(of: 0)
    }

    /// What its peer listens on.
    var listen: [String] {
        (self.kind.families.contains(.v4) ? ["/ip4/0.0.0.0/tcp/\(Self.port)"] : [])
            + (self.kind.families.contains(.v6) ? ["/ip6/::/tcp/\(Self.port)"] : [])
    }

    /// Where anyone can dial it.
    var reachableAt: [String] {
        self.reachable.map { "/ip\($0.family == .v4 ? 4 : 6)/\($0)/tcp/\(Self.port)" }
    }
}

struct GridError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}
