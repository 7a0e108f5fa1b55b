import MeshCore

/// Where packets go next: the target of the longest prefix that an address lies in.
struct RoutingTable<Target> {
    private var routes: [(prefix: CIDR, target: Target)] = []

    /// Replaces the target of a prefix that is there already.
    mutating func add(_ prefix: CIDR, _ target: Target) {
        self.remove(prefix)
        let index = self.routes.firstIndex { $0.prefix.prefixLength < prefix.prefixLength } ?? self.routes.endIndex
        self.routes.insert((prefix, target), at: index)
    }

    mutating func remove(_ prefix: CIDR) {
        self.routes.removeAll { $0.prefix == prefix }
    }

    func next(to address: IPAddress) -> Target? {
        self.routes.first { $0.prefix.address.family == address.family && $0.prefix.contains(address) }?.target
    }
}
