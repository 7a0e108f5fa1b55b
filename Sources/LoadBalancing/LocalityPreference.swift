/// Where an endpoint or this node is, as far as it is known.
public struct Place: Hashable, Sendable {
    public var region: String?
    public var zone: String?
    public var nodeName: String?

    public init(region: String? = nil, zone: String? = nil, nodeName: String? = nil) {
        self.region = region
        self.zone = zone
        self.nodeName = nodeName
    }
}

/// Which endpoints a service prefers by where they are (Istio, "Locality Load Balancing").
public enum LocalityPreference: Hashable, Sendable {
    /// Of the entries the first whose `from` covers this node says who gets how much.
    case distribute([Distribution])
    /// The nearest first: the same zone, the same region, the region that stands in for it, all others.
    case failover([String: String])
    /// Whoever agrees with this node in the most of these, counted from the first, goes first.
    case priority([Key])

    public struct Distribution: Hashable, Sendable {
        public var from: LocalityPattern
        public var to: [Share]

        public init(from: LocalityPattern, to: [Share]) {
            self.from = from
            self.to = to
        }
    }

    public struct Share: Hashable, Sendable {
        public var to: LocalityPattern
        /// In percent.
        public var weight: UInt32

        public init(to: LocalityPattern, weight: UInt32) {
            self.to = to
            self.weight = weight
        }
    }

    /// A label that is known of nodes and of endpoints.
    public enum Label: String, Hashable, Sendable, CaseIterable {
        case region = "topology.kubernetes.io/region"
        case zone = "topology.kubernetes.io/zone"
        case hostname = "kubernetes.io/hostname"
    }

    public struct Key: Hashable, Sendable {
        public var label: Label
        /// In place of this node's own.
        public var value: String?

        public init(label: Label, value: String? = nil) {
            self.label = label
            self.value = value
        }
    }

    /// A share of 1 % among so many endpoints still counts.
    private static let scale: UInt64 = 10_000

    /// The endpoints that this node is to use, in their order, with their weights if those differ.
    ///
    /// Never empty if `endpoints` is not: what is preferred and not there is replaced by what is.
    public func select<Endpoint>(
        _ endpoints: [Endpoint],
        from here: Place,
        place: (Endpoint) -> Place
    ) -> (endpoints: [Endpoint], weights: [UInt32]?) {
        switch self {
        case .distribute(let entries):
            guard let entry = entries.first(where: { $0.from.covers(here) }) else { return (endpoints, nil) }
            return Self.distribute(endpoints, entry.to, place)
        case .failover(let standIns):
            guard here.region != nil || here.zone != nil else { return (endpoints, nil) }
            return (
                Self.first(endpoints) { endpoint in
                    let there = place(endpoint)
                    let isSameRegion = here.region == there.region
                    if isSameRegion, here.zone != nil, here.zone == there.zone { return 0 }
                    if isSameRegion, here.region != nil { return 1 }
                    return there.region != nil && here.region.flatMap { standIns[$0] } == there.region ? 2 : 3
                }, nil
            )
        case .priority(let keys):
            return (
                Self.first(endpoints) { endpoint in
                    let there = place(endpoint)
                    return keys.count
                        - keys.prefix { key in
                            let wanted = key.value ?? here[key.label]
                            return wanted != nil && wanted == there[key.label]
                        }.count
                }, nil
            )
        }
    }

    /// Those of the lowest rank.
    private static func first<Endpoint>(_ endpoints: [Endpoint], rank: (Endpoint) -> Int) -> [Endpoint] {
        let ranks = endpoints.map(rank)
        guard let least = ranks.min() else { return [] }
        return zip(endpoints, ranks).filter { $0.1 == least }.map(\.0)
    }

    private static func distribute<Endpoint>(
        _ endpoints: [Endpoint],
        _ shares: [Share],
        _ place: (Endpoint) -> Place
    ) -> (endpoints: [Endpoint], weights: [UInt32]?) {
        // Of two that cover a place, the one that says it more exactly has it.
        let shares = shares.sorted { $0.to.exactness > $1.to.exactness }
        let owners = endpoints.map { endpoint -> Int? in
            let there = place(endpoint)
            return shares.firstIndex { $0.to.covers(there) }
        }
        var counts = [UInt64](repeating: 0, count: shares.count)
        for owner in owners { if let owner { counts[owner] += 1 } }
        var chosen: [Endpoint] = []
        var weights: [UInt32] = []
        for (endpoint, owner) in zip(endpoints, owners) {
            guard let owner, shares[owner].weight > 0 else { continue }
            chosen.append(endpoint)
            let weight = UInt64(shares[owner].weight) * Self.scale / counts[owner]
            weights.append(UInt32(clamping: max(1, weight)))
        }
        guard !chosen.isEmpty else { return (endpoints, nil) }
        return (chosen, Set(weights).count > 1 ? weights : nil)
    }
}

/// `REGION/ZONE/SUBZONE`, of which the last parts may be missing or `*`. Sub-zones are known of nobody, so one that is named
/// covers nothing.
public struct LocalityPattern: Hashable, Sendable {
    private var region: String?
    private var zone: String?
    private var subzone: String?

    /// Nil if the text is none: a name behind a `*`, an empty part, more than three.
    public init?(_ text: String) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        let names = parts.prefix { $0 != "*" }
        guard parts.count <= 3, !parts.contains(""), parts.dropFirst(names.count).allSatisfy({ $0 == "*" }) else {
            return nil
        }
        self.region = names.first
        self.zone = names.count > 1 ? names[1] : nil
        self.subzone = names.count > 2 ? names[2] : nil
    }

    var exactness: Int { [self.region, self.zone, self.subzone].count { $0 != nil } }

    func covers(_ place: Place) -> Bool {
        self.subzone == nil && (self.region == nil || self.region == place.region)
            && (self.zone == nil || self.zone == place.zone)
    }
}

extension Place {
    fileprivate subscript(label: LocalityPreference.Label) -> String? {
        switch label {
        case .region: self.region
        case .zone: self.zone
        case .hostname: self.nodeName
        }
    }
}
