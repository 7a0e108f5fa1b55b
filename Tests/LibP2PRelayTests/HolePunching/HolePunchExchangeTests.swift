import LibP2P
import MeshCore
import Multiformats
import NIOCore
import Testing

@testable import LibP2PRelay

@Suite struct HolePunchExchangeTests {
    static let own = [addr("/ip4/1.2.3.4/tcp/4001")]
    static let theirs = [addr("/ip4/5.6.7.8/tcp/4002")]
    static let start = NIODeadline.uptimeNanoseconds(1_000_000_000)

    func exchange(_ role: HolePunchExchange.Role) -> HolePunchExchange {
        HolePunchExchange(role: role, ownAddresses: Self.own) { addresses in addresses.filter(\.isPublic) }
    }

    @Test func theInitiatorDialsHalfARoundTripAfterItsSync() throws {
        var exchange = self.exchange(.initiator)
        let first = exchange.start(now: Self.start)
        #expect(first == HolePunchMessage(kind: .connect, addresses: Self.own))
        let answer = HolePunchMessage(kind: .connect, addresses: Self.theirs + [addr("/ip4/10.0.0.1/tcp/1")])
        let reaction = try exchange.receive(answer, now: Self.start + .milliseconds(80))
        #expect(reaction.reply == HolePunchMessage(kind: .sync))
        #expect(
            reaction.punch
                == .init(addresses: Self.theirs, pause: .milliseconds(38), roundTripTime: .milliseconds(80))
        )
    }

    @Test func nearbyPeersAreDialledAtOnce() throws {
        var exchange = self.exchange(.initiator)
        _ = exchange.start(now: Self.start)
        let answer = HolePunchMessage(kind: .connect, addresses: Self.theirs)
        let reaction = try exchange.receive(answer, now: Self.start + .milliseconds(3))
        #expect(reaction.punch?.pause == .zero)
    }

    @Test func theResponderDialsWhenTheSyncComes() throws {
        var exchange = self.exchange(.responder)
        let first = try exchange.receive(HolePunchMessage(kind: .connect, addresses: Self.theirs), now: Self.start)
        #expect(first.reply == HolePunchMessage(kind: .connect, addresses: Self.own))
        #expect(first.punch == nil)
        let second = try exchange.receive(HolePunchMessage(kind: .sync), now: Self.start + .milliseconds(30))
        #expect(second.reply == nil)
        #expect(second.punch == .init(addresses: Self.theirs, pause: .zero, roundTripTime: .milliseconds(30)))
    }

    static let outOfTurn: [([HolePunchMessage], HolePunchExchange.Role)] = [
        ([HolePunchMessage(kind: .sync)], .initiator),
        ([HolePunchMessage(kind: .sync)], .responder),
        (Array(repeating: HolePunchMessage(kind: .connect, addresses: theirs), count: 2), .initiator),
        (Array(repeating: HolePunchMessage(kind: .connect, addresses: theirs), count: 2), .responder),
    ]

    @Test(arguments: outOfTurn) func messagesOutOfTurnEndTheExchange(
        _ messages: [HolePunchMessage],
        _ role: HolePunchExchange.Role
    ) throws {
        var exchange = self.exchange(role)
        if role == .initiator { _ = exchange.start(now: Self.start) }
        for message in messages.dropLast() { _ = try exchange.receive(message, now: Self.start) }
        let last = try #require(messages.last)
        #expect(throws: LibP2PRelayError.self) { try exchange.receive(last, now: Self.start) }
    }

    @Test(arguments: [HolePunchExchange.Role.initiator, .responder])
    func aPeerWithoutUsefulAddressesIsNotPunched(_ role: HolePunchExchange.Role) {
        var exchange = self.exchange(role)
        if role == .initiator { _ = exchange.start(now: Self.start) }
        let message = HolePunchMessage(kind: .connect, addresses: [addr("/ip4/10.0.0.1/tcp/1")])
        #expect(throws: LibP2PRelayError.self) { try exchange.receive(message, now: Self.start) }
    }
}

@Suite struct HolePunchMessageTests {
    /// CONNECT with /ip4/1.2.3.4/tcp/4001, as the schema of the specification encodes it.
    @Test func theWireFormIsThatOfTheSpecification() throws {
        let bytes: [UInt8] = [0x08, 0x64, 0x12, 0x08, 0x04, 1, 2, 3, 4, 0x06, 0x0F, 0xA1]
        let message = HolePunchMessage(kind: .connect, addresses: [addr("/ip4/1.2.3.4/tcp/4001")])
        #expect(Array(message.encoded.readableBytesView) == bytes)
        #expect(try HolePunchMessage(ByteBuffer(bytes: bytes)) == message)
        #expect(Array(HolePunchMessage(kind: .sync).encoded.readableBytesView) == [0x08, 0xAC, 0x02])
    }

    @Test func unknownAddressesAreLeftOut() throws {
        var writer = ProtobufWriter()
        writer.write(bytes: [0xFF, 0xFF, 0xFF], to: 2)
        writer.write(varint: 100, to: 1)
        writer.write(bytes: addr("/ip4/1.2.3.4/tcp/1").bytes, to: 2)
        writer.write(text: "unknown", to: 9)
        #expect(try HolePunchMessage(writer.buffer).addresses == [addr("/ip4/1.2.3.4/tcp/1")])
    }

    @Test(arguments: [[], [0x08, 0x01], [0x08], [0x12, 0x7F], [0x0B]] as [[UInt8]])
    func nonsenseIsRefused(_ bytes: [UInt8]) {
        #expect(throws: (any Error).self) { try HolePunchMessage(ByteBuffer(bytes: bytes)) }
    }

    @Test func randomBytesNeverTrap() {
        let seed = UInt64.random(in: .min ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<2000 {
            let bytes = (0..<Int.random(in: 0...64, using: &generator)).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
            _ = try? HolePunchMessage(ByteBuffer(bytes: bytes))
            _ = try? AutoNATMessage(ByteBuffer(bytes: bytes))
        }
    }
}

@Suite struct HolePunchAddressTests {
    @Test func publicAddressesComeFirstAndTheirNumberIsBounded() {
        let candidates = [
            "/ip4/10.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/1.2.3.4/tcp/0", "/ip4/1.2.3.4/tcp/7/ws",
            "/ip4/1.2.3.4/tcp/7/ws", "/ip6/2600::1/tcp/9", "/ip4/169.254.1.1/tcp/1",
            "/ip4/9.9.9.9/tcp/1/p2p/12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW/p2p-circuit",
        ].map(addr)
        #expect(
            HolePunchAddresses.choose(candidates, reaches: [.public, .private], maximum: 16)
                == ["/ip4/1.2.3.4/tcp/7/ws", "/ip6/2600::1/tcp/9", "/ip4/10.0.0.1/tcp/1"].map(addr)
        )
        #expect(
            HolePunchAddresses.choose(candidates, reaches: [.public], maximum: 1) == [addr("/ip4/1.2.3.4/tcp/7/ws")]
        )
        let many = (1...100).map { addr("/ip4/1.2.3.4/tcp/\($0)") }
        #expect(HolePunchAddresses.choose(many, reaches: [.public], maximum: 16).count == 16)
    }

    @Test(arguments: [
        ("github.com/kubeedge/edgemesh@(devel)", true), ("go-libp2p/0.28", true), ("kubo/0.30.0/", true),
        ("rust-libp2p/0.53", false), ("js-libp2p/1.0", false), ("edgemesh", false), ("", false),
        ("edgemesh/1.17", false),
    ])
    func goIsKnownByItsAgent(_ agent: String, _ isGo: Bool) {
        #expect(HolePunchConfiguration.isGo(Identification(agentVersion: agent)) == isGo)
    }
}
