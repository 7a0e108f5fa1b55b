import ByteStreams
import DNSWire
import Glibc
import MeshCore
import NIOCore
import NIOPosix

/// Asks DNS servers for TXT records: over UDP, and over TCP when the answer is cut (RFC 1035, RFC 7766).
///
/// Servers are asked one after the other, twice each, until one answers; that a name does not exist is an answer, too.
struct TextRecordClient: Sendable {
    /// As resolv.conf(5) has it: more are ignored.
    private static let maximumServers = 3
    private static let rounds = 2

    let servers: [TransportAddress]
    /// For one question to one server.
    let timeout: TimeAmount

    init(servers: [TransportAddress], timeout: TimeAmount = .seconds(3)) {
        self.servers = servers
        self.timeout = timeout
    }

    /// The servers that the text of a resolv.conf names; the one of this machine if there is none.
    static func servers(resolvConf text: String) -> [TransportAddress] {
        let named = text.split(whereSeparator: \.isNewline).compactMap { line -> TransportAddress? in
            let words = line.split(whereSeparator: \.isWhitespace)
            guard words.count >= 2, words[0] == "nameserver", let address = IPAddress(words[1]) else { return nil }
            return TransportAddress(address, 53)
        }
        return named.isEmpty ? [TransportAddress(.v4(.loopback), 53)] : Array(named.prefix(Self.maximumServers))
    }

    /// The TXT records of a name, the strings of each joined. Completes on `loop`; fails with `LibP2PError`.
    func texts(of name: String, on loop: any EventLoop) -> EventLoopFuture<[String]> {
        let question: Question
        do {
            question = Question(try DomainName(name), .txt)
        } catch {
            return loop.makeFailedFuture(Self.failure(name, "it is no domain name", error))
        }
        return self.ask(question, attempt: 0, on: loop).flatMapThrowing { answer in
            guard answer.responseCode == .noError else {
                throw Self.failure(name, "the DNS server answers \(answer.responseCode)")
            }
            return answer.answers.compactMap { record in
                guard case .txt(let strings) = record.data else { return nil }
                return String(validating: strings.joined(), as: UTF8.self)
            }
        }
    }

    private func ask(_ question: Question, attempt: Int, on loop: any EventLoop) -> EventLoopFuture<Message> {
        let server = self.servers[attempt % self.servers.count]
        let query = Self.query(question)
        return self.ask(query, of: server, overTCP: false, on: loop).flatMap { answer in
            guard answer.flags.contains(.truncated) else { return loop.makeSucceededFuture(answer) }
            return self.ask(query, of: server, overTCP: true, on: loop)
        }.flatMapThrowing { answer in
            if answer.responseCode == .serverFailure || answer.responseCode == .refused {
                throw Self.failure("\(question.name)", "\(server) answers \(answer.responseCode)")
            }
            return answer
        }.flatMapError { error in
            guard attempt + 1 < Self.rounds * self.servers.count else {
                return loop.makeFailedFuture(Self.failure("\(question.name)", "no DNS server answers", error))
            }
            return self.ask(question, attempt: attempt + 1, on: loop)
        }
    }

    private static func query(_ question: Question) -> Message {
        var query = Message(id: .random(in: .min ... .max), flags: .recursionDesired, questions: [question])
        // As much as passes everywhere without fragments (DNS flag day 2020).
        query.edns = EDNS(payloadSize: 1232)
        return query
    }

    private func ask(
        _ query: Message,
        of server: TransportAddress,
        overTCP: Bool,
        on loop: any EventLoop
    ) -> EventLoopFuture<Message> {
        let answer = loop.makePromise(of: Message.self)
        let initialize = { @Sendable (channel: any Channel) -> EventLoopFuture<Void> in
            channel.eventLoop.makeCompletedFuture {
                let pipeline = channel.pipeline.syncOperations
                if overTCP {
                    try pipeline.addHandler(LengthPrefixHandler())
                } else {
                    try pipeline.addHandler(EnvelopeHandler(server: SocketAddress(server)))
                }
                try pipeline.addHandler(QueryHandler(query: query, timeout: self.timeout, answer: answer))
            }
        }
        // A connected socket takes packets of the server only, from a port that nobody can guess.
        let connected =
            overTCP
            ? ClientBootstrap(group: loop).connectTimeout(self.timeout).channelInitializer(initialize)
                .connect(to: SocketAddress(server))
            : DatagramBootstrap(group: loop).channelInitializer(initialize).connect(to: SocketAddress(server))
        connected.whenFailure { answer.fail($0) }
        return answer.futureResult
    }

    private static func failure(_ name: String, _ why: String, _ cause: (any Error)? = nil) -> LibP2PError {
        LibP2PError(code: .resolutionFailed, message: "cannot look up the TXT records of \(name): \(why)", cause: cause)
    }
}

/// Sends one query and waits for its answer, then closes. Confined to the channel's loop.
private final class QueryHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let query: Message
    private let timeout: TimeAmount
    private let answer: EventLoopPromise<Message>
    private var timer: Scheduled<Void>?
    private var isDone = false

    init(query: Message, timeout: TimeAmount, answer: EventLoopPromise<Message>) {
        self.query = query
        self.timeout = timeout
        self.answer = answer
    }

    func channelActive(context: ChannelHandlerContext) {
        let channel = context.channel
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: self.timeout) {
            self.finish(.failure(LibP2PError(code: .timedOut, message: "the DNS server did not answer in time")))
            channel.close(promise: nil)
        }
        context.writeAndFlush(self.wrapOutboundOut(self.query.encoded()), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        // What answers another question, or cannot be read, may come from anybody.
        guard let message = try? Message(parsing: self.unwrapInboundIn(data)), message.id == self.query.id,
            message.flags.contains(.response), message.questions == self.query.questions
        else { return }
        self.finish(.success(message))
        context.close(promise: nil)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.finish(.failure(error))
        context.close(promise: nil)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.finish(
            .failure(LibP2PError(code: .connectionClosed, message: "the DNS server closed without an answer"))
        )
    }

    private func finish(_ result: Result<Message, any Error>) {
        guard !self.isDone else { return }
        self.isDone = true
        self.timer?.cancel()
        self.answer.completeWith(result)
    }
}

/// Packets of one server as buffers.
private final class EnvelopeHandler: ChannelDuplexHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = AddressedEnvelope<ByteBuffer>

    private let server: SocketAddress

    init(server: SocketAddress) {
        self.server = server
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.fireChannelRead(self.wrapInboundOut(self.unwrapInboundIn(data).data))
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let envelope = AddressedEnvelope(remoteAddress: self.server, data: self.unwrapOutboundIn(data))
        context.write(self.wrapOutboundOut(envelope), promise: promise)
    }
}

/// Messages behind their length in two bytes (RFC 1035 section 4.2.2). Holds at most one.
private final class LengthPrefixHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var input = ByteBuffer()

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        self.input.writeBuffer(&bytes)
        while let message = self.input.readLengthPrefixedSlice(as: UInt16.self) {
            context.fireChannelRead(self.wrapInboundOut(message))
        }
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let message = self.unwrapOutboundIn(data)
        var output = context.channel.allocator.buffer(capacity: 2 + message.readableBytes)
        output.writeInteger(UInt16(clamping: message.readableBytes))
        output.writeImmutableBuffer(message)
        context.write(self.wrapOutboundOut(output), promise: promise)
    }
}
