import Glibc
public import Multiformats
public import NIOCore
import NIOPosix

/// A go-libp2p daemon (`p2pd`), spoken to by its control protocol: messages of protobuf behind their length as a varint, over a
/// unix socket. A stream is a socket of its own, which carries bytes after the daemon's answer.
public final class Daemon: Sendable {
    public let process: PeerProcess
    public let peerID: PeerID
    public let addresses: [Multiaddr]
    private let control: String
    private let loop: any EventLoop

    /// - Parameter options: for the daemon's command line.
    public static func start(
        _ program: String,
        listen: [String] = ["/ip4/127.0.0.1/tcp/0"],
        options: [String] = [],
        on loop: any EventLoop
    ) async throws -> Daemon {
        let control = "/tmp/p2pd-\(getpid())-\(UInt64.random(in: .min ... .max)).sock"
        let process = try PeerProcess(
            [program, "-listen", "/unix\(control)", "-hostAddrs", listen.joined(separator: ",")]
                + ["-relayService=0", "-relay=0", "-natPortMap=0"] + options
        )
        _ = try await process.line("Peer ID:")
        // The socket of its control may come after its words.
        var identity = try? await Self.call(.identify, at: control, on: loop)
        for _ in 0..<200 where identity == nil {
            try await Task.sleep(for: .milliseconds(20))
            identity = try? await Self.call(.identify, at: control, on: loop)
        }
        guard let identity else { throw TestPeerError("the daemon does not answer:\n\(process.output)") }
        return try Daemon(process, control, identity, loop)
    }

    private init(_ process: PeerProcess, _ control: String, _ identity: Response, _ loop: any EventLoop) throws {
        guard let peer = identity.peer else { throw TestPeerError("a daemon without a peer ID") }
        self.process = process
        self.control = control
        self.loop = loop
        self.peerID = peer
        self.addresses = identity.addresses
    }

    // MARK: Requests

    enum RequestType: UInt64 {
        case identify, connect, streamOpen, streamHandler, dht, listPeers, connectionManager, disconnect
    }

    public func connect(to peer: PeerID, at addresses: [Multiaddr]) async throws {
        try await self.call(.connect) { writer in
            writer.write(messageTo: 2) { connect in
                connect.write(bytes: peer.bytes, to: 1)
                for address in addresses { connect.write(bytes: address.withoutPeerID.bytes, to: 2) }
                connect.write(int64: 10, to: 3)
            }
        }
    }

    public func disconnect(from peer: PeerID) async throws {
        try await self.call(.disconnect) { writer in
            writer.write(messageTo: 7) { $0.write(bytes: peer.bytes, to: 1) }
        }
    }

    /// The peers that it is connected to.
    public func peers() async throws -> Set<PeerID> {
        try await self.call(.listPeers).peers
    }

    /// Opens a stream to a peer that it is connected to.
    /// - Returns: a socket with `autoRead` off that carries the stream's bytes.
    public func openStream(to peer: PeerID, _ item: TestProtocol) async throws -> any Channel {
        let (channel, _) = try await Self.exchange(self.control, self.loop, .streamOpen) { writer in
            writer.write(messageTo: 3) { open in
                open.write(bytes: peer.bytes, to: 1)
                open.write(text: item.rawValue, to: 2)
                open.write(int64: 10, to: 3)
            }
        }
        return channel
    }

    /// Serves the test protocols that are a matter of bytes; the daemon connects to a socket of ours for every stream.
    /// - Returns: the listening socket.
    public func serveTestProtocols() async throws -> any Channel {
        let path = "\(self.control).streams"
        let listener = try await ServerBootstrap(group: self.loop)
            .serverChannelOption(.backlog, value: 1024)
            .childChannelOption(.autoRead, value: false)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 128 * 1024))
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let handler = MessageFirstHandler { message in
                        // The stream's peer, address and protocol.
                        guard case .bytes(let name)? = try? Self.field(3, of: message),
                            let item = TestProtocol(rawValue: String(buffer: name))
                        else { return channel.close(promise: nil) }
                        try? item.serve(channel)
                    }
                    try channel.pipeline.syncOperations.addHandler(handler)
                }
            }
            .bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).get()
        try await self.call(.streamHandler) { writer in
            writer.write(messageTo: 4) { handler in
                handler.write(bytes: Multiaddr([.unix(path)]).bytes, to: 1)
                for item in TestProtocol.allCases where item != .reset { handler.write(text: item.rawValue, to: 2) }
                handler.write(bool: false, to: 3)
            }
        }
        return listener
    }

    // MARK: Messages

    struct Response {
        var peer: PeerID?
        var addresses: [Multiaddr] = []
        var peers: Set<PeerID> = []

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
                    var identity = try field.message()
                    while let field = try identity.next() {
                        if field.number == 1 { self.peer = try PeerID(bytes: field.bytes()) }
                        // Addresses of kinds that we do not know are none of ours.
                        if field.number == 2, let address = try? Multiaddr(bytes: field.bytes()) {
                            self.addresses.append(address)
                        }
                    }
                case 6:
                    var info = try field.message()
                    while let field = try info.next() {
                        if field.number == 1 { self.peers.insert(try PeerID(bytes: field.bytes())) }
                    }
                default: break
                }
            }
        }
    }

    private static func field(_ number: Int, of message: ByteBuffer) throws -> ProtobufReader.Field.Value? {
        var reader = ProtobufReader(message)
        while let field = try reader.next() {
            if field.number == number { return field.value }
        }
        return nil
    }

    @discardableResult
    private func call(_ type: RequestType, _ body: (inout ProtobufWriter) -> Void = { _ in }) async throws -> Response {
        try await Self.call(type, at: self.control, on: self.loop, body)
    }

    private static func call(
        _ type: RequestType,
        at control: String,
        on loop: any EventLoop,
        _ body: (inout ProtobufWriter) -> Void = { _ in }
    ) async throws -> Response {
        let (channel, response) = try await Self.exchange(control, loop, type, body)
        channel.close(promise: nil)
        return response
    }

    /// Connects, sends a request and reads its answer; the rest of what comes belongs to whom the channel is given.
    private static func exchange(
        _ control: String,
        _ loop: any EventLoop,
        _ type: RequestType,
        _ body: (inout ProtobufWriter) -> Void
    ) async throws -> (any Channel, Response) {
        let answer = loop.makePromise(of: ByteBuffer.self)
        let channel: any Channel
        do {
            channel = try await ClientBootstrap(group: loop)
                .channelOption(.autoRead, value: false)
                .channelOption(.allowRemoteHalfClosure, value: true)
                .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 128 * 1024))
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(
                            MessageFirstHandler(failed: { answer.fail($0) }) { answer.succeed($0) }
                        )
                    }
                }
                .connect(unixDomainSocketPath: control).get()
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
        return (channel, try Response(try await answer.futureResult.get()))
    }
}

/// Gives the first message that comes, then leaves the pipeline and what comes behind it to others.
private final class MessageFirstHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer

    private let failed: (any Error) -> Void
    private let received: (ByteBuffer) -> Void
    private var bytes = ByteBuffer()
    private var isDone = false

    init(failed: @escaping (any Error) -> Void = { _ in }, received: @escaping (ByteBuffer) -> Void) {
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
            guard let message = try self.bytes.readVarintPrefixed(maximumLength: 1 << 20) else { return }
            self.isDone = true
            // Adds its handlers behind this one.
            self.received(message)
            if self.bytes.readableBytes > 0 { context.fireChannelRead(NIOAny(self.bytes)) }
            context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
        } catch {
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
