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
        private let state = Mutex<(requests: [String], connections: Int)>(([], 0))
        var requests: [String] { self.state.withLock { $0.requests } }
        var connections: Int { self.state.withLock { $0.connections } }
        func add(_ request: String) { self.state.withLock { $0.requests.append(request) } }
        func connected() { self.state.withLock { $0.connections += 1 } }
    }

    /// `METHOD URI BODYLENGTH` of every request, in order.
    var requests: [String] { self.record.requests }
    var connections: Int { self.record.connections }

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
                return channel.pipeline.configureHTTPServerPipeline(withErrorHandling: true).flatMapThrowing {
                    try channel.pipeline.syncOperations.addHandler(Handler(name, record))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        return TestBackend(channel, record)
    }

    func stop() async throws { try await self.channel.close() }

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

    /// - Parameter answer: called with what came in one read and the number of reads before it; nil closes.
    static func start(_ answer: @escaping @Sendable ([UInt8], Int) -> [UInt8]?) async throws -> RawBackend {
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Handler(answer))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        return RawBackend(channel)
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer
        private let answer: ([UInt8], Int) -> [UInt8]?
        private var reads = 0

        init(_ answer: @escaping ([UInt8], Int) -> [UInt8]?) { self.answer = answer }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            guard let answer = self.answer(Array(buffer: self.unwrapInboundIn(data)), self.reads) else {
                return context.close(promise: nil)
            }
            self.reads += 1
            context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(bytes: answer)), promise: nil)
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }
}
