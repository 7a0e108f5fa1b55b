import LibP2P
import Multiformats
import NIOCore
import Testing

@testable import LibP2PRelay

@Suite struct ReachabilityTrackerTests {
    typealias Outcome = ReachabilityTracker.Outcome

    static let table: [([Outcome], Reachability, Int)] = [
        ([], .unknown, 0),
        ([.reachable], .publiclyReachable, 0),
        ([.unreachable], .behindNAT, 0),
        ([.noAnswer, .noAnswer], .unknown, 0),
        ([.reachable, .reachable, .reachable, .reachable, .reachable], .publiclyReachable, 3),
        // A failure or two do not shake what many have confirmed.
        ([.reachable, .reachable, .reachable, .unreachable], .publiclyReachable, 1),
        ([.reachable, .reachable, .unreachable, .unreachable], .behindNAT, 0),
        // One success is proof.
        ([.unreachable, .unreachable, .unreachable, .unreachable, .reachable], .publiclyReachable, 0),
        ([.reachable, .reachable, .noAnswer, .noAnswer, .noAnswer], .publiclyReachable, 1),
    ]

    @Test(arguments: table) func answersAreWeighed(_ outcomes: [Outcome], _ status: Reachability, _ confidence: Int) {
        var tracker = ReachabilityTracker(retry: .seconds(90), refresh: .minutes(15))
        var seen = [tracker.status]
        for outcome in outcomes {
            let changed = tracker.record(outcome)
            #expect(changed == (tracker.status != seen.last))
            seen.append(tracker.status)
        }
        #expect(tracker.status == status)
        #expect(tracker.confidence == confidence)
    }

    @Test func questionsComeOftenUntilTheAnswerIsCertain() {
        let start = NIODeadline.uptimeNanoseconds(1_000)
        var tracker = ReachabilityTracker(retry: .seconds(90), refresh: .minutes(15))
        #expect(tracker.nextProbe == nil)
        tracker.asked(now: start)
        #expect(tracker.nextProbe == start + .seconds(90))
        for _ in 0..<4 { _ = tracker.record(.reachable) }
        #expect(tracker.nextProbe == start + .minutes(15))
        tracker.acceptedConnection(now: start + .seconds(1))
        #expect(tracker.nextProbe == start + .minutes(30))
        tracker.addressesChanged()
        #expect(tracker.nextProbe == start + .seconds(90))
    }

    @Test func anInboundConnectionMakesAHiddenHostAskSooner() {
        let start = NIODeadline.uptimeNanoseconds(1_000)
        var tracker = ReachabilityTracker(retry: .seconds(90), refresh: .minutes(15))
        tracker.asked(now: start)
        for _ in 0..<4 { _ = tracker.record(.unreachable) }
        tracker.acceptedConnection(now: start + .seconds(1))
        #expect(tracker.nextProbe == start + .minutes(3))
    }
}

@Suite struct DialBackPolicyTests {
    static let start = NIODeadline.uptimeNanoseconds(0)
    static let peers = (0..<20).map { _ in PeerID.random }

    @Test func onlyTheObservedAddressIsDialled() {
        let told = [
            "/ip4/8.8.8.8/tcp/1", "/ip4/10.0.0.1/tcp/2/ws", "/dns4/victim.example/tcp/3", "/ip6/2600::1/tcp/4",
            "/ip4/8.8.8.8/tcp/0",
            "/ip4/8.8.8.8/tcp/5/p2p/12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW/p2p-circuit",
        ].map(addr)
        let addresses = DialBackPolicy.addresses(
            told,
            observed: addr("/ip4/1.2.3.4/tcp/999"),
            own: [addr("/ip4/9.9.9.9/tcp/1")],
            configuration: AutoNATServerConfiguration()
        )
        #expect(
            addresses
                == ["/ip4/1.2.3.4/tcp/999", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2/ws", "/ip4/1.2.3.4/tcp/4"].map(
                    addr
                )
        )
        #expect(addresses?.allSatisfy { $0.ipAddress == addr("/ip4/1.2.3.4/tcp/999").ipAddress } == true)
    }

    @Test(arguments: ["/ip4/10.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/9.9.9.9/tcp/1", "/ip6/fe80::1/tcp/1"])
    func peersAtPrivateAddressesOrThisHostsOwnAreNotServed(_ observed: String) {
        let addresses = DialBackPolicy.addresses(
            [],
            observed: addr(observed),
            own: [addr("/ip4/9.9.9.9/tcp/4001")],
            configuration: AutoNATServerConfiguration()
        )
        #expect(addresses == nil)
    }

    @Test func theNumberOfAddressesIsBounded() {
        let told = (1...200).map { addr("/ip4/1.2.3.4/tcp/\($0)") }
        let addresses = DialBackPolicy.addresses(
            told,
            observed: addr("/ip4/1.2.3.4/tcp/999"),
            own: [],
            configuration: AutoNATServerConfiguration()
        )
        #expect(addresses?.count == 16)
    }

    @Test func aPeerHasItsShareAndNoMore() {
        var policy = DialBackPolicy(configuration: AutoNATServerConfiguration(), now: Self.start)
        let admitted = (0..<10).filter { _ in policy.admit(Self.peers[0], now: Self.start) }
        #expect(admitted.count == 3)
        let other = policy.admit(Self.peers[1], now: Self.start)
        let tooSoon = policy.admit(Self.peers[0], now: Self.start + .seconds(19))
        let later = policy.admit(Self.peers[0], now: Self.start + .seconds(41))
        #expect([other, tooSoon, later] == [true, false, true])
    }

    @Test func allPeersTogetherAreBoundedToo() {
        var configuration = AutoNATServerConfiguration()
        configuration.dialsPerMinute = 5
        var policy = DialBackPolicy(configuration: configuration, now: Self.start)
        let admitted = Self.peers.filter { policy.admit($0, now: Self.start) }
        #expect(admitted.count == 5)
    }

    @Test func theTableOfPeersIsBounded() {
        var configuration = AutoNATServerConfiguration()
        configuration.maximumPeers = 4
        var policy = DialBackPolicy(configuration: configuration, now: Self.start)
        let admitted = Self.peers.filter { policy.admit($0, now: Self.start) }
        #expect(admitted.count == 4)
        // A minute later their shares are whole again and need not be remembered.
        let later = policy.admit(Self.peers[10], now: Self.start + .minutes(2))
        #expect(later)
    }
}

@Suite struct AutoNATMessageTests {
    static let peer = PeerID.random
    static let messages: [AutoNATMessage] = [
        .dial(peer: peer, addresses: [addr("/ip4/1.2.3.4/tcp/1"), addr("/ip6/2600::1/tcp/2/ws")]),
        .dial(peer: nil, addresses: []),
        .response(.init(status: .ok, address: addr("/ip4/1.2.3.4/tcp/1"))),
        .response(.init(status: .dialError, text: "no")),
    ]

    @Test(arguments: messages) func messagesComeBackAsTheyWere(_ message: AutoNATMessage) throws {
        #expect(try AutoNATMessage(message.encoded) == message)
    }

    /// As go-libp2p writes "E_DIAL_ERROR" with its text: type 1, response {status 100, text "dial failed"}.
    @Test func aResponseOfGoIsRead() throws {
        let bytes: [UInt8] = [0x08, 1, 0x1A, 15, 0x08, 100, 0x12, 11] + Array("dial failed".utf8)
        #expect(
            try AutoNATMessage(ByteBuffer(bytes: bytes)) == .response(.init(status: .dialError, text: "dial failed"))
        )
    }

    @Test(
        arguments: [[], [0x08, 0x00], [0x08, 0x01], [0x08, 0x07], [0x12, 0x00], [0x08, 0, 0x12, 9]] as [[UInt8]]
    )
    func nonsenseIsRefused(_ bytes: [UInt8]) {
        #expect(throws: (any Error).self) { try AutoNATMessage(ByteBuffer(bytes: bytes)) }
    }
}

@Suite struct AutoNATv2MessageTests {
    static let messages: [AutoNATv2Message] = [
        .dialRequest(addresses: [addr("/ip4/1.2.3.4/tcp/1"), nil, addr("/ip6/2600::1/tcp/2")], nonce: .max),
        .dialRequest(addresses: [], nonce: 0),
        .dialResponse(status: .ok, index: 3, dialStatus: .dialBackError),
        .dialDataRequest(index: 1, bytes: 40_000),
        .dialDataResponse(ByteBuffer(repeating: 0, count: 4096)),
    ]

    @Test(arguments: messages) func messagesComeBackAsTheyWere(_ message: AutoNATv2Message) throws {
        #expect(try AutoNATv2Message(message.encoded) == message)
        #expect(message.encoded.readableBytes <= AutoNATv2Message.maximumLength)
    }

    /// A DialRequest as the schema of the specification encodes it: the nonce is a fixed64.
    @Test func theWireFormIsThatOfTheSpecification() {
        let message = AutoNATv2Message.dialRequest(addresses: [addr("/ip4/1.2.3.4/tcp/1")], nonce: 0x0102)
        let bytes: [UInt8] = [0x0A, 19, 0x0A, 8, 4, 1, 2, 3, 4, 6, 0, 1, 0x11, 2, 1, 0, 0, 0, 0, 0, 0]
        #expect(Array(message.encoded.readableBytesView) == bytes)
        let nonce = AutoNATv2DialBack.encode(nonce: 7)
        #expect(Array(nonce.readableBytesView) == [0x09, 7, 0, 0, 0, 0, 0, 0, 0])
    }

    @Test func whatIsNotKnownSaysNothing() throws {
        let bytes: [UInt8] = [0x12, 6, 0x08, 77, 0x18, 0xFF, 0xFF, 0x03]
        #expect(
            try AutoNATv2Message(ByteBuffer(bytes: bytes))
                == .dialResponse(status: .internalError, index: 0, dialStatus: .unused)
        )
    }

    @Test(arguments: [[], [0x0A], [0x0A, 2, 0x08, 1], [0x2A, 0]] as [[UInt8]])
    func nonsenseIsRefused(_ bytes: [UInt8]) {
        #expect(throws: (any Error).self) { try AutoNATv2Message(ByteBuffer(bytes: bytes)) }
    }

    @Test func addressesBeyondTheBoundAreNotRead() throws {
        let many = AutoNATv2Message.dialRequest(
            addresses: Array(repeating: addr("/ip4/1.2.3.4/tcp/1"), count: 200),
            nonce: 1
        )
        guard case .dialRequest(let addresses, 1) = try AutoNATv2Message(many.encoded) else {
            Issue.record("another message")
            return
        }
        #expect(addresses.count == 50)
    }
}
