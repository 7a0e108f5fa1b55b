import ByteStreams
import DNSWire
import MeshCore
import NIOCore
import NIOPosix

/// One question to one upstream, over a socket of its own: the kernel picks a fresh random port and lets through only what
/// comes from the upstream's address; the ID is random; a reply must repeat ID and question. Confined to its event loop.
final class UpstreamExchange {
    enum End {
        case reply(Message)
        case timedOut
        case unreachable
    }

    private let loop: any EventLoop
    private let query: Message
    private var completion: ((End) -> Void)?
    private var channel: (any Channel)?
    private var timer: Scheduled<Void>?
    /// Replies that were no answer to this question: late, misdirected or forged.
    private(set) var mismatches = 0

    /// Announced to upstreams: what crosses any usual path unfragmented.
    static let payloadSize: UInt16 = 1232

    init(loop: any EventLoop, question: Question, edns: Bool, dnssecOK: Bool, checkingDisabled: Bool) {
        self.loop = loop
        var flags: MessageFlags = .recursionDesired
        if checkingDisabled { flags.insert(.checkingDisabled) }
        var query = Message(id: .random(in: .min ... .max), flags: flags, questions: [question])
        if edns {
            query.edns = EDNS(payloadSize: UpstreamExchange.payloadSize)
            query.edns?.dnssecOK = dnssecOK
        }
        self.query = query
    }

    /// Calls `completion` once, on the loop.
    func start(
        _ upstream: TransportAddress,
        _ transport: Resolution.Transport,
        timeout: Duration,
        completion: @escaping (End) -> Void
    ) {
        self.completion = completion
        let bound = NIOLoopBound(self, eventLoop: self.loop)
        self.timer = self.loop.assumeIsolated().scheduleTask(in: .nanoseconds(timeout.saturatedNanoseconds)) {
            bound.value.finish(.timedOut)
        }
        let address = SocketAddress(upstream)
        let opening =
            switch transport {
            case .udp:
                DatagramBootstrap(group: self.loop)
                    .channelInitializer { channel in
                        channel.eventLoop.makeCompletedFuture {
                            try channel.pipeline.syncOperations.addHandler(DatagramReplyHandler(bound.value))
                        }
                    }
                    .connect(to: address)
            case .tcp:
                ClientBootstrap(group: self.loop)
                    .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                    .channelInitializer { channel in
                        channel.eventLoop.makeCompletedFuture {
                            try channel.pipeline.syncOperations.addHandler(StreamReplyHandler(bound.value))
                        }
                    }
                    .connect(to: address)
            }
        opening.assumeIsolated().whenComplete { result in
            switch result {
            case .failure:
                self.finish(.unreachable)
            case .success(let channel):
                guard self.completion != nil else { return channel.close(promise: nil) }
                self.channel = channel
                self.send(to: address, transport, on: channel)
            }
        }
    }

    private func send(to address: SocketAddress, _ transport: Resolution.Transport, on channel: any Channel) {
        let bytes = self.query.encoded()
        switch transport {
        case .udp:
            channel.writeAndFlush(AddressedEnvelope(remoteAddress: address, data: bytes), promise: nil)
        case .tcp:
            var framed = channel.allocator.buffer(capacity: bytes.readableBytes + 2)
            framed.writeInteger(UInt16(truncatingIfNeeded: bytes.readableBytes))
            framed.writeImmutableBuffer(bytes)
            channel.writeAndFlush(framed, promise: nil)
        }
    }

    fileprivate func receive(_ bytes: ByteBuffer) {
        guard let message = try? Message(parsing: bytes), UpstreamExchange.isReply(message, to: self.query) else {
            self.mismatches += 1
            return
        }
        self.finish(.reply(message))
    }

    /// RFC 5452 section 9.1; address and port are checked by the kernel.
    static func isReply(_ message: Message, to query: Message) -> Bool {
        guard message.flags.contains(.response), message.id == query.id, message.flags.opcode == 0 else { return false }
        // Some servers leave the question out of a FORMERR.
        return message.questions == query.questions
            || message.questions.isEmpty && message.responseCode == .formatError
    }

    fileprivate func fail() {
        self.finish(.unreachable)
    }

    private func finish(_ end: End) {
        guard let completion = self.completion else { return }
        self.completion = nil
        self.timer?.cancel()
        self.timer = nil
        self.channel?.close(promise: nil)
        self.channel = nil
        completion(end)
    }
}

private final class DatagramReplyHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let exchange: UpstreamExchange

    init(_ exchange: UpstreamExchange) {
        self.exchange = exchange
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.exchange.receive(self.unwrapInboundIn(data).data)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // ECONNREFUSED: the host is there and has no name server.
        self.exchange.fail()
    }
}

private final class StreamReplyHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let exchange: UpstreamExchange
    private var received = ByteBuffer()

    init(_ exchange: UpstreamExchange) {
        self.exchange = exchange
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.received.writeImmutableBuffer(self.unwrapInboundIn(data))
        guard let message = self.received.readLengthPrefixedSlice(as: UInt16.self) else { return }
        self.exchange.receive(message)
        // On a stream of its own nothing else can follow.
        self.exchange.fail()
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.exchange.fail()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.exchange.fail()
    }
}
