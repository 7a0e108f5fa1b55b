import KubeModel
import MeshCore

/// Endpoint groups of one object, as given and with zones filled in.
struct EndpointGroups {
    /// As the object has them.
    let given: [EndpointGroup]
    /// With zones from nodes. Shares its storage with `given` if nothing had to be filled in, as is usual for slices.
    private(set) var effective: [EndpointGroup]
    /// Whether any endpoint names a node, but no zone.
    let needsZones: Bool

    init(_ given: [EndpointGroup], zoneOfNode: (String) -> String?) {
        self.given = given
        self.effective = given
        self.needsZones = given.contains { $0.endpoints.contains { $0.zone == nil && $0.nodeName != nil } }
        self.fillZones(zoneOfNode)
    }

    mutating func fillZones(_ zoneOfNode: (String) -> String?) {
        guard self.needsZones else { return }
        var filled = self.given
        var hasFilled = false
        for group in filled.indices {
            for index in filled[group].endpoints.indices {
                let endpoint = filled[group].endpoints[index]
                guard endpoint.zone == nil, let node = endpoint.nodeName, let zone = zoneOfNode(node) else { continue }
                filled[group].endpoints[index].zone = zone
                hasFilled = true
            }
        }
        self.effective = hasFilled ? filled : self.given
    }
}

enum EndpointMerging {
    /// One list of groups in which groups of equal ports hold an address once. An address moves between slices as they
    /// are rebalanced and is then in two for a while; the better conditions count.
    static func merge(_ parts: [[EndpointGroup]]) -> [EndpointGroup] {
        if parts.count == 1, parts[0].count == 1, !self.repeatsAddress(parts[0]) { return parts[0] }
        let groups = parts.flatMap { $0 }
        guard self.repeatsAddress(groups) else { return groups }
        var merged: [EndpointGroup] = []
        for (position, group) in groups.enumerated() {
            // The first group with these ports takes in all others.
            guard groups.firstIndex(where: { $0.ports == group.ports }) == position else { continue }
            var endpoints: [Endpoint] = []
            var positions: [IPAddress: Int] = [:]
            for endpoint in groups[position...].lazy.filter({ $0.ports == group.ports }).flatMap(\.endpoints) {
                if let known = positions[endpoint.address] {
                    if Self.rank(endpoint) > Self.rank(endpoints[known]) { endpoints[known] = endpoint }
                } else {
                    positions[endpoint.address] = endpoints.count
                    endpoints.append(endpoint)
                }
            }
            merged.append(EndpointGroup(ports: group.ports, endpoints: endpoints))
        }
        return merged
    }

    private static func repeatsAddress(_ groups: [EndpointGroup]) -> Bool {
        let count = groups.reduce(0) { $0 + $1.endpoints.count }
        var seen = Set<IPAddress>(minimumCapacity: count)
        return groups.contains { $0.endpoints.contains { !seen.insert($0.address).inserted } }
    }

    private static func rank(_ endpoint: Endpoint) -> Int {
        endpoint.conditions.contains(.ready) ? 2 : endpoint.conditions.contains(.serving) ? 1 : 0
    }
}
