import MeshCore
import Multiformats
import NIOCore
import PeerIdentity
import Synchronization
import Testing
import Yamux

@testable import LibP2P

/// Accounts, tags and what is remembered of peers: the parts without a network.
@Suite struct LimitTests {
    static let peer = KeyPair.generate().peerID
    static let other = KeyPair.generate().peerID
    static let address = Multiaddr([.ip4(IPv4Address(192, 0, 2, 1)), .tcp(1)])

    @Test func connectionsAreRefusedAtTheLimit() throws {
        var limits = ResourceLimits()
        limits.systemConnections = .init(inbound: 3, outbound: 1)
        limits.peerConnections = .init(inbound: 2, outbound: 1)
        var usage = ResourceUsage(limits: limits)
        for _ in 0..<3 { try usage.addConnection(.inbound, with: Self.address) }
        #expect(throws: LibP2PError.self) { try usage.addConnection(.inbound, with: Self.address) }
        try usage.addConnection(.outbound, with: Self.address)
        try usage.assignConnection(.inbound, to: Self.peer)
        try usage.assignConnection(.inbound, to: Self.peer)
        #expect(throws: LibP2PError.self) { try usage.assignConnection(.inbound, to: Self.peer) }
        try usage.assignConnection(.inbound, to: Self.other)
        usage.unassignConnection(.inbound, of: Self.peer)
        try usage.assignConnection(.inbound, to: Self.peer)
    }

    @Test func streamsAreRefusedAtEachLimit() throws {
        var limits = ResourceLimits()
        limits.systemStreams = .init(inbound: 4, outbound: 4)
        limits.peerStreams = .init(inbound: 3, outbound: 3)
        limits.negotiatingStreams = 2
        limits.protocols = ["/p": .init(inbound: 1, outbound: 2)]
        var usage = ResourceUsage(limits: limits)
        try usage.addStream(.inbound, peer: Self.peer)
        try usage.addStream(.inbound, peer: Self.peer)
        var error = #expect(throws: LibP2PError.self) { try usage.addStream(.inbound, peer: Self.peer) }
        #expect(error?.message.contains("negotiatingStreams") == true)
        try usage.assignStream(.inbound, peer: Self.peer, to: "/p")
        error = #expect(throws: LibP2PError.self) { try usage.assignStream(.inbound, peer: Self.peer, to: "/p") }
        #expect(error?.message.contains("protocolStreams") == true)
        try usage.assignStream(.inbound, peer: Self.peer, to: "/q")
        try usage.addStream(.inbound, peer: Self.peer)
        error = #expect(throws: LibP2PError.self) { try usage.addStream(.inbound, peer: Self.peer) }
        #expect(error?.message.contains("peerStreams") == true)
        try usage.addStream(.inbound, peer: Self.other)
        error = #expect(throws: LibP2PError.self) { try usage.addStream(.inbound, peer: Self.other) }
        #expect(error?.message.contains("systemStreams") == true)
        #expect(usage.streamsRefused == 4)

        usage.removeStream(.inbound, peer: Self.peer, protocolID: "/p")
        usage.removeStream(.inbound, peer: Self.peer, protocolID: "/q")
        usage.removeStream(.inbound, peer: Self.peer, protocolID: nil)
        usage.removeStream(.inbound, peer: Self.other, protocolID: nil)
        #expect(usage.scopeCount == 0)
        #expect(usage.memory == 0)
        #expect(usage.streams.isEmpty)
    }

    @Test func memoryIsABudget() throws {
        var limits = ResourceLimits()
        limits.memoryBytes = 100
        limits.bytesPerConnection = 40
        limits.bytesPerStream = 20
        var usage = ResourceUsage(limits: limits)
        try usage.addConnection(.inbound, with: Self.address)
        try usage.addConnection(.outbound, with: Self.address)
        try usage.addStream(.outbound, peer: Self.peer)
        #expect(throws: LibP2PError.self) { try usage.addStream(.outbound, peer: Self.peer) }
        #expect(throws: LibP2PError.self) { try usage.addConnection(.inbound, with: Self.address) }
        usage.removeConnection(.inbound, with: Self.address)
        try usage.addStream(.outbound, peer: Self.peer)
        #expect(usage.memory == 80)
    }

    @Test func noAddressTakesAllPlaces() throws {
        var admission = Admission(of: "tests", maximum: 4, perAddress: 2)
        let one = Self.address
        let circuit = try Multiaddr("\(Self.address)/p2p/\(Self.other)/p2p-circuit")
        let v6 = try ["/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8::2/tcp/1", "/ip6/2001:db8:0:1::1/tcp/1"].map {
            try Multiaddr($0)
        }
        for _ in 0..<2 { try admission.admit(one) }
        var error = #expect(throws: LibP2PError.self) { try admission.admit(one) }
        #expect(error?.message.contains("192.0.2.1") == true)
        try admission.admit(circuit)
        try admission.admit(v6[0])
        error = #expect(throws: LibP2PError.self) { try admission.admit(v6[2]) }
        #expect(error?.code == .limitExceeded)
        admission.leave(circuit)
        // Two addresses of one network are one.
        try admission.admit(v6[1])
        admission.leave(one)
        #expect(throws: LibP2PError.self) { try admission.admit(v6[1]) }
        for address in [one, v6[0], v6[1]] { admission.leave(address) }
        #expect(admission.count == 0)
        #expect(admission.addressCount == 0)
    }

    @Test func onePeerLeavesIdentifyToOthers() throws {
        var usage = ResourceUsage(limits: ResourceLimits())
        for _ in 0..<16 {
            try usage.addStream(.inbound, peer: Self.peer)
            try usage.assignStream(.inbound, peer: Self.peer, to: .identify)
        }
        try usage.addStream(.inbound, peer: Self.peer)
        let error = #expect(throws: LibP2PError.self) {
            try usage.assignStream(.inbound, peer: Self.peer, to: .identify)
        }
        #expect(error?.message.contains("protocolPeerStreams") == true)
        try usage.addStream(.inbound, peer: Self.other)
        try usage.assignStream(.inbound, peer: Self.other, to: .identify)
    }

    /// What is asked for fits all limits at once, with every peer behind one address and all the streams one protocol's.
    @Test(
        arguments: [
            HostCapacity(), HostCapacity(peers: 1000, streamsPerPeer: 15_000, streams: 40_000),
            HostCapacity(peers: 4, streamsPerPeer: 10, streams: 0),
        ]
    )
    func whatAHostIsToCarryFits(_ capacity: HostCapacity) throws {
        let configuration = HostConfiguration(capacity: capacity)
        var usage = ResourceUsage(limits: configuration.limits)
        for number in 0..<capacity.peers {
            let peer = try PeerID(bytes: [0x12, 0x20] + (0..<32).map { UInt8(truncatingIfNeeded: number >> $0) })
            try usage.addConnection(.inbound, with: Self.address)
            try usage.assignConnection(.inbound, to: peer)
        }
        let third = KeyPair.generate().peerID
        for stream in 0..<capacity.streams {
            let peer = stream < capacity.streamsPerPeer ? Self.peer : stream.isMultiple(of: 2) ? Self.other : third
            try usage.addStream(.outbound, peer: peer)
            try usage.assignStream(.outbound, peer: peer, to: "/tunnel")
        }
        // Room is left for strangers, and for what every connection needs.
        try usage.addConnection(.inbound, with: try Multiaddr("/ip4/198.51.100.1/tcp/1"))
        try usage.addStream(.outbound, peer: Self.peer)
        try usage.assignStream(.outbound, peer: Self.peer, to: .ping)
        #expect(configuration.connectionManager.highWater < configuration.limits.systemConnections.inbound)
        #expect(configuration.connectionManager.lowWater < configuration.connectionManager.highWater)
        #expect(configuration.yamux.maximumInboundStreams >= capacity.streamsPerPeer)
        #expect(configuration.yamux.maximumOutboundStreams >= capacity.streamsPerPeer)
        #expect(configuration.peerStore.maximumPeers >= 2 * capacity.peers)
        #expect(configuration.maximumInboundHandshakesPerAddress < configuration.maximumInboundHandshakes)
    }

    @Test func handlersBoundTheirProtocols() throws {
        var limits = ResourceLimits()
        limits.peerProtocols["/named"] = .init(inbound: 3, outbound: 3)
        var usage = ResourceUsage(limits: limits)
        usage.bound("/few", to: .init(streams: 3, perPeer: 2))
        usage.bound("/named", to: .init(streams: 100, perPeer: 2))
        func open(_ peer: PeerID, _ protocolID: ProtocolID, _ direction: Direction = .inbound) throws {
            try usage.addStream(direction, peer: peer)
            try usage.assignStream(direction, peer: peer, to: protocolID)
        }
        for _ in 0..<2 { try open(Self.peer, "/few") }
        var error = #expect(throws: LibP2PError.self) { try open(Self.peer, "/few") }
        #expect(error?.message.contains("protocolPeerStreams") == true)
        try open(Self.other, "/few")
        error = #expect(throws: LibP2PError.self) { try open(Self.other, "/few") }
        #expect(error?.message.contains("protocolStreams") == true)
        for _ in 0..<10 { try open(Self.peer, "/few", .outbound) }
        // The configuration has the last word.
        for _ in 0..<3 { try open(Self.peer, "/named") }
        #expect(throws: LibP2PError.self) { try open(Self.peer, "/named") }
        usage.bound("/few", to: nil)
        try open(Self.peer, "/few")
    }

    // MARK: Connection manager

    private static func candidate(
        _ id: UInt64,
        _ peer: PeerID = KeyPair.generate().peerID,
        age: TimeAmount = .hours(1),
        streams: Int = 0
    ) -> ConnectionManager.Candidate {
        let now = NIODeadline.uptimeNanoseconds(10_000_000_000_000)
        return ConnectionManager.Candidate(id: id, peer: peer, opened: now - age, streams: streams)
    }

    private static let now = NIODeadline.uptimeNanoseconds(10_000_000_000_000)

    private static func manager(low: Int, high: Int) -> ConnectionManager {
        var configuration = ConnectionManager.Configuration()
        configuration.lowWater = low
        configuration.highWater = high
        return ConnectionManager(configuration: configuration)
    }

    @Test func theLeastValuedIdleConnectionsAreSurplus() {
        let manager = Self.manager(low: 2, high: 4)
        manager.tag(Self.peer, "a", value: 5)
        manager.tag(Self.peer, "b", value: 6)
        manager.tag(Self.other, "a", value: 7)
        manager.protect(Self.other, "relay")
        #expect(manager.value(of: Self.peer) == 11)
        let connections = [
            Self.candidate(1), Self.candidate(2, Self.peer), Self.candidate(3, age: .hours(2)),
            Self.candidate(4, streams: 1), Self.candidate(5, age: .seconds(59)), Self.candidate(6, Self.other),
        ]
        #expect(manager.surplus(of: connections, now: Self.now) == [3, 1, 2])
        #expect(manager.surplus(of: Array(connections.prefix(4)), now: Self.now).isEmpty)
        #expect(manager.surplus(of: Array(connections.prefix(5)), now: Self.now) == [3, 1, 2])
        manager.protect(Self.other, "tunnel")
        #expect(manager.unprotect(Self.other, "relay"))
        #expect(!manager.unprotect(Self.other, "tunnel"))
        #expect(manager.surplus(of: connections, now: Self.now) == [3, 1, 6, 2])
        manager.untag(Self.peer, "a")
        #expect(manager.value(of: Self.peer) == 6)
    }

    @Test func tagsAndProtectionsAreBounded() {
        var configuration = ConnectionManager.Configuration()
        configuration.maximumPeers = 1
        let manager = ConnectionManager(configuration: configuration)
        #expect(manager.protect(Self.peer, "a"))
        #expect(!manager.protect(Self.other, "a"))
        manager.tag(Self.peer, "a", value: 1)
        manager.tag(Self.other, "a", value: 1)
        #expect(manager.value(of: Self.other) == 0)
    }

    // MARK: Peer store

    final class Clock: Sendable {
        private let time = Mutex(NIODeadline.uptimeNanoseconds(0))
        var now: NIODeadline { self.time.withLock { $0 } }
        func advance(_ amount: TimeAmount) { self.time.withLock { $0 = $0 + amount } }
    }

    @Test func addressesEndWithTheirTime() throws {
        let clock = Clock()
        let store = PeerStore(now: { clock.now })
        let first = try Multiaddr("/ip4/192.0.2.1/tcp/1")
        let second = try Multiaddr("/ip4/192.0.2.2/tcp/1/p2p/\(Self.peer)")
        let foreign = try Multiaddr("/ip4/192.0.2.3/tcp/1/p2p/\(Self.other)")
        store.add([first], to: Self.peer, lifetime: .permanent)
        store.add([second, foreign], to: Self.peer, lifetime: .limited(.seconds(10)))
        #expect(store.addresses(of: Self.peer) == [first, second.withoutPeerID])
        store.add([second], to: Self.peer, lifetime: .limited(.seconds(5)))
        clock.advance(.seconds(9))
        #expect(store.addresses(of: Self.peer).count == 2)
        clock.advance(.seconds(1))
        #expect(store.addresses(of: Self.peer) == [first])
        store.replace([foreign.withoutPeerID], of: Self.peer, lifetime: .identified)
        store.replace([second], of: Self.peer, lifetime: .identified)
        #expect(store.addresses(of: Self.peer) == [first, second.withoutPeerID])
        store.removeAddresses(of: Self.peer)
        #expect(store.addresses(of: Self.peer).isEmpty)
    }

    @Test func theStoreIsBoundedAndKeepsTheConnected() throws {
        let clock = Clock()
        var configuration = PeerStore.Configuration()
        configuration.maximumPeers = 3
        configuration.maximumAddressesPerPeer = 2
        let store = PeerStore(configuration: configuration, now: { clock.now })
        let addresses = try (1...3).map { try Multiaddr("/ip4/192.0.2.\($0)/tcp/1") }
        store.add(addresses, to: Self.peer, lifetime: .identified)
        #expect(store.addresses(of: Self.peer) == Array(addresses.dropFirst()))
        store.countConnection(1, of: Self.peer)
        for _ in 0..<10 {
            clock.advance(.seconds(1))
            store.add(addresses, to: KeyPair.generate().peerID, lifetime: .identified)
        }
        #expect(store.count == 3)
        #expect(store.peers.contains(Self.peer))
    }

    /// A relay's address is not driven out by peers that nobody has asked for.
    @Test func permanentAddressesStay() throws {
        let clock = Clock()
        var configuration = PeerStore.Configuration()
        configuration.maximumPeers = 3
        let store = PeerStore(configuration: configuration, now: { clock.now })
        store.add([Self.address], to: Self.peer, lifetime: .permanent)
        for _ in 0..<10 {
            clock.advance(.seconds(1))
            store.add([Self.address], to: KeyPair.generate().peerID, lifetime: .found)
        }
        #expect(store.count == 3)
        #expect(store.addresses(of: Self.peer) == [Self.address])
    }

    /// A node whose clock was set back returns with lower numbers.
    @Test func whatAPeerToldEndsWithItsLastConnection() throws {
        let clock = Clock()
        let store = PeerStore(now: { clock.now })
        store.countConnection(1, of: Self.peer)
        store.countConnection(1, of: Self.peer)
        #expect(store.record(Identification(agentVersion: "first"), of: Self.peer, recordSequence: 5))
        store.add([Self.address], to: Self.peer, lifetime: .identified)
        store.countConnection(-1, of: Self.peer)
        #expect(store.identification(of: Self.peer) != nil)
        store.countConnection(-1, of: Self.peer)
        #expect(store.identification(of: Self.peer) == nil)
        #expect(store.addresses(of: Self.peer) == [Self.address])
        #expect(store.record(Identification(agentVersion: "again"), of: Self.peer, recordSequence: 1))
    }

    @Test func anOlderRecordDoesNotReplaceANewerOne() {
        let clock = Clock()
        let store = PeerStore(now: { clock.now })
        #expect(store.record(Identification(agentVersion: "new"), of: Self.peer, recordSequence: 5))
        #expect(!store.record(Identification(agentVersion: "old"), of: Self.peer, recordSequence: 4))
        #expect(store.record(Identification(agentVersion: "again"), of: Self.peer, recordSequence: 5))
        #expect(store.identification(of: Self.peer)?.agentVersion == "again")
    }
}
