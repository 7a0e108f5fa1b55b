import Crypto
public import LibP2P
public import NIOCore

/// The protocols of test peers, whatever they are written in. Each is served on any channel of bytes that has `autoRead` off and
/// `allowRemoteHalfClosure` on: a stream of the host, or a socket of a daemon.
public enum TestProtocol: String, CaseIterable, Sendable {
    /// Every byte comes back.
    case echo = "/test/echo/1.0.0"
    /// Answers the end of the input with `COUNT SHA256\n`.
    case sink = "/test/sink/1.0.0"
    /// Answers the end of the input with `COUNT\n`.
    case discard = "/test/discard/1.0.0"
    /// Answers `COUNT\n` with so many zeros.
    case source = "/test/source/1.0.0"
    /// Resets every stream.
    case reset = "/test/reset/1.0.0"

    public var id: ProtocolID { ProtocolID(self.rawValue) }

    /// Serves one stream; on its event loop. Not for `reset`, which is no matter of bytes.
    public func serve(_ channel: any Channel) throws {
        let handler: any ChannelHandler =
            switch self {
            case .echo: EchoHandler()
            case .sink: CountingHandler(hash: SHA256())
            case .discard, .reset: CountingHandler(hash: nil)
            case .source: SourceHandler()
            }
        try channel.pipeline.syncOperations.addHandler(handler)
        channel.read()
    }

    /// Serves all of them on a host, over circuits that a relay limits, too.
    public static func serveAll(on host: Host) {
        for item in Self.allCases {
            host.handle(item.id, options: HandlerOptions(allowLimitedConnection: true)) { stream in
                guard item != .reset else {
                    stream.reset()
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                return stream.channel.eventLoop.makeCompletedFuture { try item.serve(stream.channel) }
            }
        }
    }
}

/// Sends back what comes; the next read waits until the channel takes more.
private final class EchoHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var owesRead = false

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.write(data, promise: nil)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.flush()
        self.owesRead = true
        self.readIfWritable(context)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.readIfWritable(context)
    }

    private func readIfWritable(_ context: ChannelHandlerContext) {
        guard self.owesRead, context.channel.isWritable else { return }
        self.owesRead = false
        context.read()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { context.close(mode: .output, promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}

/// Counts what comes, and says so at the end.
private final class CountingHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var hash: SHA256?
    private var count = 0

    init(hash: SHA256?) {
        self.hash = hash
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.count += bytes.readableBytes
        self.hash?.update(bytes)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.read()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case .inputClosed? = event as? ChannelEvent else { return }
        let digest = self.hash.map { " \($0.finalize().hex)" } ?? ""
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: "\(self.count)\(digest)\n")), promise: nil)
        context.close(mode: .output, promise: nil)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}

/// Reads how much is wanted, and sends it.
private final class SourceHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private static let zeros = ByteBuffer(repeating: 0, count: 128 * 1024)
    private var line = ""
    private var left: Int?

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard self.left == nil else { return }
        self.line += String(buffer: self.unwrapInboundIn(data))
        guard self.line.last == "\n" else { return }
        self.left = Int(self.line.dropLast()) ?? 0
        self.fill(context)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.read()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.fill(context)
    }

    private func fill(_ context: ChannelHandlerContext) {
        while let left, context.channel.isWritable {
            guard left > 0 else {
                self.left = nil
                return context.close(mode: .output, promise: nil)
            }
            let piece = min(left, Self.zeros.readableBytes)
            self.left = left - piece
            guard let bytes = Self.zeros.getSlice(at: 0, length: piece) else { return }
            context.writeAndFlush(self.wrapOutboundOut(bytes), promise: nil)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}

extension SHA256 {
    mutating func update(_ bytes: ByteBuffer) {
        bytes.withUnsafeReadableBytes { self.update(bufferPointer: $0) }
    }
}

extension SHA256.Digest {
    var hex: String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: self.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }
}
