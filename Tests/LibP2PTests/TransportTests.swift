import ByteStreams
import FakeKube
import LibP2PTesting
import MeshTesting
import Multiformats
import NIOCore
import NIOEmbedded
import NIOPosix
import NIOSSL
import NIOWebSocket
import PeerIdentity
import Testing

@testable import LibP2P

extension SocketTests {
    @Suite struct TransportTests {
        enum Kind: String, CaseIterable, Sendable {
            case tcp4 = "/ip4/127.0.0.1/tcp/0"
            case tcp6 = "/ip6/::1/tcp/0"
            case webSocket = "/ip4/127.0.0.1/tcp/0/ws"
            case webSocket6 = "/ip6/::1/tcp/0/ws"
            case secureWebSocket = "/ip4/127.0.0.1/tcp/0/wss"
            case tlsWebSocket = "/ip4/127.0.0.1/tcp/0/tls/ws"

            func make() throws -> any Transport {
                switch self {
                case .tcp4, .tcp6: TCPTransport()
                case .webSocket, .webSocket6: WebSocketTransport()
                case .secureWebSocket, .tlsWebSocket: try TransportTests.secureWebSocket(verify: false)
                }
            }

            /// An address of the loopback block for each check over IPv4, so that a port that one has let go is not another's.
            func address(for check: TransportConformance.Check) throws -> Multiaddr {
                let kinds = Self.allCases.firstIndex(of: self) ?? 0
                let checks = TransportConformance.Check.allCases.firstIndex(of: check) ?? 0
                return try Multiaddr(self.rawValue.replacing("127.0.0.1", with: "127.1.\(kinds).\(checks + 1)"))
            }

            var foreign: String { self == .tcp4 || self == .tcp6 ? "/ip4/127.0.0.1/tcp/0/ws" : "/ip4/127.0.0.1/tcp/0" }
        }

        static let certificates = Result { try FakeKubeCertificates(names: ["relay.example"], addresses: []) }

        static func secureWebSocket(verify: Bool) throws -> WebSocketTransport {
            let identity = try Self.certificates.get()
            let server = TLSConfiguration.makeServerConfiguration(
                certificateChain: try NIOSSLCertificate.fromPEMBytes(Array(identity.server.certificatePEM.utf8))
                    .map { .certificate($0) },
                privateKey: .privateKey(try NIOSSLPrivateKey(bytes: Array(identity.server.keyPEM.utf8), format: .pem))
            )
            var client = TLSConfiguration.makeClientConfiguration()
            if verify {
                client.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(identity.authorityPEM.utf8)))
            } else {
                client.certificateVerification = .none
            }
            return WebSocketTransport(
                configuration: .init(serverTLS: try NIOSSLContext(configuration: server), clientTLS: client)
            )
        }

        @Test(arguments: Kind.allCases, TransportConformance.Check.allCases)
        func conforms(_ kind: Kind, _ check: TransportConformance.Check) async throws {
            try await TransportConformance(
                dialer: try kind.make(),
                listener: try kind.make(),
                listenAddress: try kind.address(for: check),
                foreignAddress: try Multiaddr(kind.foreign),
                group: MultiThreadedEventLoopGroup.singleton
            ).run(check)
        }

        @Test func theNameOfAnAddressIsProvenByTLS() async throws {
            let transport = try Self.secureWebSocket(verify: true)
            let group = MultiThreadedEventLoopGroup.singleton
            let listener = try await transport.listen(on: try Multiaddr("/ip4/127.0.0.1/tcp/0/wss"), group: group) {
                _ in
            }
            .get()
            let port = try #require(listener.address.port)
            func dial(_ name: String) async throws {
                let loop = group.next()
                let raw = try await transport.dial(
                    try Multiaddr("/ip4/127.0.0.1/tcp/\(port)/tls/sni/\(name)/ws"),
                    on: loop,
                    options: TransportDialOptions(deadline: loop.now + .seconds(10))
                ).get()
                try? await raw.channel.close()
            }
            try await dial("relay.example")
            await #expect(throws: (any Error).self) { try await dial("other.example") }
            try await listener.close().get()
        }

        @Test func withoutACertificateNobodyListensSecurely() throws {
            let transport = WebSocketTransport()
            #expect(!transport.canListen(on: try Multiaddr("/ip4/127.0.0.1/tcp/0/wss")))
            #expect(transport.canDial(try Multiaddr("/ip4/127.0.0.1/tcp/1/wss")))
            #expect(!transport.canDial(try Multiaddr("/ip4/127.0.0.1/tcp/1/tls")))
        }

        @Test func dialsLeaveFromTheListeningPort() async throws {
            let group = MultiThreadedEventLoopGroup.singleton
            let transport = TCPTransport()
            let here = try await transport.listen(on: try Multiaddr("/ip4/0.0.0.0/tcp/0"), group: group) { _ in }.get()
            let there = try await TCPTransport().listen(on: try Multiaddr("/ip4/127.0.0.1/tcp/0"), group: group) { _ in
            }
            .get()
            let loop = group.next()
            func dial(_ options: (inout TransportDialOptions) -> Void) async throws -> RawConnection {
                var all = TransportDialOptions(deadline: loop.now + .seconds(10))
                options(&all)
                return try await transport.dial(there.address, on: loop, options: all).get()
            }
            let first = try await dial { $0.reusePort = true }
            #expect(first.localAddress.port == here.address.port)
            // Another from that port to that address cannot be: any port will do, unless one was asked for.
            let second = try await dial { $0.reusePort = true }
            #expect(second.localAddress.port != here.address.port)
            await #expect(throws: (any Error).self) { try await dial { $0.localPort = here.address.port } }
            let plain = try await dial { _ in }
            #expect(plain.localAddress.port != here.address.port)
            for raw in [first, second, plain] { try? await raw.channel.close() }
            try await here.close().get()
            try await there.close().get()
        }

        @Test func aDialHasADeadline() async throws {
            // One that has passed already.
            let loop = MultiThreadedEventLoopGroup.singleton.next()
            let past = TransportDialOptions(deadline: loop.now - .seconds(1))
            let error = await #expect(throws: LibP2PError.self) {
                try await TCPTransport().dial(try Multiaddr("/ip4/127.0.0.1/tcp/1"), on: loop, options: past).get()
            }
            #expect(error?.code == .timedOut)
        }

        @Test(arguments: [false, true]) func aPortThatAnotherSocketListensOnIsAConflict(_ isV6: Bool) async throws {
            let host = isV6 ? "/ip6/::1" : "/ip4/127.0.0.1"
            let group = MultiThreadedEventLoopGroup.singleton
            // Another process would share its port in the same way.
            let other = try await TCPTransport().listen(on: try Multiaddr("\(host)/tcp/0"), group: group) { _ in }.get()
            for (transport, layer) in [(TCPTransport(), ""), (WebSocketTransport(), "/ws")] as [(any Transport, String)]
            {
                let address = try Multiaddr("\(host)/tcp/\(try #require(other.address.port))\(layer)")
                let error = await #expect(throws: LibP2PError.self) {
                    try await transport.listen(on: address, group: group) { _ in }.get()
                }
                #expect(error?.code == .listenFailed)
            }
            try await other.close().get()
        }

        @Test func upgradesAreBounded() async throws {
            let group = MultiThreadedEventLoopGroup.singleton
            var configuration = WebSocketTransport.Configuration()
            configuration.maximumUpgradesPerAddress = 2
            configuration.upgradeTimeout = .hours(1)
            let transport = WebSocketTransport(configuration: configuration)
            let listener = try await transport.listen(on: try Multiaddr("/ip4/127.0.0.1/tcp/0/ws"), group: group) { _ in
            }
            .get()
            let port = Int(try #require(listener.address.port))
            var held: [any Channel] = []
            for _ in 0..<2 {
                held.append(try await ClientBootstrap(group: group).connect(host: "127.0.0.1", port: port).get())
            }
            // Those that come while two are silent are closed.
            let third = try await ClientBootstrap(group: group).connect(host: "127.0.0.1", port: port).get()
            try await third.closeFuture.get()
            for channel in held { try await channel.close() }
            let options = TransportDialOptions(deadline: .now() + .seconds(60))
            try await eventually("the places are free again") {
                let raw = try? await WebSocketTransport().dial(listener.address, on: group.next(), options: options)
                    .get()
                raw?.channel.close(promise: nil)
                return raw != nil
            }
            try await listener.close().get()
        }

        // MARK: Frames

        private static func channel(isServer: Bool) throws -> EmbeddedChannel {
            let channel = EmbeddedChannel(handler: WebSocketByteHandler(isServer: isServer))
            try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
            return channel
        }

        private static func frame(
            _ opcode: WebSocketOpcode,
            _ text: String,
            fin: Bool = true,
            masked: Bool = true
        ) -> WebSocketFrame {
            let key: WebSocketMaskingKey? = masked ? [1, 2, 3, 4] : nil
            var bytes = ByteBuffer(string: text)
            if let key { bytes.webSocketMask(key) }
            return WebSocketFrame(fin: fin, opcode: opcode, maskKey: key, data: bytes)
        }

        @Test func fragmentsAndControlFramesAreBytesAndAnswers() throws {
            let channel = try Self.channel(isServer: true)
            try channel.writeInbound(Self.frame(.binary, "one ", fin: false))
            try channel.writeInbound(Self.frame(.ping, "are you there"))
            try channel.writeInbound(Self.frame(.continuation, "two"))
            try channel.writeInbound(Self.frame(.pong, ""))
            #expect(try channel.readInbound(as: ByteBuffer.self) == ByteBuffer(string: "one "))
            #expect(try channel.readInbound(as: ByteBuffer.self) == ByteBuffer(string: "two"))
            let pong = try #require(try channel.readOutbound(as: WebSocketFrame.self))
            #expect(pong.opcode == .pong)
            #expect(String(buffer: pong.data) == "are you there")
            try channel.writeInbound(Self.frame(.connectionClose, ""))
            #expect(try channel.readOutbound(as: WebSocketFrame.self)?.opcode == .connectionClose)
            #expect(!channel.isActive)
        }

        @Test(arguments: [true, false]) func whoMasksIsFixed(_ isServer: Bool) throws {
            let channel = try Self.channel(isServer: isServer)
            #expect(throws: LibP2PError.self) {
                try channel.writeInbound(Self.frame(.binary, "x", masked: !isServer))
            }
            #expect(!channel.isActive)
        }

        @Test func textIsRefused() throws {
            let channel = try Self.channel(isServer: true)
            #expect(throws: LibP2PError.self) { try channel.writeInbound(Self.frame(.text, "x")) }
            #expect(try channel.readOutbound(as: WebSocketFrame.self)?.opcode == .connectionClose)
        }

        /// What a client writes, as NIO decodes it.
        @Test(arguments: [0, 1, 7, 8, 125, 126, 1000, 32_768, 32_769, 70_000])
        func writesAreCutAndMasked(_ length: Int) throws {
            let client = EmbeddedChannel(handlers: [WebSocketFrameEncoder(), WebSocketByteHandler(isServer: false)])
            let server = EmbeddedChannel(handler: ByteToMessageHandler(WebSocketFrameDecoder(maxFrameSize: 32_768)))
            for channel in [client, server] {
                try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
            }
            let bytes = ByteBuffer(bytes: (0..<length).map { UInt8(truncatingIfNeeded: $0 / 3) })
            try client.writeOutbound(bytes)
            while let piece = try client.readOutbound(as: ByteBuffer.self) { try server.writeInbound(piece) }
            var sizes: [Int] = []
            var unmasked = ByteBuffer()
            while let frame = try server.readInbound(as: WebSocketFrame.self) {
                #expect(frame.opcode == .binary && frame.fin && frame.maskKey != nil)
                sizes.append(frame.data.readableBytes)
                unmasked.writeImmutableBuffer(frame.unmaskedData)
            }
            #expect(unmasked == bytes)
            let whole = [Int](repeating: 32_768, count: max(0, length - 1) / 32_768)
            #expect(sizes == whole + [length - whole.reduce(0, +)])
        }

        @Test(arguments: [0, 1, 7, 8, 9, 1000]) func framesAreUnmasked(_ length: Int) throws {
            let channel = try Self.channel(isServer: true)
            let text = String((0..<length).map { "\($0 % 10)".first ?? " " })
            try channel.writeInbound(Self.frame(.binary, text))
            let bytes = try channel.readInbound(as: ByteBuffer.self)
            #expect(bytes.map { String(buffer: $0) } ?? "" == text)
        }

        @Test func requestsThatAreNoWebSocketAreAnswered() async throws {
            let group = MultiThreadedEventLoopGroup.singleton
            let listener = try await WebSocketTransport()
                .listen(on: try Multiaddr("/ip4/127.0.0.1/tcp/0/ws"), group: group) { _ in }.get()
            let port = try #require(listener.address.port)
            for (request, status) in [
                ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426 "),
                (
                    "GET /other HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
                        + "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                    "HTTP/1.1 426 "
                ),
            ] {
                let answer = group.next().makePromise(of: ByteBuffer.self)
                let channel = try await ClientBootstrap(group: group).channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(UntilClosed(answer))
                    }
                }.connect(host: "127.0.0.1", port: Int(port)).get()
                try await channel.writeAndFlush(ByteBuffer(string: request))
                let text = String(buffer: try await answer.futureResult.get())
                #expect(text.hasPrefix(status), "\(text)")
            }
            try await listener.close().get()
        }
    }
}

/// Gathers what comes until the connection is closed.
private final class UntilClosed: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let promise: EventLoopPromise<ByteBuffer>
    private var bytes = ByteBuffer()

    init(_ promise: EventLoopPromise<ByteBuffer>) {
        self.promise = promise
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var read = self.unwrapInboundIn(data)
        self.bytes.writeBuffer(&read)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.promise.succeed(self.bytes)
    }
}
