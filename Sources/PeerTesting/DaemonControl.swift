import Multiformats
import NIOCore
import NIOPosix

/// The control socket of a go-libp2p daemon: one connection for each request. Whatever the daemon does, an exchange ends in time.
struct DaemonControl: Sendable {
    enum RequestType: UInt64 {
        case identify, connect, streamOpen, streamHandler, dht, listPeers, connectionManager, disconnect
    }

    /// Beyond what the daemon itself gives to a dial or a search.
    private static let limit = TimeAmount.seconds(30)
    let path: String
    let loop: any EventLoop

    @discardableResult
    func call(
        _ type: RequestType,
        _ body: (inout ProtobufWriter) -> Void = { _ in }
    ) async throws -> DaemonResponse {
        try await self.exchange(type, body) { messages, channel in
            channel.close(promise: nil)
            return try DaemonResponse(messages[0])
        }
    }

    /// Connects, sends a request and reads messages.
    /// - Parameter then: called on the loop with all messages that have come, at each of them, until it returns something. Handlers
    ///   that it adds to the channel get the bytes behind the last message.
    func exchange<Value: Sendable>(
        _ type: RequestType,
        _ body: (inout ProtobufWriter) -> Void = { _ in },
        then: @escaping @Sendable (_ messages: [ByteBuffer], _ channel: any Channel) throws -> Value?
    ) async throws -> Value {
        let answer = self.loop.makePromise(of: Value.self)
        let channel: any Channel
        do {
            channel = try await ClientBootstrap(group: self.loop)
                .channelOption(.autoRead, value: false)
                .channelOption(.allowRemoteHalfClosure, value: true)
                .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 128 * 1024))
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let handler = MessageHandler(failed: { answer.fail($0) }) { messages in
                            guard let value = try then(messages, channel) else { return false }
                            answer.succeed(value)
                            return true
                        }
                        try channel.pipeline.syncOperations.addHandler(handler)
                    }
                }
                .connect(unixDomainSocketPath: self.path).get()
        } catch {
            answer.fail(error)
            throw error
        }
        var writer = ProtobufWriter()
        writer.write(varint: type.rawValue, to: 1)
        body(&writer)
        var request = ByteBuffer()
        request.writeVarintPrefixed(writer.buffer)
        channel.writeAndFlush(request, promise: nil)
        do {
            return try await answer.futureResult.get(within: Self.limit, for: "the daemon to answer '\(type)'")
        } catch {
            channel.close(promise: nil)
            throw error
        }
    }

    /// Listens on a socket to which the daemon connects for every stream that is opened to it.
    /// - Parameter accept: called on the loop with the daemon's message, before anything behind it is read.
    func listen(
        at path: String,
        accept: @escaping @Sendable (_ message: ByteBuffer, _ channel: any Channel) -> Void
    ) async throws -> any Channel {
        try await ServerBootstrap(group: self.loop)
            .serverChannelOption(.backlog, value: 1024)
            .childChannelOption(.autoRead, value: false)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 128 * 1024))
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let handler = MessageHandler { messages in
                        accept(messages[0], channel)
                        return true
                    }
                    try channel.pipeline.syncOperations.addHandler(handler)
                }
            }
            .bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).get()
    }
}

/// What the daemon answers.
struct DaemonResponse: Sendable {
    struct Peer: Sendable {
        var id: PeerID
        var addresses: [Multiaddr] = []
    }

    var peer: PeerID?
    var addresses: [Multiaddr] = []
    var peers: [Peer] = []

    init(_ message: ByteBuffer) throws {
        var reader = ProtobufReader(message)
        while let field = try reader.next() {
            switch field.number {
            case 1 where try field.uint64() != 0:
                // The error stands in the next field.
                break
            case 2:
                var error = try field.message()
                throw TestPeerError("the daemon says: \(try error.next()?.text() ?? "error")")
            case 4:
                let identity = try Self.peer(field)
                (self.peer, self.addresses) = (identity.id, identity.addresses)
            case 5:
                if let peer = try DHTAnswer(reading: field.message()).peer { self.peers.append(peer) }
            case 6: self.peers.append(try Self.peer(field))
            default: break
            }
        }
    }

    /// An item of a list that the DHT gives.
    struct DHTAnswer {
        var isEnd = false
        var peer: Peer?

        init(_ message: ByteBuffer) throws {
            try self.init(reading: ProtobufReader(message))
        }

        fileprivate init(reading reader: ProtobufReader) throws {
            var reader = reader
            while let field = try reader.next() {
                if field.number == 1 { self.isEnd = try field.uint64() == 2 }
                if field.number == 2 { self.peer = try DaemonResponse.peer(field) }
            }
        }
    }

    private static func peer(_ field: ProtobufReader.Field) throws -> Peer {
        var message = try field.message()
        var (id, addresses): (PeerID?, [Multiaddr]) = (nil, [])
        while let field = try message.next() {
            if field.number == 1 { id = try PeerID(bytes: field.bytes()) }
            // Addresses of kinds that we do not know are none of ours.
            if field.number == 2, let address = try? Multiaddr(bytes: field.bytes()) { addresses.append(address) }
        }
        guard let id else { throw TestPeerError("the daemon names a peer without an ID") }
        return Peer(id: id, addresses: addresses)
    }

    /// Of the message by which the daemon tells of a new stream: its peer, address and protocol.
    static func protocolName(ofStream message: ByteBuffer) throws -> String? {
        var reader = ProtobufReader(message)
        while let field = try reader.next() {
            if field.number == 3 { return try field.text() }
        }
        return nil
    }
}

/// Gives the messages that come until enough have come; then it leaves the pipeline, and what comes behind them to others.
private final class MessageHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer

    private let failed: (any Error) -> Void
    private let received: ([ByteBuffer]) throws -> Bool
    private var messages: [ByteBuffer] = []
    private var bytes = ByteBuffer()
    private var isDone = false

    /// - Parameter received: called with all messages so far; returns whether they are enough. It may add handlers behind this one,
    ///   to which all that follows goes.
    init(
        failed: @escaping (any Error) -> Void = { _ in },
        received: @escaping ([ByteBuffer]) throws -> Bool
    ) {
        self.failed = failed
        self.received = received
    }

    func channelActive(context: ChannelHandlerContext) {
        context.fireChannelActive()
        context.read()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone else { return context.fireChannelRead(data) }
        var read = self.unwrapInboundIn(data)
        self.bytes.writeBuffer(&read)
        do {
            while !self.isDone {
                guard let message = try self.bytes.readVarintPrefixed(maximumLength: 1 << 20) else { return }
                self.messages.append(message)
                // Whoever has what it wants may close the channel at once: no failure any more.
                self.isDone = true
                self.isDone = try self.received(self.messages)
            }
            if self.bytes.readableBytes > 0 { context.fireChannelRead(NIOAny(self.bytes)) }
            context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
        } catch {
            self.isDone = false
            self.fail(error)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if self.isDone { context.fireChannelReadComplete() } else { context.read() }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.fail(ChannelError.eof)
        context.fireChannelInactive()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if !self.isDone, case .inputClosed? = event as? ChannelEvent { self.fail(ChannelError.eof) }
        context.fireUserInboundEventTriggered(event)
    }

    private func fail(_ error: any Error) {
        guard !self.isDone else { return }
        self.isDone = true
        self.failed(error)
    }
}
