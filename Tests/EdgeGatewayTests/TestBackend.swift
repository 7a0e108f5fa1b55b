import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// An HTTP/1.1 server of NIO's, so that what the gateway writes is read by a parser that is not its own. What it answers depends
/// on the path; by default it tells what it was asked.
final class TestBackend: Sendable {
    let port: UInt16
    private let channel: any Channel
    private let record: Record

    final class Record: Sendable {
        /// Bytes that are kept.
        private static let maximumBytes = 1 << 20
        private let state = Mutex<(requests: [String], connections: Int, bytes: [UInt8])>(([], 0, []))
        var requests: [String] { self.state.withLock { $0.requests } }
        var connections: Int { self.state.withLock { $0.connections } }
        func add(_ request: String) { self.state.withLock { $0.requests.append(request) } }
        var bytes: [UInt8] { self.state.withLock { $0.bytes } }
        func add(_ bytes: ByteBuffer) {
            self.state.withLock { state in
                guard state.bytes.count < Self.maximumBytes else { return }
                state.bytes += Array(buffer: bytes)
            }
        }
        func connected() { self.state.withLock { $0.connections += 1 } }
    }

    /// `METHOD URI BODYLENGTH` of every request, in order.
    var requests: [String] { self.record.requests }
    var connections: Int { self.record.connections }
    /// All that came, as it came, of all connections.
    var bytes: [UInt8] { self.record.bytes }

    private init(_ channel: any Channel, _ record: Record) {
        self.channel = channel
        self.record = record
        self.port = UInt16(channel.localAddress?.port ?? 0)
    }

    static func start(_ name: String = "one") async throws -> TestBackend {
        let record = Record()
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                record.connected()
                try? channel.pipeline.syncOperations.addHandler(Recorder(record))
                return channel.pipeline.configureHTTPServerPipeline(withErrorHandling: true).flatMapThrowing {
                    try channel.pipeline.syncOperations.addHandler(Handler(name, record))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        return TestBackend(channel, record)
    }

    func stop() async throws { try await self.channel.close() }

    private final class Recorder: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private let record: Record
        init(_ record: Record) { self.record = record }
        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.record.add(self.unwrapInboundIn(data))
            context.fireChannelRead(data)
        }
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart
        private let name: String
        private let record: Record
        private var head: HTTPRequestHead?
        private var body = 0

        init(_ name: String, _ record: Record) {
            self.name = name
            self.record = record
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch self.unwrapInboundIn(data) {
            case .head(let head):
                self.head = head
                self.body = 0
            case .body(let bytes): self.body += bytes.readableBytes
            case .end(let trailers):
                guard let head = self.head else { return }
                self.record.add("\(head.method) \(head.uri) \(self.body)")
                self.answer(context, head, trailers)
            }
        }

        private func answer(_ context: ChannelHandlerContext, _ head: HTTPRequestHead, _ trailers: HTTPHeaders?) {
            let words = head.uri.split(separator: "/").map { $0.prefix { $0 != "?" } }
            func send(_ status: Int, _ headers: HTTPHeaders, _ body: ByteBuffer?, _ trailers: HTTPHeaders? = nil) {
                let response = HTTPResponseHead(
                    version: .http1_1,
                    status: HTTPResponseStatus(statusCode: status),
                    headers: headers
                )
                context.write(self.wrapOutboundOut(.head(response)), promise: nil)
                if let body, head.method != .HEAD {
                    context.write(self.wrapOutboundOut(.body(.byteBuffer(body))), promise: nil)
                }
                context.writeAndFlush(self.wrapOutboundOut(.end(trailers)), promise: nil)
            }
            switch words.first {
            case "status":
                let status = words.count > 1 ? Int(words[1]) ?? 200 : 200
                send(status, ["content-length": "0"], nil)
            case "chunked":
                send(
                    200,
                    ["transfer-encoding": "chunked", "trailer": "x-sum"],
                    ByteBuffer(string: "in chunks"),
                    ["x-sum": "3"]
                )
            case "big":
                let count = words.count > 1 ? Int(words[1]) ?? 0 : 0
                send(200, ["content-length": "\(count)"], ByteBuffer(repeating: UInt8(ascii: "b"), count: count))
            case "close": context.close(promise: nil)
            case "hang": break
            default:
                var lines = [
                    "\(head.method) \(head.uri) \(head.version)", "backend: \(self.name)", "content: \(self.body)",
                ]
                lines += head.headers.map { "\($0.name): \($0.value)" }.sorted()
                lines += (trailers ?? [:]).map { "trailer \($0.name): \($0.value)" }
                let body = ByteBuffer(string: lines.joined(separator: "\n") + "\n")
                send(200, ["content-length": "\(body.readableBytes)", "x-backend": self.name], body)
            }
        }
    }
}

/// A server that is told what to say byte by byte.
final class RawBackend: Sendable {
    let port: UInt16
    private let channel: any Channel

    private init(_ channel: any Channel) {
        self.channel = channel
        self.port = UInt16(channel.localAddress?.port ?? 0)
    }

    func stop() async throws { try await self.channel.close() }

    /// - Parameters:
    ///   - answer: called with what came in one read and the number of reads before it; nil closes.
    ///   - endsAfter: whether the connection is closed behind the answer to this.
    static func start(
        _ answer: @escaping @Sendable ([UInt8], Int) -> [UInt8]?,
        endsAfter: @escaping @Sendable ([UInt8]) -> Bool = { _ in false }
    ) async throws -> RawBackend {
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Handler(answer, endsAfter))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        return RawBackend(channel)
    }

    /// Tells how many bytes came, once its client has ended.
    static func counting() async throws -> RawBackend {
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in channel.pipeline.addHandler(Counter()) }
            .bind(host: "127.0.0.1", port: 0).get()
        return RawBackend(channel)
    }

    private final class Counter: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer
        private let count = Mutex(0)

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let bytes = self.unwrapInboundIn(data).readableBytes
            self.count.withLock { $0 += bytes }
        }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            guard case .inputClosed? = event as? ChannelEvent else { return }
            let count = self.count.withLock { $0 }
            context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: "\(count)")), promise: nil)
            context.close(promise: nil)
        }
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer
        private let answer: ([UInt8], Int) -> [UInt8]?
        private let endsAfter: ([UInt8]) -> Bool
        private var reads = 0

        init(_ answer: @escaping ([UInt8], Int) -> [UInt8]?, _ endsAfter: @escaping ([UInt8]) -> Bool) {
            self.answer = answer
            self.endsAfter = endsAfter
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let bytes = Array(buffer: self.unwrapInboundIn(data))
            guard let answer = self.answer(bytes, self.reads) else { return context.close(promise: nil) }
            self.reads += 1
            let channel = context.channel
            let written = self.endsAfter(bytes) ? context.eventLoop.makePromise(of: Void.self) : nil
            written?.futureResult.whenComplete { _ in channel.close(promise: nil) }
            context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(bytes: answer)), promise: written)
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }
}
