import MeshCore
import NIOCore
import NIOEmbedded
import Testing

@testable import LibP2PSecurity

@Suite struct PrivateNetworkTests {
    private static let header = PrivateNetwork.header

    private final class Recorder: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        var bytes: [UInt8] = []
        var errors: [any Error] = []
        var isInactive = false

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.bytes += self.unwrapInboundIn(data).readableBytesView
        }
        func errorCaught(context: ChannelHandlerContext, error: any Error) { self.errors.append(error) }
        func channelInactive(context: ChannelHandlerContext) { self.isInactive = true }

        var error: LibP2PSecurityError? { self.errors.first as? LibP2PSecurityError }
    }

    private static func side(_ psk: String?) throws -> (channel: EmbeddedChannel, recorder: Recorder) {
        let channel = EmbeddedChannel()
        channel.connect(to: try SocketAddress(ipAddress: "10.1.2.3", port: 20006), promise: nil)
        if let psk { try PrivateNetwork.add(to: channel, key: PreSharedKey(originalFileBytes: psk.utf8)) }
        let recorder = Recorder()
        try channel.pipeline.syncOperations.addHandler(recorder)
        return (channel, recorder)
    }

    /// Moves bytes both ways, cut into pieces of `size`, until there are none.
    private static func exchange(_ a: EmbeddedChannel, _ b: EmbeddedChannel, pieces size: Int = .max) throws {
        var moved = true
        while moved {
            moved = false
            for (from, to) in [(a, b), (b, a)] {
                while var bytes = try from.readOutbound(as: ByteBuffer.self) {
                    moved = true
                    while let piece = bytes.readSlice(length: min(size, bytes.readableBytes)), piece.readableBytes > 0 {
                        guard to.isActive else { break }
                        to.pipeline.fireChannelRead(piece)
                        to.pipeline.fireChannelReadComplete()
                    }
                }
                to.embeddedEventLoop.run()
            }
        }
    }

    private static func send(_ bytes: [UInt8], on channel: EmbeddedChannel) {
        channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: nil)
    }

    @Test(arguments: [1, 7, 24, 4096]) func bothWaysInPieces(_ size: Int) throws {
        let (a, atA) = try Self.side("secret")
        let (b, atB) = try Self.side("secret")
        let long = (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        Self.send(Self.header, on: a)
        Self.send(long, on: a)
        Self.send(Self.header + long.reversed(), on: b)
        try Self.exchange(a, b, pieces: size)
        #expect(atB.bytes == Self.header + long)
        #expect(atA.bytes == Self.header + long.reversed())
        #expect(atA.errors.isEmpty && atB.errors.isEmpty)
    }

    /// The nonce goes first and once; what follows is the keystream of NaCl's test stream3.
    @Test func theWire() throws {
        let channel = EmbeddedChannel()
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
        let key = try PreSharedKey(
            swarmKey: """
                /key/swarm/psk/1.0.0/
                /base16/
                1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389
                """
        )
        try channel.pipeline.syncOperations.addHandler(PrivateNetworkHandler(key: key, makeNonce: { nonce }))
        Self.send([UInt8](repeating: 0, count: 20), on: channel)
        Self.send([UInt8](repeating: 0, count: 12), on: channel)
        var wire: [UInt8] = []
        while let bytes = try channel.readOutbound(as: ByteBuffer.self) { wire += bytes.readableBytesView }
        #expect(wire == nonce + hex("eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"))
    }

    @Test(arguments: [1, 4096]) func anotherKeyIsNamedOnBothSides(_ size: Int) throws {
        let (a, atA) = try Self.side("secret")
        let (b, atB) = try Self.side("secret\n")
        Self.send(Self.header, on: a)
        try Self.exchange(a, b, pieces: size)
        for recorder in [atA, atB] {
            #expect(recorder.errors.count == 1)
            #expect(recorder.error?.code == .wrongPreSharedKey)
            #expect(recorder.error?.message.contains("10.1.2.3:20006") == true)
            #expect(recorder.bytes.isEmpty)
            #expect(recorder.isInactive)
        }
        let write = a.writeAndFlush(ByteBuffer(string: "x"))
        a.embeddedEventLoop.run()
        #expect(throws: (any Error).self) { try write.wait() }
    }

    @Test(arguments: [1, 4096]) func aPeerWithoutAKeyIsNamed(_ size: Int) throws {
        let (a, atA) = try Self.side("secret")
        let (b, atB) = try Self.side(nil)
        Self.send(Self.header, on: b)
        try Self.exchange(a, b, pieces: size)
        #expect(atA.error?.code == .wrongPreSharedKey)
        #expect(atA.error?.message.contains("no pre-shared key") == true)
        #expect(PrivateNetwork.looksEncrypted(atB.bytes))
    }

    @Test func aPeerThatLeavesWithoutAValidByte() throws {
        let (a, atA) = try Self.side("secret")
        Self.send(Self.header, on: a)
        a.pipeline.fireChannelInactive()
        #expect(atA.error?.code == .suspectedPreSharedKey)
        #expect(atA.error?.message.contains("closed before a valid header") == true)

        let (halfClosed, recorder) = try Self.side("secret")
        Self.send(Self.header, on: halfClosed)
        halfClosed.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        #expect(recorder.error?.code == .suspectedPreSharedKey)
        #expect(recorder.isInactive)
    }

    @Test func anEndIsNoErrorBeforeOurHeaderOrAfterTheirs() throws {
        let (silent, atSilent) = try Self.side("secret")
        silent.pipeline.fireChannelInactive()
        #expect(atSilent.errors.isEmpty)

        let (impatient, atImpatient) = try Self.side("secret")
        Self.send(Self.header, on: impatient)
        impatient.close(promise: nil)
        #expect(atImpatient.errors.isEmpty && atImpatient.isInactive)

        let (a, atA) = try Self.side("secret")
        let (b, _) = try Self.side("secret")
        Self.send(Self.header, on: a)
        Self.send(Self.header, on: b)
        try Self.exchange(a, b)
        a.pipeline.fireChannelInactive()
        #expect(atA.errors.isEmpty)
    }

    @Test func noncesDiffer() throws {
        let nonces = try (0..<2).map { _ in
            let (channel, _) = try Self.side("secret")
            Self.send(Self.header, on: channel)
            return try channel.readOutbound(as: ByteBuffer.self)?.getBytes(at: 0, length: 24)
        }
        #expect(nonces[0]?.count == 24)
        #expect(nonces[0] != nonces[1])
    }

    @Test func whatLooksEncrypted() {
        #expect(!PrivateNetwork.looksEncrypted([]))
        #expect(!PrivateNetwork.looksEncrypted(Self.header))
        #expect(!PrivateNetwork.looksEncrypted(Self.header[..<5]))
        #expect(!PrivateNetwork.looksEncrypted(Array("GET / HTTP/1.1\r\n\r\n".utf8)))
        #expect(!PrivateNetwork.looksEncrypted([0x16, 0x03, 0x01, 0x02, 0x00, 0x01]))
        #expect(PrivateNetwork.looksEncrypted(hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")))
    }

    /// A receiver never traps on what it is given, in whatever pieces.
    @Test func anyBytes() {
        let seed = UInt64.random(in: .min ... .max)
        var random = SeededGenerator(seed: seed)
        for _ in 0..<500 {
            var receiver = PrivateNetworkReceiver(key: PreSharedKey(originalFileBytes: []))
            for _ in 0..<5 {
                let count = Int.random(in: 0...40, using: &random)
                let bytes = ByteBuffer(bytes: (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) })
                _ = try? receiver.receive(bytes, allocator: ByteBufferAllocator())
            }
            #expect(!receiver.isOpen, "seed \(seed)")
        }
    }
}
