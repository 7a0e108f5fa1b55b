import LibP2PSecurity
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Synchronization
import Testing
import Yamux

@testable import LibP2P

extension SocketTests {
    /// Peers that take their time, at each stage on the way to a connection, and very many of them.
    @Suite struct SlowPeerTests {
        struct Stage: CustomTestStringConvertible, Sendable {
            let testDescription: String
            var isPrivate = false
            /// What comes at once; then byte follows byte.
            var begins: [UInt8] = []
            var drips: [UInt8] = []
        }

        private static func lines(_ lines: String...) -> [UInt8] {
            lines.flatMap { [UInt8($0.utf8.count + 1)] + Array("\($0)\n".utf8) }
        }

        /// More than there is time for.
        private static let zeros = [UInt8](repeating: 0, count: 1000)

        private static let stages = [
            Stage(testDescription: "the private network's nonce", isPrivate: true, drips: zeros),
            Stage(testDescription: "nothing at all"),
            Stage(testDescription: "multistream-select", drips: lines("/multistream/1.0.0")),
            Stage(testDescription: "a proposal", begins: lines("/multistream/1.0.0") + [0x7F], drips: zeros),
            Stage(
                testDescription: "Noise",
                begins: lines("/multistream/1.0.0", "/noise") + [0x01, 0x00],
                drips: zeros
            ),
            Stage(
                testDescription: "TLS",
                begins: lines("/multistream/1.0.0", "/tls/1.0.0") + [0x16, 0x03, 0x01, 0x02, 0x00],
                drips: zeros
            ),
        ]

        private static func tcp(_ host: Host) throws -> SocketAddress {
            let address = try #require(host.listenAddresses.first)
            return try SocketAddress(
                ipAddress: "\(try #require(address.ipAddress))",
                port: Int(try #require(address.port))
            )
        }

        private static func client(_ address: SocketAddress) async throws -> any Channel {
            try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton).connect(to: address).get()
        }

        private static func expectIdle(_ host: Host) async throws {
            try await eventually("no handshake is left") {
                host.metrics.inboundHandshakes == 0 && host.metrics.openConnectionsInbound == 0
                    && host.state.withLock { $0.handshakes.isEmpty && $0.inboundHandshakes.addressCount == 0 }
            }
        }

        @Test(arguments: Self.stages) func whoDripsIsCutOff(_ stage: Stage) async throws {
            let host = try await makeHost {
                $0.handshakeTimeout = .milliseconds(300)
                $0.preSharedKey = stage.isPrivate ? PreSharedKey(originalFileBytes: "key".utf8) : nil
            }
            try await withHosts(host) {
                let channel = try await Self.client(Self.tcp(host))
                channel.writeAndFlush(ByteBuffer(bytes: stage.begins), promise: nil)
                let left = NIOLoopBoundBox.makeBoxSendingValue(stage.drips[...], eventLoop: channel.eventLoop)
                let drip = channel.eventLoop.scheduleRepeatedTask(
                    initialDelay: .zero,
                    delay: .milliseconds(30)
                ) { _ in
                    guard let byte = left.value.popFirst() else { return }
                    channel.writeAndFlush(ByteBuffer(bytes: [byte]), promise: nil)
                }
                try await channel.closeFuture.get()
                drip.cancel()
                try await Self.expectIdle(host)
                #expect(host.metrics.handshakesFailed == 1)
                #expect(host.metrics.connectionsAccepted == 0)
            }
        }

        /// It proves who it is, then says nothing to the multiplexer.
        @Test func whoIsSilentBehindItsHandshakeIsCutOff() async throws {
            let host = try await makeHost {
                $0.security = [.noise]
                $0.yamux.keepAliveInterval = .milliseconds(400)
                $0.yamux.keepAliveTimeout = .milliseconds(200)
            }
            try await withHosts(host) {
                let noise = try NoiseSecurity(identity: .generate())
                let channel = try await Self.client(Self.tcp(host))
                let secured = try await channel.eventLoop.flatSubmit { () -> EventLoopFuture<SecuredPeer> in
                    let opening = Self.lines("/multistream/1.0.0", "/noise")
                    channel.writeAndFlush(ByteBuffer(bytes: opening), promise: nil)
                    do {
                        // The answer, of as many bytes, is passed over.
                        try channel.pipeline.syncOperations.addHandler(SkippingHandler(opening.count))
                    } catch { return channel.eventLoop.makeFailedFuture(error) }
                    return noise.secure(
                        channel,
                        role: .initiator,
                        expectedPeer: host.peerID,
                        muxers: ["/yamux/1.0.0"],
                        received: nil
                    )
                }.get()
                #expect(secured.remotePeer == host.peerID)
                try await channel.closeFuture.get()
                try await Self.expectIdle(host)
                #expect(host.metrics.connectionsAccepted == 1)
            }
        }

        @Test func whoUpgradesToWebSocketSlowlyIsCutOff() async throws {
            var configuration = WebSocketTransport.Configuration()
            configuration.upgradeTimeout = .milliseconds(300)
            let host = try await makeHost(
                listen: ["/ip4/127.0.0.1/tcp/0/ws"],
                transports: [WebSocketTransport(configuration: configuration)]
            )
            try await withHosts(host) {
                let channel = try await Self.client(Self.tcp(host))
                let drip = channel.eventLoop.scheduleRepeatedTask(initialDelay: .zero, delay: .milliseconds(30)) { _ in
                    channel.writeAndFlush(ByteBuffer(string: "G"), promise: nil)
                }
                try await channel.closeFuture.get()
                drip.cancel()
            }
        }

        /// A flood of connections from one address neither gets in nor keeps others out.
        @Test func aFloodFromOneAddressLeavesRoomForOthers() async throws {
            let host = try await makeHost(listen: ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]) {
                $0.maximumInboundHandshakes = 40
                $0.maximumInboundHandshakesPerAddress = 20
            }
            let guest = try await makeHost(listen: [])
            try await withHosts(host, guest) {
                let flooded = try Self.tcp(host)
                var flood: [any Channel] = []
                for _ in 0..<200 { flood.append(try await Self.client(flooded)) }
                try await eventually("the surplus is refused") { host.metrics.connectionsRefused == 180 }
                #expect(host.metrics.inboundHandshakes == 20)
                try await eventually("the surplus is closed") { flood.count { $0.isActive } == 20 }
                let other = try #require(host.listenAddresses.last)
                _ = try await guest.connect(to: host.peerID, addresses: [other])
                try await eventually("the guest is in") { host.connections(to: guest.peerID).count == 1 }
                // From the flooded address itself, as soon as it ends.
                await #expect(throws: LibP2PError.self) {
                    try await guest.connect(
                        to: host.peerID,
                        addresses: [try #require(host.listenAddresses.first)],
                        options: DialOptions(reuse: .never, onlyGivenAddresses: true)
                    )
                }
                for channel in flood { channel.close(promise: nil) }
                try await eventually("the flood is over") { host.metrics.inboundHandshakes == 0 }
                _ = try await guest.connect(
                    to: host.peerID,
                    addresses: [try #require(host.listenAddresses.first)],
                    options: DialOptions(reuse: .never, onlyGivenAddresses: true, ignoreBackoff: true)
                )
            }
        }
    }
}

/// Passes over the first bytes of a connection.
private final class SkippingHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private var left: Int

    init(_ count: Int) { self.left = count }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        let skipped = min(self.left, bytes.readableBytes)
        bytes.moveReaderIndex(forwardBy: skipped)
        self.left -= skipped
        if bytes.readableBytes > 0 { context.fireChannelRead(self.wrapInboundOut(bytes)) }
    }
}
