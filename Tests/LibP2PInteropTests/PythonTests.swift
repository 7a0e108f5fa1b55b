import LibP2P
import LibP2PSecurity
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerTesting
import Testing

/// With py-libp2p, by a script of ours: we dial it, and it dials us.
@Suite(.serialized) struct PythonTests {
    /// py-libp2p opens streams one after the other in milliseconds each.
    static let streams = 200

    private func start(
        _ way: Way,
        _ arguments: [String] = [],
        limit: TimeAmount = Peers.lifetime
    ) throws -> PeerProcess {
        try Peers.startPython(["-listen", way.address, "-security", way.securityName] + arguments, limit: limit)
    }

    /// The same for a gigabyte each way, by one way for each that dials: py-libp2p takes about a minute for each transfer.
    @Test func weDialForAGigabyte() async throws {
        let way = Way(transport: "tcp", security: .noise)
        let peer = try self.start(way, limit: Peers.longLifetime)
        let address = try await peer.address()
        try await withHost(TestHost(security: [way.security])) { host in
            let remote = try await host.connect(to: address).remotePeer
            try await host.testSink(remote, bytes: Peers.gigabyte)
            try await host.testSource(remote, bytes: Peers.gigabyte, hashes: true)
        }
    }

    @Test func itDialsForAGigabyte() async throws {
        let way = Way(transport: "tcp", security: .tls)
        try await withHost(TestHost(listen: [way.address], security: [way.security])) { host in
            let address = try host.address(way).description
            let operations = ["sink", "source"]
            let arguments = ["-dial", address, "-op", operations.joined(separator: ","), "-bytes", "\(Peers.gigabyte)"]
            let peer = try self.start(way, arguments, limit: Peers.longLifetime)
            let output = try await peer.finish(within: 600)
            for operation in operations { #expect(output.contains("\(operation) ok"), "\(output)") }
        }
    }

    @Test(arguments: Way.all) func weDial(_ way: Way) async throws {
        let peer = try self.start(way)
        let address = try await peer.address()
        try await withHost(TestHost(security: [way.security])) { host in
            let connection = try await host.connect(to: address)
            let remote = connection.remotePeer
            #expect(connection.securityProtocol == way.security.rawValue)
            #expect(try await connection.ping().get() > .zero)
            #expect(try await host.identification(of: connection).protocols.contains(.ping))
            try await host.testEcho(remote, bytes: Peers.smallBulk)
            try await host.testEcho(remote, bytes: 100_000, readsLate: true)
            try await host.testSink(remote, bytes: Peers.smallBulk)
            try await host.testSource(remote, bytes: Peers.smallBulk, hashes: true)
            try await host.testReset(remote)
            try await host.testStreams(remote, count: Self.streams)
        }
    }

    @Test(arguments: Way.all) func itDials(_ way: Way) async throws {
        try await withHost(TestHost(listen: [way.address], security: [way.security])) { host in
            let address = try host.address(way).description
            let operations = ["ping", "echo", "sink", "source", "reset", "streams"]
            let peer = try self.start(
                way,
                [
                    "-dial", address, "-op", operations.joined(separator: ","), "-bytes", "\(Peers.smallBulk)",
                    "-streams", "\(Self.streams)",
                ]
            )
            let output = try await peer.finish(within: 120)
            for operation in operations { #expect(output.contains("\(operation) ok"), "\(output)") }
        }
    }

    /// The private networks of py-libp2p 0.8.1 are none of the specification: Salsa20 with a nonce of 8 bytes where
    /// XSalsa20 has one of 24. What it sends before it hears anything is 16 bytes short; so no peer can talk to it, and ours says why.
    @Test func itsPrivateNetworksAreItsOwn() async throws {
        let psk = Array("a key that both have".utf8)
        let key = PreSharedKey(originalFileBytes: psk).bytes
            .map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        let way = Way(transport: "tcp", security: .noise)
        let header = "/multistream/1.0.0\n".utf8.count + 1

        let received = MultiThreadedEventLoopGroup.singleton.next().makePromise(of: Int.self)
        let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(SilentCounter(atLeast: 8 + header, received))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        let port = try #require(listener.localAddress?.port)
        let id = try await withHost(TestHost(psk: psk)) { $0.peerID }
        let dialer = try self.start(
            way,
            ["-psk", key, "-dial", "/ip4/127.0.0.1/tcp/\(port)/p2p/\(id)", "-seconds", "5"]
        )
        let count = try await received.futureResult.get(within: .seconds(60), for: "the first bytes of py-libp2p")
        #expect(count == 8 + header)
        await #expect(throws: TestPeerError.self) { try await dialer.finish(within: 30) }
        try await listener.close().get()

        let peer = try self.start(way, ["-psk", key])
        let address = try await peer.address()
        try await withHost(TestHost(security: [.noise], psk: psk)) { host in
            let error = await #expect(throws: LibP2PError.self) { _ = try await host.connect(to: address) }
            let attempt = try #require(error?.attempts.first?.error as? LibP2PError)
            #expect(attempt.code == .wrongPreSharedKey || attempt.code == .timedOut, "\(attempt)")
        }
    }
}

/// Counts what a peer sends before it hears anything: all that comes within half a second of the least that must.
private final class SilentCounter: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let least: Int
    private let promise: EventLoopPromise<Int>
    private var count = 0

    init(atLeast least: Int, _ promise: EventLoopPromise<Int>) {
        self.least = least
        self.promise = promise
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let before = self.count
        self.count += self.unwrapInboundIn(data).readableBytes
        guard before < self.least, self.count >= self.least else { return }
        context.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(500)) {
            self.promise.succeed(self.count)
            context.close(promise: nil)
        }
    }
}
