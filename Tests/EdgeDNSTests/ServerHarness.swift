import ByteStreams
import DNSWire
import Documents
import Glibc
import Logging
import MeshCore
import NIOCore
import NIOPosix
import ServiceCatalog
import Synchronization
import Testing

@testable import EdgeDNS

/// A name server in this process, on loopback, with upstreams of its own.
struct RunningServer: Sendable {
    let service: EdgeDNSService
    let catalog: FakeCatalog
    let address: TransportAddress

    func status(_ path: String...) async -> Document? {
        var document: Document? = await self.service.status()
        for key in path { document = document?[key] }
        return document
    }

    func ask(
        _ name: String,
        _ type: RecordType = .a,
        edns: UInt16? = 1232,
        overTCP: Bool = false
    ) async throws -> Message {
        var query = Message(
            id: .random(in: .min ... .max),
            flags: .recursionDesired,
            questions: [Question(try DomainName(name), type)]
        )
        query.edns = edns.map { EDNS(payloadSize: $0) }
        let reply = try await self.exchange(query.encoded(), overTCP: overTCP)
        let message = try Message(parsing: reply)
        #expect(message.id == query.id)
        return message
    }

    /// Sends bytes and gives the reply.
    func exchange(_ bytes: ByteBuffer, overTCP: Bool = false) async throws -> ByteBuffer {
        try await Sockets.exchange(bytes, with: self.address, overTCP: overTCP)
    }
}

struct TestFailure: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// Waits for what happens in other threads.
func eventually(
    _ what: String,
    within limit: Duration = .seconds(60),
    _ condition: () async throws -> Bool
) async throws {
    let deadline = MonotonicTime.now() + limit
    while MonotonicTime.now() < deadline {
        if try await condition() { return }
        try await Task.sleep(for: .milliseconds(10))
    }
    throw TestFailure("did not happen: \(what)")
}

func withServer<Result: Sendable>(
    _ snapshot: CatalogSnapshot = ZoneFixtures.snapshot,
    upstreams: [TransportAddress] = [],
    loops: Int = 1,
    host: String = "127.0.0.1",
    port: UInt16? = nil,
    _ adjust: (inout EdgeDNSSettings) -> Void = { _ in },
    _ body: (RunningServer) async throws -> Result
) async throws -> Result {
    let address = TransportAddress(ZoneFixtures.address(host), try port ?? Sockets.freePort())
    var settings = EdgeDNSSettings(listenAddresses: [address])
    settings.clusterDomain = "cluster.local"
    settings.upstreams = upstreams
    adjust(&settings)
    let group = MultiThreadedEventLoopGroup(numberOfThreads: loops)
    let catalog = FakeCatalog(snapshot)
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let service = EdgeDNSService(settings: settings, catalog: catalog, group: group, logger: logger)
    let task = Task { try await service.run() }
    let outcome: Swift.Result<Result, any Error>
    do {
        let server = RunningServer(service: service, catalog: catalog, address: address)
        try await eventually("server listens") { await server.status("listening")?.array?.count ?? 0 >= 2 }
        outcome = .success(try await body(server))
    } catch {
        outcome = .failure(error)
    }
    task.cancel()
    _ = await task.result
    try await group.shutdownGracefully()
    return try outcome.get()
}

/// An upstream whose behaviour is a function.
final class FakeUpstream: Sendable {
    enum Transport: Sendable {
        case udp
        case tcp
    }

    typealias Behaviour = @Sendable (Message, Transport) -> [Message]

    let address: TransportAddress
    private let group: MultiThreadedEventLoopGroup
    private let seen = Mutex<[Question]>([])

    var questions: [Question] { self.seen.withLock { $0 } }

    private init(address: TransportAddress, group: MultiThreadedEventLoopGroup) {
        self.address = address
        self.group = group
    }

    static func run<Result>(
        _ behaviour: @escaping Behaviour,
        _ body: (FakeUpstream) async throws -> Result
    ) async throws -> Result {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let upstream = FakeUpstream(address: TransportAddress(.v4(.loopback), try Sockets.freePort()), group: group)
        let answer: @Sendable (ByteBuffer, Transport) -> [ByteBuffer] = { bytes, transport in
            guard let query = try? Message(parsing: bytes) else { return [] }
            upstream.seen.withLock { $0 += query.questions }
            return behaviour(query, transport).map { $0.encoded() }
        }
        let datagrams = try await DatagramBootstrap(group: group).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(DatagramAnswerHandler(answer))
            }
        }.bind(to: SocketAddress(upstream.address)).get()
        let listener = try await ServerBootstrap(group: group).childChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(StreamAnswerHandler(answer))
            }
        }.bind(to: SocketAddress(upstream.address)).get()
        let result: Swift.Result<Result, any Error>
        do { result = .success(try await body(upstream)) } catch { result = .failure(error) }
        try await datagrams.close()
        try await listener.close()
        try await group.shutdownGracefully()
        return try result.get()
    }

    /// Answers A questions with `address`.
    static func answering(
        _ query: Message,
        _ address: IPv4Address = IPv4Address(192, 0, 2, 1),
        ttl: UInt32 = 60
    ) -> Message {
        var reply = query
        reply.flags = [.response, .recursionDesired, .recursionAvailable]
        reply.answers = query.questions.map { ResourceRecord($0.name, ttl: ttl, .a(address)) }
        return reply
    }
}

private final class DatagramAnswerHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let answer: @Sendable (ByteBuffer, FakeUpstream.Transport) -> [ByteBuffer]

    init(_ answer: @escaping @Sendable (ByteBuffer, FakeUpstream.Transport) -> [ByteBuffer]) {
        self.answer = answer
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = self.unwrapInboundIn(data)
        for reply in self.answer(envelope.data, .udp) {
            context.channel.writeAndFlush(
                AddressedEnvelope(remoteAddress: envelope.remoteAddress, data: reply),
                promise: nil
            )
        }
    }
}

private final class StreamAnswerHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let answer: @Sendable (ByteBuffer, FakeUpstream.Transport) -> [ByteBuffer]
    private var received = ByteBuffer()

    init(_ answer: @escaping @Sendable (ByteBuffer, FakeUpstream.Transport) -> [ByteBuffer]) {
        self.answer = answer
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.received.writeImmutableBuffer(self.unwrapInboundIn(data))
        while let query = self.received.readLengthPrefixedSlice(as: UInt16.self) {
            for reply in self.answer(query, .tcp) {
                var framed = ByteBuffer()
                framed.writeInteger(UInt16(reply.readableBytes))
                framed.writeImmutableBuffer(reply)
                context.channel.writeAndFlush(framed, promise: nil)
            }
        }
    }
}

/// Blocking sockets and commands, on threads that may block.
enum Sockets {
    /// Wide enough that clients which wait for a reply do not hold up others; lives as long as the process.
    private static let threads: NIOThreadPool = {
        let pool = NIOThreadPool(numberOfThreads: 24)
        pool.start()
        return pool
    }()

    static func blocking<Result: Sendable>(_ work: @escaping @Sendable () throws -> Result) async throws -> Result {
        try await self.threads.runIfActive(work)
    }

    /// A port of loopback that nobody has, outside the range from which the kernel takes ports for clients.
    static func freePort() throws -> UInt16 {
        for _ in 0..<100 {
            let port = UInt16.random(in: 20_000..<32_000)
            if self.isFree(port, SOCK_DGRAM), self.isFree(port, SOCK_STREAM) { return port }
        }
        throw TestFailure("no free port")
    }

    private static func isFree(_ port: UInt16, _ kind: __socket_type) -> Bool {
        let descriptor = socket(AF_INET, CInt(kind.rawValue), 0)
        defer { close(descriptor) }
        return SocketAddress(TransportAddress(.v4(.any), port)).withSockAddr { address, length in
            bind(descriptor, address, socklen_t(length)) == 0
        }
    }

    /// An open client socket; the caller closes it.
    static func connected(to address: TransportAddress, overTCP: Bool) throws -> CInt {
        let kind = overTCP ? SOCK_STREAM : SOCK_DGRAM
        let descriptor = socket(AF_INET, CInt(kind.rawValue), 0)
        var timeout = timeval(tv_sec: 8, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        let result = SocketAddress(address).withSockAddr { connect(descriptor, $0, socklen_t($1)) }
        guard result == 0 else {
            close(descriptor)
            throw TestFailure("cannot connect to \(address): errno \(errno)")
        }
        return descriptor
    }

    static func read(_ descriptor: CInt, _ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let received = recv(descriptor, &bytes, count, 0)
        guard received > 0 else { throw TestFailure("no reply: \(received), errno \(errno)") }
        return Array(bytes[..<received])
    }

    static func readFramed(_ descriptor: CInt) throws -> ByteBuffer {
        var bytes: [UInt8] = []
        while bytes.count < 2 || bytes.count < 2 + Int(bytes[0]) << 8 + Int(bytes[1]) {
            let wanted = bytes.count < 2 ? 2 - bytes.count : 2 + Int(bytes[0]) << 8 + Int(bytes[1]) - bytes.count
            bytes += try self.read(descriptor, wanted)
        }
        return ByteBuffer(bytes: bytes.dropFirst(2))
    }

    static func write(_ descriptor: CInt, _ bytes: [UInt8]) throws {
        guard send(descriptor, bytes, bytes.count, CInt(MSG_NOSIGNAL)) == bytes.count else {
            throw TestFailure("cannot send: errno \(errno)")
        }
    }

    static func framed(_ bytes: ByteBuffer) -> [UInt8] {
        [UInt8(bytes.readableBytes >> 8), UInt8(bytes.readableBytes & 0xFF)] + Array(bytes.readableBytesView)
    }

    static func exchange(_ bytes: ByteBuffer, with address: TransportAddress, overTCP: Bool) async throws -> ByteBuffer
    {
        try await self.blocking {
            let descriptor = try self.connected(to: address, overTCP: overTCP)
            defer { close(descriptor) }
            try self.write(descriptor, overTCP ? self.framed(bytes) : Array(bytes.readableBytesView))
            return overTCP ? try self.readFramed(descriptor) : ByteBuffer(bytes: try self.read(descriptor, 65_536))
        }
    }

    /// What a shell command prints, errors included, and how it ended.
    static func shell(_ command: String) async throws -> (output: String, status: CInt) {
        try await self.blocking {
            guard let stream = popen("{ \(command); } 2>&1", "r") else { throw TestFailure("cannot run \(command)") }
            var output: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                let count = fread(&buffer, 1, buffer.count, stream)
                guard count > 0 else { break }
                output += buffer[..<count]
            }
            let status = pclose(stream)
            return (String(decoding: output, as: UTF8.self), status >> 8 & 0xFF)
        }
    }
}
