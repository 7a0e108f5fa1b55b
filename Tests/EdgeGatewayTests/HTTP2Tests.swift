import GatewayRouting
import KubeModel
import MeshCore
import MeshTesting
import NIOCore
import NIOHPACK
import NIOHTTP2
import NIOPosix
import Synchronization
import Testing

@testable import EdgeGateway

/// An HTTP/2 server of NIO's that answers like gRPC: the content comes back as it comes, with a trailer behind it.
private final class EchoHTTP2 {
    static func start() async throws -> any Channel {
        try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.configureHTTP2Pipeline(mode: .server) { stream in
                    stream.eventLoop.makeCompletedFuture { try stream.pipeline.syncOperations.addHandler(Handler()) }
                }
                .map { _ in }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = HTTP2Frame.FramePayload
        typealias OutboundOut = HTTP2Frame.FramePayload

        private var isHostile = false

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch self.unwrapInboundIn(data) {
            case .headers(let frame) where frame.headers.contains(name: ":method"):
                let te = frame.headers.first(name: "te") ?? "none"
                let path = frame.headers.first(name: ":path") ?? ""
                self.isHostile = path == "/hostile"
                let headers: HPACKHeaders = [
                    ":status": "200", "content-type": "application/grpc", "x-te": te, "x-path": path,
                ]
                context.writeAndFlush(self.wrapOutboundOut(.headers(.init(headers: headers))), promise: nil)
                if frame.endStream { self.end(context) }
            case .headers: self.end(context)
            case .data(let frame):
                // Empty frames on end are an attack (CVE-2019-9518).
                for _ in 0..<(self.isHostile ? 3 : 0) {
                    context.write(self.wrapOutboundOut(.data(.init(data: .byteBuffer(ByteBuffer())))), promise: nil)
                }
                if frame.data.readableBytes > 0 {
                    context.writeAndFlush(self.wrapOutboundOut(.data(.init(data: frame.data))), promise: nil)
                }
                if frame.endStream { self.end(context) }
            default: break
            }
        }

        private func end(_ context: ChannelHandlerContext) {
            let trailers: HPACKHeaders = ["grpc-status": "0"]
            context.writeAndFlush(
                self.wrapOutboundOut(.headers(.init(headers: trailers, endStream: true))),
                promise: nil
            )
        }
    }
}

/// One HTTP/2 connection of a client, whose streams collect what comes.
final class ClientHTTP2: Sendable {
    let channel: any Channel
    let multiplexer: NIOHTTP2Handler.StreamMultiplexer

    init(_ port: UInt16) async throws {
        (self.channel, self.multiplexer) = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .connect(host: "127.0.0.1", port: Int(port)) { channel in
                channel.eventLoop.makeCompletedFuture {
                    let multiplexer = try channel.pipeline.syncOperations.configureHTTP2Pipeline(
                        mode: .client,
                        connectionConfiguration: {
                            var configuration = NIOHTTP2Handler.ConnectionConfiguration()
                            // What a hostile client sends is sent as it is.
                            configuration.headerBlockValidation = .disabled
                            configuration.contentLengthValidation = .disabled
                            return configuration
                        }(),
                        streamConfiguration: .init()
                    ) { $0.close() }
                    return (channel, multiplexer)
                }
            }
    }

    final class Stream: Sendable {
        struct State {
            var headers: [HPACKHeaders] = []
            var data: [UInt8] = []
            var isEnded = false
            var wasReset = false
        }
        let state = Mutex(State())
        let channel = Mutex<(any Channel)?>(nil)

        var status: String? { self.state.withLock { $0.headers.first?.first(name: ":status") } }
        func header(_ name: String) -> String? {
            self.state.withLock { $0.headers.lazy.compactMap { $0.first(name: name) }.first }
        }
        var statuses: [String] { self.state.withLock { $0.headers.compactMap { $0.first(name: ":status") } } }
        var bytes: Int { self.state.withLock { $0.data.count } }
        var text: String { self.state.withLock { String(decoding: $0.data, as: UTF8.self) } }
        var isEnded: Bool { self.state.withLock { $0.isEnded } }
        var wasReset: Bool { self.state.withLock { $0.wasReset } }

        func send(_ payload: HTTP2Frame.FramePayload) async throws {
            guard let channel = self.channel.withLock({ $0 }) else { return }
            try await channel.writeAndFlush(payload)
        }

        func send(_ bytes: Int, ends: Bool) async throws {
            try await self.send(ByteBuffer(repeating: 7, count: bytes), ends: ends)
        }

        func send(_ text: String, ends: Bool = false) async throws {
            try await self.send(ByteBuffer(string: text), ends: ends)
        }

        private func send(_ bytes: ByteBuffer, ends: Bool) async throws {
            try await self.send(.data(.init(data: .byteBuffer(bytes), endStream: ends)))
        }
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = HTTP2Frame.FramePayload
        let stream: Stream
        init(_ stream: Stream) { self.stream = stream }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let frame = self.unwrapInboundIn(data)
            self.stream.state.withLock { state in
                switch frame {
                case .headers(let frame):
                    state.headers.append(frame.headers)
                    if frame.endStream { state.isEnded = true }
                case .data(let frame):
                    if case .byteBuffer(let bytes) = frame.data { state.data += Array(buffer: bytes) }
                    if frame.endStream { state.isEnded = true }
                case .rstStream: state.wasReset = true
                default: break
                }
            }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            self.stream.state.withLock { $0.wasReset = true }
            context.close(promise: nil)
        }

        func channelInactive(context: ChannelHandlerContext) {
            self.stream.state.withLock { if !$0.isEnded { $0.wasReset = true } }
        }
    }

    func open(_ headers: HPACKHeaders, ends: Bool, reads: Bool = true) async throws -> Stream {
        let stream = Stream()
        let channel = try await self.multiplexer.createStreamChannel { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.syncOptions?.setOption(.autoRead, value: reads)
                try channel.pipeline.syncOperations.addHandler(Handler(stream))
            }
        }
        .get()
        stream.channel.withLock { $0 = channel }
        try await stream.send(.headers(.init(headers: headers, endStream: ends)))
        return stream
    }
}

func http2Head(_ method: String = "GET", _ path: String = "/", _ more: [(String, String)] = []) -> HPACKHeaders {
    HPACKHeaders([(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)] + more)
}

@Suite struct HTTP2Tests {
    @Test("curl by prior knowledge, to a backend that speaks HTTP/1.1")
    func curl() async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let url = "http://127.0.0.1:\(port)"
            let text = try shell(
                "curl -sS --max-time 60 --http2-prior-knowledge -w '%{http_version} %{http_code}' \(url)/a?b"
            )
            #expect(text.contains("GET /a?b HTTP/1.1\n") && text.hasSuffix("2 200"))
            #expect(text.contains("host: 127.0.0.1:\(port)\n"))
            let file = try shell("mktemp").filter { !$0.isNewline }
            try shell("head -c 3000000 /dev/zero > \(file)")
            let posted = try shell("curl -sS --max-time 60 --http2-prior-knowledge --data-binary @\(file) \(url)/up")
            #expect(posted.contains("content: 3000000\n"))
            let big = try shell("curl -sS --max-time 60 --http2-prior-knowledge \(url)/big/5000000 | wc -c")
            #expect(big.contains("5000000"))
            let chunked = try shell("curl -sS --max-time 60 --http2-prior-knowledge -i \(url)/chunked")
            #expect(chunked.contains("in chunks") && chunked.contains("x-sum: 3"))
            try shell("rm \(file)")
            #expect(server.connections <= 2)
        }
    }

    /// A gateway before an HTTP/2 server.
    private func withEcho(_ body: (UInt16) async throws -> Void) async throws {
        let server = try await EchoHTTP2.start()
        let port = UInt16(server.localAddress?.port ?? 0)
        try await GatewayRig.with(
            [.http(hosts([forwarding("echo", .http2)]))],
            services: [makeService("echo", ports: [port])]
        ) { _, ports in try await body(ports[0]) }
        try await server.close()
    }

    @Test("a gRPC call streams both ways and ends with its trailers")
    func grpc() async throws {
        try await self.withEcho { port in
            let client = try await ClientHTTP2(port)
            let stream = try await client.open(
                http2Head("POST", "/pkg.Service/Call", [("te", "trailers")]),
                ends: false
            )
            try await eventually("the head") { stream.status == "200" }
            #expect(stream.header("x-te") == "trailers" && stream.header("x-path") == "/pkg.Service/Call")
            for count in 1...5 {
                try await stream.send(100, ends: false)
                try await eventually("message \(count)") { stream.bytes == 100 * count }
            }
            #expect(!stream.isEnded)
            try await stream.send(0, ends: true)
            try await eventually("the end") { stream.isEnded }
            #expect(stream.header("grpc-status") == "0")
            try await client.channel.close()
        }
    }

    @Test("many streams of one connection at once")
    func manyStreams() async throws {
        try await self.withEcho { port in
            let client = try await ClientHTTP2(port)
            var streams: [ClientHTTP2.Stream] = []
            for _ in 0..<60 { streams.append(try await client.open(http2Head("POST"), ends: false)) }
            for stream in streams { try await stream.send(10_000, ends: true) }
            for stream in streams { try await eventually("an end") { stream.isEnded && stream.bytes == 10_000 } }
            try await client.channel.close()
        }
    }

    @Test("a backend that breaks HTTP/2 loses its streams, and the next request gets a new connection")
    func hostileBackend() async throws {
        try await self.withEcho { port in
            let client = try await ClientHTTP2(port)
            let hostile = try await client.open(http2Head("POST", "/hostile"), ends: false)
            let other = try await client.open(http2Head("POST"), ends: false)
            try await eventually("both are answered") { hostile.status == "200" && other.status == "200" }
            try await hostile.send(100, ends: false)
            try await eventually("both are reset") { hostile.wasReset && other.wasReset }
            let next = try await client.open(http2Head("POST"), ends: false)
            try await next.send(100, ends: true)
            try await eventually("the next one's end") { next.isEnded && next.bytes == 100 }
            try await client.channel.close()
        }
    }

    struct Malformed: Sendable, CustomTestStringConvertible {
        var rule: String
        var headers: HPACKHeaders
        init(_ rule: String, _ headers: [(String, String)]) {
            (self.rule, self.headers) = (rule, HPACKHeaders(headers))
        }
        var testDescription: String { self.rule }
    }

    private static let base = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")]

    static let malformed: [Malformed] = [
        Malformed("RFC 9113 8.3: no path", [(":method", "GET"), (":scheme", "http"), (":authority", "x")]),
        Malformed("no method", [(":scheme", "http"), (":authority", "x"), (":path", "/")]),
        Malformed("no scheme", [(":method", "GET"), (":authority", "x"), (":path", "/")]),
        Malformed("an empty path", [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "")]),
        Malformed("a path twice", base + [(":path", "/b")]),
        Malformed("a method twice", base + [(":method", "POST")]),
        Malformed(
            "a pseudo-header field behind others",
            [(":method", "GET"), (":scheme", "http"), ("a", "b"), (":path", "/")]
        ),
        Malformed("a pseudo-header field that nobody knows", base + [(":evil", "x")]),
        Malformed("a response's pseudo-header field", base + [(":status", "200")]),
        Malformed("RFC 9113 8.2.2: Connection", base + [("connection", "close")]),
        Malformed("Transfer-Encoding", base + [("transfer-encoding", "chunked")]),
        Malformed("Keep-Alive", base + [("keep-alive", "1")]),
        Malformed("Proxy-Connection", base + [("proxy-connection", "close")]),
        Malformed("Upgrade", base + [("upgrade", "h2c")]),
        Malformed("TE other than trailers", base + [("te", "gzip")]),
        Malformed("RFC 9113 8.2.1: a name in upper case", base + [("A", "b")]),
        Malformed("a name with a space", base + [("a b", "c")]),
        Malformed("a name with a colon", base + [("a:b", "c")]),
        Malformed("an empty name", base + [("", "c")]),
        Malformed("CRLF in a value", base + [("a", "b\r\nhost: y")]),
        Malformed("LF in a value", base + [("a", "b\nhost: y")]),
        Malformed("NUL in a value", base + [("a", "b\0c")]),
        Malformed(
            "CRLF in the path",
            [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/ HTTP/1.1\r\nA: b")]
        ),
        Malformed(
            "a space in the path",
            [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/ HTTP/1.1")]
        ),
        Malformed(
            "CRLF in the method",
            [(":method", "GET / HTTP/1.1\r\nA: b"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
        ),
        Malformed(
            "CRLF in the authority",
            [(":method", "GET"), (":scheme", "http"), (":authority", "x\r\nA: b"), (":path", "/")]
        ),
        Malformed(
            "user information in the authority",
            [(":method", "GET"), (":scheme", "http"), (":authority", "a@x"), (":path", "/")]
        ),
        Malformed("Host that differs", base + [("host", "y")]),
        Malformed("Host twice", base + [("host", "x"), ("host", "x")]),
        Malformed("two lengths", base + [("content-length", "0"), ("content-length", "1")]),
        Malformed("a length that is no number", base + [("content-length", "0x1")]),
        Malformed("a length that is not kept", base + [("content-length", "5")]),
        Malformed(
            "an absolute path",
            [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "http://y/")]
        ),
        Malformed("CONNECT", [(":method", "CONNECT"), (":authority", "x:80")]),
    ]

    @Test("what is malformed never reaches a backend", arguments: Self.malformed)
    func refuses(_ malformed: Malformed) async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let client = try await ClientHTTP2(port)
            let stream = try? await client.open(malformed.headers, ends: true)
            if let stream {
                try await eventually("an end") { stream.isEnded || stream.wasReset }
                let status = stream.status ?? "reset"
                #expect(["400", "405", "reset"].contains(status), "\(malformed.rule): \(status)")
            }
            #expect(server.requests.isEmpty, "\(malformed.rule)")
            try? await client.channel.close()
        }
    }

    @Test("a head longer than allowed ends at the gateway")
    func longHeads() async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let client = try await ClientHTTP2(port)
            let fields = (0..<200).map { ("x-\($0)", String(repeating: "v", count: 300)) }
            let stream = try? await client.open(http2Head("GET", "/", fields), ends: true)
            if let stream { try await eventually("an end") { stream.isEnded || stream.wasReset } }
            #expect(server.requests.isEmpty)
            try? await client.channel.close()
        }
    }

    @Test("a client that opens and resets without end loses its connection")
    func rapidReset() async throws {
        try await HTTPProxyTests.withWeb { port, _, _ in
            let client = try await ClientHTTP2(port)
            for _ in 0..<1_000 {
                guard client.channel.isActive,
                    let stream = try? await client.open(http2Head("GET", "/hang"), ends: true)
                else { break }
                try? await stream.send(.rstStream(.cancel))
            }
            try await eventually("the connection ends") { !client.channel.isActive }
            #expect(
                try await RawClient.exchange(port, "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").contains(
                    "GET /x"
                )
            )
        }
    }
}
