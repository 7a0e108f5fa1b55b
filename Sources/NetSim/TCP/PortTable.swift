import MeshCore

/// Which ports of a machine are bound, by the rules of bind(2) on Linux.
struct PortTable {
    struct Binding: Hashable {
        let address: IPAddress
        let port: UInt16
        /// SO_REUSEADDR and SO_REUSEPORT are set: others that have set them, too, may bind the same.
        let reuse: Bool

        func conflicts(with other: Binding) -> Bool {
            guard self.port == other.port, self.address.family == other.address.family else { return false }
            let overlap = self.address == other.address || self.address.isUnspecified || other.address.isUnspecified
            return overlap && !(self.reuse && other.reuse)
        }
    }

    /// Linux' default of `net.ipv4.ip_local_port_range`.
    static let ephemeral: ClosedRange<UInt16> = 32768...60999

    private var bindings: [UInt16: [Binding]] = [:]

    /// Binds if nothing is in the way.
    mutating func bind(_ binding: Binding) -> Bool {
        let others = self.bindings[binding.port] ?? []
        guard !others.contains(where: { $0.conflicts(with: binding) }) else { return false }
        self.bindings[binding.port] = others + [binding]
        return true
    }

    mutating func unbind(_ binding: Binding) {
        guard var left = self.bindings[binding.port] else { return }
        if let index = left.firstIndex(of: binding) { left.remove(at: index) }
        self.bindings[binding.port] = left.isEmpty ? nil : left
    }

    /// Binds a port that nobody has; nil if all are taken.
    mutating func bindEphemeral(
        _ address: IPAddress,
        reuse: Bool,
        using generator: inout some RandomNumberGenerator
    ) -> Binding? {
        let count = UInt16(Self.ephemeral.count)
        let first = UInt16.random(in: 0..<count, using: &generator)
        for offset in 0..<count {
            let port = Self.ephemeral.lowerBound + UInt16((UInt32(first) + UInt32(offset)) % UInt32(count))
            guard self.bindings[port] == nil else { continue }
            let binding = Binding(address: address, port: port, reuse: reuse)
            self.bindings[port] = [binding]
            return binding
        }
        return nil
    }
}
