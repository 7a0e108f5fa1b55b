import Multiformats
import NIOCore
import NIOEmbedded
import PeerIdentity

@testable import LibP2PSecurity

/// What every security protocol is tested with.
enum SecurityKind: CaseIterable, Sendable {
    case noise
    case tls
    case fake

    func make(_ identity: KeyPair) throws -> any SecurityProtocol {
        switch self {
        case .noise: try NoiseSecurity(identity: identity)
        case .tls: try TLSSecurity(identity: identity)
        case .fake: FakeSecurity(identity: identity)
        }
    }

    /// Bytes that are changed on the way are noticed, also after the handshake.
    var authenticates: Bool { self != .fake }
}

/// What came out of a secured connection.
final class EndRecorder: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    var bytes: [UInt8] = []
    var errors: [any Error] = []

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.bytes += self.unwrapInboundIn(data).readableBytesView
    }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.errors.append(error) }
}

/// Two ends of a connection on one embedded loop, secured with one protocol, and the transport between them.
final class SecurityPair {
    final class End {
        let channel: EmbeddedChannel
        let recorder = EndRecorder()
        var result: Result<SecuredPeer, any Error>?
        /// Written at the moment when the handshake completes.
        var greeting: [UInt8] = []

        init(_ loop: EmbeddedEventLoop) { self.channel = EmbeddedChannel(loop: loop) }

        var peer: SecuredPeer? { try? self.result?.get() }
        var error: LibP2PSecurityError? {
            if case .failure(let error) = self.result { error as? LibP2PSecurityError } else { nil }
        }

        func send(_ bytes: [UInt8]) { self.channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: nil) }

        /// As if the other side had closed.
        func cut() {
            guard self.channel.isActive else { return }
            self.channel._channelCore.close0(error: ChannelError.eof, mode: .all, promise: nil)
            self.channel.embeddedEventLoop.run()
        }
    }

    let loop = EmbeddedEventLoop()
    let initiator: End
    let responder: End
    /// Changes or withholds what goes to an end, given the bytes that went to it before.
    var filter: (_ to: End, _ offset: Int, _ bytes: ByteBuffer) -> ByteBuffer? = { $2 }
    private var offsets: [ObjectIdentifier: Int] = [:]

    init() throws {
        self.initiator = End(self.loop)
        self.responder = End(self.loop)
        for end in [self.initiator, self.responder] {
            end.channel.connect(to: try SocketAddress(ipAddress: "10.1.2.3", port: 20006), promise: nil)
        }
    }

    func secure(
        _ end: End,
        _ security: any SecurityProtocol,
        expecting peer: PeerID? = nil,
        muxers: [String] = ["/yamux/1.0.0"],
        received: ByteBuffer? = nil
    ) {
        let role: ConnectionRole = end === self.initiator ? .initiator : .responder
        let future = security.secure(
            end.channel,
            role: role,
            expectedPeer: peer,
            muxers: muxers,
            received: received
        )
        future.assumeIsolated().whenComplete { result in
            precondition(end.result == nil)
            end.result = result
            guard case .success = result else { return }
            try? end.channel.pipeline.syncOperations.addHandler(end.recorder)
            if !end.greeting.isEmpty { end.send(end.greeting) }
        }
    }

    /// Moves all bytes both ways in pieces of `size` until there are none; an end that closes cuts the other.
    func exchange(pieces size: Int = .max) throws {
        var moved = true
        while moved {
            moved = false
            self.loop.run()
            for (from, to) in [(self.initiator, self.responder), (self.responder, self.initiator)] {
                var sent = ByteBuffer()
                while var bytes = try from.channel.readOutbound(as: ByteBuffer.self) { sent.writeBuffer(&bytes) }
                let offset = self.offsets[ObjectIdentifier(to), default: 0]
                self.offsets[ObjectIdentifier(to)] = offset + sent.readableBytes
                guard sent.readableBytes > 0 else { continue }
                moved = true
                guard var bytes = self.filter(to, offset, sent) else { continue }
                while bytes.readableBytes > 0, to.channel.isActive,
                    let piece = bytes.readSlice(length: min(size, bytes.readableBytes))
                {
                    to.channel.pipeline.fireChannelRead(piece)
                    to.channel.pipeline.fireChannelReadComplete()
                }
            }
            self.loop.run()
        }
        if !self.initiator.channel.isActive { self.responder.cut() }
        if !self.responder.channel.isActive { self.initiator.cut() }
    }

    /// Bytes that went to `end` so far.
    func count(to end: End) -> Int { self.offsets[ObjectIdentifier(end), default: 0] }

    /// The transport ends on both sides.
    func cut() {
        self.initiator.cut()
        self.responder.cut()
    }

    deinit {
        self.cut()
        self.loop.run()
    }
}
