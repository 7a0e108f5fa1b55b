public import MeshCore
public import NIOCore

/// A NAT with one outside address for each IP family that it translates. Sans I/O.
public struct NATTable: Sendable {
    /// What has one mapping. The parts that the mapping does not depend on are nil.
    private struct Key: Hashable {
        let inside: FlowTable.Inside
        let remoteAddress: IPAddress?
        let remotePort: UInt16?

        init(_ inside: FlowTable.Inside, _ remote: TransportAddress, _ dependence: Dependence) {
            self.inside = inside
            self.remoteAddress = dependence == .endpointIndependent ? nil : remote.address
            self.remotePort = dependence == .addressAndPortDependent ? remote.port : nil
        }

        func covers(_ remote: TransportAddress) -> Bool {
            (self.remoteAddress ?? remote.address) == remote.address && (self.remotePort ?? remote.port) == remote.port
        }
    }

    private struct Outside: Hashable {
        let transport: TransportProtocol
        let family: IPFamily
        let port: UInt16
    }

    private static let firstPort: UInt16 = 1024

    public let behavior: NATBehavior
    public let outsideAddresses: [IPAddress]
    private var flows: FlowTable
    private var ports: [Key: UInt16] = [:]
    /// Several mappings share a port only where it is preserved and their remotes tell them apart.
    private var keys: [Outside: [Key]] = [:]
    private var lastPort: UInt16
    private var generator: SeededGenerator

    public init(_ behavior: NATBehavior, outside addresses: [IPAddress], seed: UInt64) {
        self.behavior = behavior
        self.outsideAddresses = addresses
        self.generator = SeededGenerator(seed: seed)
        self.lastPort = UInt16.random(in: Self.firstPort...UInt16.max, using: &self.generator)
        self.flows = FlowTable(timeouts: behavior.timeouts, inboundRefresh: behavior.inboundRefresh)
    }

    public var mappings: Int { self.ports.count }

    /// Whether this is an address of the outside that stands for what is inside.
    public func owns(_ address: IPAddress) -> Bool { self.outsideAddresses.contains(address) }

    // MARK: Packets

    /// From inside to outside.
    public mutating func outbound(_ packet: Packet, at now: NIODeadline) -> Verdict {
        guard let address = self.outsideAddress(packet.source.address.family) else { return .forward(packet) }
        var packet = packet
        if case .unreachable(let about) = packet.payload {
            // It is about a packet that was let in, and goes out as if from the outside endpoint.
            let inside = FlowTable.Inside(transport: about.transport, endpoint: about.destination)
            guard let port = self.ports[Key(inside, about.source, self.behavior.mapping)] else {
                return .drop(.untranslatable)
            }
            var told = about
            told.destination = TransportAddress(address, port)
            packet.payload = .unreachable(told)
            packet.source = TransportAddress(address, 0)
            return .forward(packet)
        }
        guard let transport = packet.transport else { return .drop(.untranslatable) }
        let inside = FlowTable.Inside(transport: transport, endpoint: packet.source)
        // The middle of a connection that is not known any more cannot be translated as its beginning was.
        guard packet.opensFlow || self.flows.isLive(inside, packet.destination, at: now),
            let port = self.port(for: inside, packet.destination, at: now)
        else { return .drop(.untranslatable) }
        self.flows.note(inside, packet.destination, packet, isOutbound: true, at: now)
        packet.source = TransportAddress(address, port)
        return .forward(packet)
    }

    /// From outside, to an outside address of the NAT.
    public mutating func inbound(_ packet: Packet, at now: NIODeadline) -> Verdict {
        var packet = packet
        if case .unreachable(let about) = packet.payload {
            let outside = Outside(
                transport: about.transport,
                family: about.source.address.family,
                port: about.source.port
            )
            guard
                let key = self.keys[outside]?.first(where: { self.flows.isLive($0.inside, about.destination, at: now) })
            else { return .drop(.filtered) }
            var told = about
            told.source = key.inside.endpoint
            packet.payload = .unreachable(told)
            packet.destination = TransportAddress(key.inside.endpoint.address, 0)
            return .forward(packet)
        }
        guard let transport = packet.transport else { return .drop(.filtered) }
        let outside = Outside(
            transport: transport,
            family: packet.destination.address.family,
            port: packet.destination.port
        )
        guard let key = self.mapping(of: outside, for: packet, at: now) else {
            guard self.behavior.unsolicitedSYN == .reset, transport == .tcp, packet.opensFlow,
                let reset = packet.refusal
            else { return .drop(.filtered) }
            return .reply(reset)
        }
        // What answers this packet leaves by the same port. If packets to its sender leave by another one already, this cannot be.
        let flow = Key(key.inside, packet.source, .addressAndPortDependent)
        if let port = self.ports[flow] ?? self.ports[Key(key.inside, packet.source, self.behavior.mapping)] {
            if port != outside.port {
                guard !self.flows.isLive(key.inside, packet.source, at: now) else { return .drop(.filtered) }
                self.remove(flow)
                self.insert(flow, outside)
            }
        } else {
            self.insert(flow, outside)
        }
        self.flows.note(key.inside, packet.source, packet, isOutbound: false, at: now)
        packet.destination = key.inside.endpoint
        return .forward(packet)
    }

    /// From inside to an outside address of the NAT: the packet comes back in with an outside source (RFC 4787 REQ-9).
    public mutating func hairpin(_ packet: Packet, at now: NIODeadline) -> Verdict {
        guard self.behavior.hairpinning else { return .drop(.untranslatable) }
        guard case .forward(let translated) = self.outbound(packet, at: now) else { return .drop(.untranslatable) }
        return self.inbound(translated, at: now)
    }

    /// Forgets all mappings, as a restart does.
    public mutating func reset() {
        self.ports = [:]
        self.keys = [:]
        self.flows = FlowTable(timeouts: self.behavior.timeouts, inboundRefresh: self.behavior.inboundRefresh)
    }

    // MARK: Mappings

    private func outsideAddress(_ family: IPFamily) -> IPAddress? {
        self.outsideAddresses.first { $0.family == family }
    }

    /// The mapping by which a packet from outside is let in.
    private func mapping(of outside: Outside, for packet: Packet, at now: NIODeadline) -> Key? {
        guard let keys = self.keys[outside] else { return nil }
        if let known = keys.first(where: {
            $0.covers(packet.source) && self.flows.isLive($0.inside, packet.source, at: now)
        }) {
            return known
        }
        guard packet.opensFlow else { return nil }
        return keys.first {
            self.isLive($0, at: now)
                && self.flows.permits(self.behavior.filtering, $0.inside, from: packet.source, at: now)
        }
    }

    private func isLive(_ key: Key, at now: NIODeadline) -> Bool {
        self.flows.remotes(of: key.inside, at: now).contains { key.covers($0) }
    }

    private mutating func port(
        for inside: FlowTable.Inside,
        _ remote: TransportAddress,
        at now: NIODeadline
    ) -> UInt16? {
        let flow = Key(inside, remote, .addressAndPortDependent)
        if let port = self.ports[flow], self.isLive(flow, at: now) { return port }
        let key = Key(inside, remote, self.behavior.mapping)
        if let port = self.ports[key] {
            if self.isLive(key, at: now) { return port }
            self.remove(key)
        }
        if self.ports.count >= self.behavior.maximumMappings { self.purge(at: now) }
        guard self.ports.count < self.behavior.maximumMappings else { return nil }
        guard let port = self.freePort(for: key, at: now) else { return nil }
        self.insert(key, Outside(transport: inside.transport, family: inside.endpoint.address.family, port: port))
        return port
    }

    private mutating func freePort(for key: Key, at now: NIODeadline) -> UInt16? {
        var port =
            switch self.behavior.ports {
            case .preserving: key.inside.endpoint.port
            case .sequential: Self.port(after: self.lastPort)
            case .random: UInt16.random(in: Self.firstPort...UInt16.max, using: &self.generator)
            }
        for _ in 0...UInt16.max {
            let outside = Outside(
                transport: key.inside.transport,
                family: key.inside.endpoint.address.family,
                port: port
            )
            if self.isFree(outside, for: key, at: now) {
                self.lastPort = port
                return port
            }
            port = Self.port(after: port)
        }
        return nil
    }

    private mutating func isFree(_ outside: Outside, for key: Key, at now: NIODeadline) -> Bool {
        for other in self.keys[outside] ?? [] {
            guard self.isLive(other, at: now) else {
                self.remove(other)
                continue
            }
            guard self.behavior.ports == .preserving else { return false }
            // One inside endpoint may have one port for all its remotes.
            if other.inside == key.inside { continue }
            guard let address = key.remoteAddress, let known = other.remoteAddress else { return false }
            if address == known, key.remotePort == other.remotePort { return false }
        }
        return true
    }

    private mutating func insert(_ key: Key, _ outside: Outside) {
        self.ports[key] = outside.port
        self.keys[outside, default: []].append(key)
    }

    private mutating func remove(_ key: Key) {
        guard let port = self.ports.removeValue(forKey: key) else { return }
        let outside = Outside(
            transport: key.inside.transport,
            family: key.inside.endpoint.address.family,
            port: port
        )
        let left = (self.keys[outside] ?? []).filter { $0 != key }
        self.keys[outside] = left.isEmpty ? nil : left
    }

    private mutating func purge(at now: NIODeadline) {
        self.flows.purge(at: now)
        for key in Array(self.ports.keys) where !self.isLive(key, at: now) { self.remove(key) }
    }

    private static func port(after port: UInt16) -> UInt16 { port == .max ? Self.firstPort : port + 1 }
}
