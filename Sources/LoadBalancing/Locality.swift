/// How near an endpoint is to this node. Nearer is less.
public enum LocalityTier: UInt8, Hashable, Sendable, Comparable, CaseIterable {
    case sameNode
    case sameZone
    case elsewhere

    public static func < (lhs: LocalityTier, rhs: LocalityTier) -> Bool { lhs.rawValue < rhs.rawValue }
}

/// Where this node is, and with it which endpoints are near.
public struct Locality: Hashable, Sendable {
    public var nodeName: String
    /// Nil if the node has no zone: then no endpoint is in the same one.
    public var zone: String?

    public init(nodeName: String, zone: String? = nil) {
        self.nodeName = nodeName
        self.zone = zone
    }

    /// The tier of an endpoint on `nodeName` in `zone`.
    public func tier(nodeName: String?, zone: String?) -> LocalityTier {
        if nodeName == self.nodeName { return .sameNode }
        if let zone, zone == self.zone { return .sameZone }
        return .elsewhere
    }

    /// The same endpoints, the nearest first; those of one tier keep their order.
    public func nearestFirst<Endpoint>(
        _ endpoints: [Endpoint],
        location: (Endpoint) -> (nodeName: String?, zone: String?)
    ) -> [Endpoint] {
        let tiers = endpoints.map { endpoint in
            let place = location(endpoint)
            return self.tier(nodeName: place.nodeName, zone: place.zone)
        }
        return LocalityTier.allCases.flatMap { tier in
            endpoints.indices.filter { tiers[$0] == tier }.map { endpoints[$0] }
        }
    }
}
