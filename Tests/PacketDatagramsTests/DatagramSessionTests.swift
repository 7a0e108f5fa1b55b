import Crypto
import MeshCore
import Multiformats
import NIOCore
import Testing

@testable import PacketDatagrams

@Suite struct DatagramSessionTests {
    /// Both ends of a session, and who each believes to take part.
    private static func pair(
        prefersAES: Bool,
        _ parties: [DatagramParties] = [.sample, .sample]
    ) throws -> (DatagramSession, DatagramSession) {
        let opener = DatagramExchange(index: 7, addresses: [], prefersAES: prefersAES)
        let acceptor = DatagramExchange(index: 9, addresses: [], prefersAES: prefersAES, answering: opener.hello)
        let (asked, answer) = (opener.hello.buffer, acceptor.hello.buffer)
        return (
            try opener.session(.opener, of: parties[0], asked: asked, answer: answer, remote: DatagramHello(answer)),
            try acceptor.session(.acceptor, of: parties[1], asked: asked, answer: answer, remote: DatagramHello(asked))
        )
    }

    private static func seal(_ session: inout DatagramSession, _ text: String) throws -> [UInt8] {
        var datagram = ByteBuffer()
        try Array(text.utf8).withUnsafeBytes { try session.seal(.packet, $0, into: &datagram) }
        return Array(datagram.readableBytesView)
    }

    private static func open(_ session: inout DatagramSession, _ datagram: [UInt8]) throws -> String {
        var plain = ByteBuffer()
        let kind = try datagram.withUnsafeBytes { try session.open($0, into: &plain) }
        #expect(kind == .packet)
        return String(buffer: plain)
    }

    @Test("what one side seals the other opens, once, and in any order", arguments: [true, false])
    func roundTrip(prefersAES: Bool) throws {
        var (one, two) = try Self.pair(prefersAES: prefersAES)
        #expect(one.usesAES == prefersAES && two.usesAES == prefersAES)
        let datagrams = try ["a", "bc", ""].map { try Self.seal(&one, $0) }
        #expect(datagrams.map(\.count) == [33, 34, 32])
        #expect(datagrams[1].prefix(16) == [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1])
        #expect(DatagramSession.index(of: ByteBuffer(bytes: datagrams[0])) == 9)
        #expect(try Self.open(&two, datagrams[2]) == "" && Self.open(&two, datagrams[0]) == "a")
        #expect(throws: DatagramError(.replayed)) { try Self.open(&two, datagrams[0]) }
        #expect(try Self.open(&two, datagrams[1]) == "bc")
        #expect(try Self.open(&one, try Self.seal(&two, "back")) == "back")
        // Each side has a key of its own.
        #expect(throws: DatagramError.self) { try Self.open(&one, try Self.seal(&one, "own")) }
    }

    @Test("no byte of a datagram can be changed, and none be cut off", arguments: [true, false])
    func tampering(prefersAES: Bool) throws {
        var (one, two) = try Self.pair(prefersAES: prefersAES)
        let datagram = try Self.seal(&one, "packet")
        for index in datagram.indices {
            var changed = datagram
            changed[index] ^= 1
            #expect(throws: DatagramError.self, "byte \(index)") { try Self.open(&two, changed) }
            #expect(throws: DatagramError.self, "length \(index)") { try Self.open(&two, Array(datagram[..<index])) }
        }
        #expect(throws: DatagramError.self) { try Self.open(&two, datagram + [0]) }
        #expect(try Self.open(&two, datagram) == "packet", "what was forged has used up no counter")
    }

    @Test("a key is given up in time")
    func exhaustion() throws {
        let cipher = DatagramCipher(usesAES: true, key: .init(size: .bits256))
        var session = DatagramSession(
            ownIndex: 1,
            peerIndex: 2,
            sealing: cipher,
            opening: cipher,
            sent: DatagramSession.maximumDatagrams - 1
        )
        _ = try Self.seal(&session, "the last")
        #expect(throws: DatagramError(.exhausted)) { try Self.seal(&session, "one more") }
    }

    @Test("a hello reads back, and what is none is refused")
    func hello() throws {
        let addresses = ["10.0.0.1:1", "[fd00::1]:65535"].compactMap { TransportAddress($0) }
        for answered in [nil, 3] as [UInt32?] {
            let hello = DatagramHello(
                key: [UInt8](repeating: 5, count: 32),
                index: .max,
                addresses: addresses,
                prefersAES: true,
                answered: answered
            )
            #expect(try DatagramHello(hello.buffer) == hello && hello.addresses == addresses)
        }
        let good = DatagramHello(key: [UInt8](repeating: 5, count: 32), index: 1, addresses: [], prefersAES: false)
        var bad: [DatagramHello] = [good, good]
        bad[0].key.removeLast()
        bad[1].index = 0
        for hello in bad { #expect(throws: MultiformatsError.self) { try DatagramHello(hello.buffer) } }
        for address in [[], [1, 2, 3, 4, 5], [1, 2, 3, 4, 0, 0], [UInt8](repeating: 1, count: 17)] as [[UInt8]] {
            var writer = ProtobufWriter(good.buffer)
            writer.write(bytes: address, to: 3)
            #expect(throws: MultiformatsError.self, "\(address)") { try DatagramHello(writer.buffer) }
        }
        var many = good
        many.addresses = (1...40).map { TransportAddress(.v4(.loopback), $0) }
        #expect(try DatagramHello(many.buffer).addresses.count == DatagramHello.maximumAddresses)
    }

    @Test("a key of small order makes no session")
    func smallOrder() throws {
        let opener = DatagramExchange(index: 7, addresses: [], prefersAES: true)
        let answer = DatagramHello(
            key: [UInt8](repeating: 0, count: 32),
            index: 1,
            addresses: [],
            prefersAES: true,
            answered: 7
        )
        #expect(throws: DatagramError(.badKey)) {
            try opener.session(
                .opener,
                of: .sample,
                asked: opener.hello.buffer,
                answer: answer.buffer,
                remote: answer
            )
        }
    }

    @Test("who passes the hellos of two others on as its own gets nothing by it")
    func partiesOfASession() throws {
        let middle = Array("three".utf8)
        let parties = [
            DatagramParties(opener: DatagramParties.sample.opener, acceptor: middle),
            DatagramParties(opener: middle, acceptor: DatagramParties.sample.acceptor),
        ]
        var (one, two) = try Self.pair(prefersAES: true, parties)
        let datagram = try Self.seal(&one, "for the one in the middle")
        #expect(throws: DatagramError(.forged)) { try Self.open(&two, datagram) }
    }

    // MARK: Replay

    @Test("the window takes each counter once", arguments: [1, 2, 3] as [UInt64])
    func window(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var window = ReplayWindow()
        var seen: Set<UInt64> = []
        var highest: UInt64 = 0
        for _ in 0..<50_000 {
            let spread = UInt64.random(in: 0...5000, using: &generator)
            let jump = Int.random(in: 0..<500, using: &generator) == 0 ? UInt64(20_000) : 3
            let counter = highest + UInt64.random(in: 0...jump, using: &generator) &- min(spread, highest)
            let isRecent = seen.isEmpty || counter > highest || highest - counter < ReplayWindow.size
            #expect(window.admits(counter) == (isRecent && !seen.contains(counter)), "\(counter) at \(highest)")
            guard window.admits(counter) else { continue }
            window.insert(counter)
            seen.insert(counter)
            highest = max(highest, counter)
        }
    }

    @Test("the ends of the window and of the counters")
    func windowEnds() {
        var window = ReplayWindow()
        #expect(!window.admits(.max))
        window.insert(0)
        #expect(!window.admits(0) && window.admits(1))
        window.insert(ReplayWindow.size)
        #expect(!window.admits(0) && window.admits(1) && !window.admits(ReplayWindow.size))
        window.insert(ReplayWindow.last)
        #expect(!window.admits(ReplayWindow.last) && window.admits(ReplayWindow.last - 1))
        #expect(!window.admits(ReplayWindow.last - ReplayWindow.size))
        #expect(window.admits(ReplayWindow.last - ReplayWindow.size + 1))
    }
}
