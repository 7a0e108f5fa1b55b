import MeshCore
import Multiformats
import NIOCore
import NIOEmbedded
import PeerIdentity
import Testing

@testable import LibP2PSecurity

/// What every security protocol must do, whatever happens to the bytes between its ends.
@Suite struct SecurityConformanceTests {
    private static let alice = KeyPair.generate()
    private static let bob = KeyPair.generate()

    /// Both ends secured with identities of alice (initiator) and bob, before any byte is moved.
    private static func pair(_ kind: SecurityKind) throws -> SecurityPair {
        let pair = try SecurityPair()
        pair.secure(pair.initiator, try kind.make(self.alice), expecting: self.bob.peerID)
        pair.secure(pair.responder, try kind.make(self.bob))
        return pair
    }

    private static func connected(_ kind: SecurityKind) throws -> SecurityPair {
        let pair = try self.pair(kind)
        try pair.exchange()
        try #require(pair.initiator.peer != nil && pair.responder.peer != nil)
        return pair
    }

    @Test(arguments: SecurityKind.allCases, [1, 7, 1000, Int.max])
    func eachSideLearnsTheOther(_ kind: SecurityKind, pieces: Int) throws {
        let pair = try Self.pair(kind)
        pair.initiator.greeting = Array("from alice".utf8)
        pair.responder.greeting = Array("from bob".utf8)
        try pair.exchange(pieces: pieces)
        let name = try kind.make(Self.alice).protocolID
        for (end, other) in [(pair.initiator, Self.bob), (pair.responder, Self.alice)] {
            #expect(end.peer?.remotePeer == other.peerID)
            #expect(end.peer?.remoteKey == other.publicKey)
            #expect(end.peer?.earlyMuxer == "/yamux/1.0.0")
            #expect(end.peer?.protocolID == name)
            #expect(end.recorder.errors.isEmpty)
        }
        #expect(pair.responder.recorder.bytes == Array("from alice".utf8))
        #expect(pair.initiator.recorder.bytes == Array("from bob".utf8))
    }

    @Test(arguments: SecurityKind.allCases) func muxersAreAgreedOnOrLeftOpen(_ kind: SecurityKind) throws {
        let cases: [(initiator: [String], responder: [String], agreed: Set<String?>)] = [
            (["/a", "/b"], ["/c", "/b"], ["/b"]),
            (["/a"], ["/b"], [nil]),
            ([], ["/a"], [nil]),
            (["/a"], [], [nil]),
            // TLS lets the responder choose.
            (["/a", "/b"], ["/b", "/a"], kind == .tls ? ["/a", "/b"] : ["/a"]),
        ]
        for (initiator, responder, agreed) in cases {
            let pair = try SecurityPair()
            pair.secure(pair.initiator, try kind.make(Self.alice), muxers: initiator)
            pair.secure(pair.responder, try kind.make(Self.bob), muxers: responder)
            try pair.exchange()
            let muxer = try #require(pair.initiator.peer).earlyMuxer
            #expect(agreed.contains(muxer))
            #expect(try #require(pair.responder.peer).earlyMuxer == muxer)
        }
    }

    @Test(arguments: SecurityKind.allCases) func dataInAnySplits(_ kind: SecurityKind) throws {
        let seed = UInt64.random(in: .min ... .max)
        var random = SeededGenerator(seed: seed)
        for pieces in [1, 300, 70_000, .max] {
            let pair = try Self.connected(kind)
            let total = pieces == 1 ? 20_000 : 300_000
            let data = (0..<total).map { _ in UInt8.random(in: 0...255, using: &random) }
            for (from, to) in [(pair.initiator, pair.responder), (pair.responder, pair.initiator)] {
                var sent = 0
                while sent < total {
                    let count = Int.random(in: 0...[10, 1000, 50_000].randomElement(using: &random)!, using: &random)
                    let end = min(total, sent + count)
                    from.channel.write(ByteBuffer(bytes: data[sent..<end]), promise: nil)
                    sent = end
                    if Bool.random(using: &random) { from.channel.flush() }
                }
                from.channel.flush()
                try pair.exchange(pieces: pieces)
                #expect(to.recorder.bytes == data, "seed \(seed)")
                #expect(to.recorder.errors.isEmpty)
            }
        }
    }

    /// Every write's promise completes with its flush; those of writes that never go out fail.
    @Test(arguments: SecurityKind.allCases) func promisesOfWrites(_ kind: SecurityKind) throws {
        let pair = try Self.connected(kind)
        var done: [String] = []
        func write(_ name: String, _ count: Int) {
            pair.initiator.channel.write(ByteBuffer(repeating: 1, count: count)).assumeIsolated().whenComplete {
                if case .success = $0 { done.append(name) } else { done.append(name + " failed") }
            }
        }
        write("empty", 0)
        write("small", 5)
        write("record", 16_384)
        write("large", 100_000)
        write("last", 1)
        #expect(done.isEmpty || kind == .fake)
        pair.initiator.channel.flush()
        #expect(Set(done) == ["empty", "small", "record", "large", "last"])
        try pair.exchange()
        #expect(pair.responder.recorder.bytes.count == 116_390)
        done = []
        write("empty", 0)
        pair.initiator.channel.flush()
        #expect(done == ["empty"])
        done = []
        write("late", 5)
        pair.cut()
        #expect(done == ["late failed"] || kind == .fake)
    }

    @Test(arguments: SecurityKind.allCases) func anotherPeerThanDialled(_ kind: SecurityKind) throws {
        let stranger = KeyPair.generate().peerID
        let pair = try SecurityPair()
        pair.secure(pair.initiator, try kind.make(Self.alice), expecting: stranger)
        pair.secure(pair.responder, try kind.make(Self.bob))
        try pair.exchange()
        let error = try #require(pair.initiator.error)
        #expect(error.code == .wrongPeer)
        #expect(error.message.contains("\(stranger)") && error.message.contains("\(Self.bob.peerID)"))
        #expect(!pair.initiator.channel.isActive)
        // Of the three only the fake shows itself to a peer that it does not want.
        if kind != .fake { #expect(pair.responder.error != nil) }
        #expect(pair.responder.result != nil)
    }

    @Test(arguments: SecurityKind.allCases) func theFirstBytesMayHaveBeenReadAlready(_ kind: SecurityKind) throws {
        let pair = try SecurityPair()
        pair.secure(pair.initiator, try kind.make(Self.alice))
        let first = try #require(try pair.initiator.channel.readOutbound(as: ByteBuffer.self))
        pair.secure(pair.responder, try kind.make(Self.bob), received: first)
        try pair.exchange()
        #expect(pair.responder.peer?.remotePeer == Self.alice.peerID)
        #expect(pair.initiator.peer?.remotePeer == Self.bob.peerID)
    }

    /// The handshake is cut after every count of bytes to each side: it ends with a typed error or was done.
    @Test(arguments: SecurityKind.allCases) func truncatedAtEveryByte(_ kind: SecurityKind) throws {
        let securities = (try kind.make(Self.alice), try kind.make(Self.bob))
        func run(_ prepare: (SecurityPair) -> Void) throws -> SecurityPair {
            let pair = try SecurityPair()
            prepare(pair)
            pair.secure(pair.initiator, securities.0, expecting: Self.bob.peerID)
            pair.secure(pair.responder, securities.1)
            try pair.exchange()
            pair.cut()
            return pair
        }
        let whole = try run { _ in }
        for toInitiator in [true, false] {
            let total = whole.count(to: toInitiator ? whole.initiator : whole.responder)
            for limit in 0..<total {
                let pair = try run { pair in
                    pair.filter = { to, offset, bytes in
                        guard (to === pair.initiator) == toInitiator else { return bytes }
                        return bytes.getSlice(
                            at: bytes.readerIndex,
                            length: min(bytes.readableBytes, max(0, limit - offset))
                        )
                    }
                }
                Self.expectTypedResults(pair, "cut after \(limit) of \(total) bytes")
            }
        }
    }

    /// A bit of every byte of the handshake is changed.
    @Test(arguments: SecurityKind.allCases) func changedBits(_ kind: SecurityKind) throws {
        let seed = UInt64.random(in: .min ... .max)
        var random = SeededGenerator(seed: seed)
        let securities = (try kind.make(Self.alice), try kind.make(Self.bob))
        let whole = try Self.connected(kind)
        for toInitiator in [true, false] {
            for index in 0..<whole.count(to: toInitiator ? whole.initiator : whole.responder) {
                let bit = UInt8(1) << Int.random(in: 0..<8, using: &random)
                let pair = try SecurityPair()
                pair.filter = { to, offset, bytes in
                    var bytes = bytes
                    if (to === pair.initiator) == toInitiator, index >= offset, index < offset + bytes.readableBytes,
                        let byte = bytes.getInteger(at: bytes.readerIndex + index - offset, as: UInt8.self)
                    {
                        bytes.setInteger(byte ^ bit, at: bytes.readerIndex + index - offset)
                    }
                    return bytes
                }
                pair.secure(pair.initiator, securities.0, expecting: Self.bob.peerID)
                pair.secure(pair.responder, securities.1)
                try pair.exchange()
                pair.cut()
                Self.expectTypedResults(pair, "byte \(index), bit \(bit), seed \(seed)")
                // TLS does not look at some bits of its record headers, and a client is done before the server.
                if kind == .noise {
                    #expect(pair.initiator.peer == nil || pair.responder.peer == nil, "byte \(index), seed \(seed)")
                }
            }
        }
    }

    @Test(arguments: SecurityKind.allCases) func garbage(_ kind: SecurityKind) throws {
        let seed = UInt64.random(in: .min ... .max)
        var random = SeededGenerator(seed: seed)
        let security = try kind.make(Self.alice)
        for round in 0..<200 {
            let pair = try SecurityPair()
            let end = round.isMultiple(of: 2) ? pair.initiator : pair.responder
            pair.secure(end, security)
            let count = Int.random(in: 1...3000, using: &random)
            let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
            end.channel.pipeline.fireChannelRead(ByteBuffer(bytes: bytes))
            pair.cut()
            #expect(end.error != nil, "seed \(seed)")
        }
    }

    private static func expectTypedResults(_ pair: SecurityPair, _ comment: String) {
        for (end, other) in [(pair.initiator, self.bob), (pair.responder, self.alice)] {
            guard let result = end.result else {
                Issue.record("no result: \(comment)")
                continue
            }
            switch result {
            case .success(let peer): #expect(peer.remotePeer == other.peerID, "\(comment)")
            case .failure(let error): #expect(error is LibP2PSecurityError, "\(comment): \(error)")
            }
        }
    }

    /// After the handshake: what was changed is not passed on, and the connection ends with an error that says so.
    @Test(arguments: SecurityKind.allCases.filter(\.authenticates)) func changedData(_ kind: SecurityKind) throws {
        let pair = try Self.connected(kind)
        pair.filter = { _, _, bytes in
            var bytes = bytes
            let index = bytes.readerIndex + 40
            bytes.setInteger((bytes.getInteger(at: index, as: UInt8.self) ?? 0) ^ 4, at: index)
            return bytes
        }
        pair.initiator.send([UInt8](repeating: 7, count: 100))
        try pair.exchange()
        #expect(pair.responder.recorder.bytes.isEmpty)
        #expect(pair.responder.recorder.errors.first is LibP2PSecurityError)
        #expect(!pair.responder.channel.isActive)
    }

    @Test(arguments: SecurityKind.allCases.filter(\.authenticates)) func aCutInsideAFrame(_ kind: SecurityKind) throws {
        let pair = try Self.connected(kind)
        pair.filter = { _, _, bytes in bytes.getSlice(at: bytes.readerIndex, length: bytes.readableBytes - 1) }
        pair.initiator.send([UInt8](repeating: 7, count: 100))
        try pair.exchange()
        pair.responder.cut()
        #expect(pair.responder.recorder.bytes.isEmpty)
        #expect((pair.responder.recorder.errors.first as? LibP2PSecurityError)?.code == .closed)
    }

    /// The future completes however the connection ends.
    @Test(arguments: SecurityKind.allCases) func theFutureAlwaysCompletes(_ kind: SecurityKind) throws {
        let silent = try Self.pair(kind)
        silent.cut()
        #expect(silent.initiator.error?.code == .closed && silent.responder.error?.code == .closed)

        let closed = try Self.pair(kind)
        closed.initiator.channel.close(promise: nil)
        closed.responder.channel.close(promise: nil)
        #expect(closed.initiator.error?.code == .closed && closed.responder.error?.code == .closed)

        let failing = try Self.pair(kind)
        let reason = LibP2PSecurityError(code: .wrongPreSharedKey, message: "of the layer below")
        failing.initiator.channel.pipeline.fireErrorCaught(reason)
        #expect(failing.initiator.error?.code == .wrongPreSharedKey)

        let dead = try SecurityPair()
        dead.cut()
        dead.secure(dead.initiator, try kind.make(Self.alice))
        #expect(dead.initiator.error != nil)
    }
}
