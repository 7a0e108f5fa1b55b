import ByteStreams
import EndpointBalancing
import KubeModel
import LinuxNetwork
import LoadBalancing
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import EdgeProxy
@testable import ServiceCatalog

/// A tunnel whose streams are sockets of one loop, as those of a connection to one peer are.
final class FakeTunnel: NodeTunneling {
    struct State {
        var targets: [TunnelTarget] = []
        var refused: Set<String> = []
        var receive: (@Sendable (Set<String>) -> Void)?
    }

    let loop: any EventLoop
    /// Whether it says before a dial where the stream will live, as one with a connection to the node does.
    let tellsLoop: Bool
    let state = Mutex(State())
    private let sockets = EndpointDialer(reach: EndpointReach(nodeName: "elsewhere"), tunnel: nil)

    init(loop: any EventLoop, tellsLoop: Bool = false, refused: Set<String> = []) {
        self.loop = loop
        self.tellsLoop = tellsLoop
        self.state.withLock { $0.refused = refused }
    }

    var targets: [TunnelTarget] { self.state.withLock { $0.targets } }
    var paths: [String: NodePath] { [:] }

    func eventLoop(for node: String) -> (any EventLoop)? { self.tellsLoop ? self.loop : nil }

    private func open(
        _ target: TunnelTarget,
        _ open: (ResolvedEndpoint, FlowOrigin) -> EventLoopFuture<any Channel>
    ) -> EventLoopFuture<any Channel> {
        let isRefused = self.state.withLock { state in
            state.targets.append(target)
            return state.refused.contains(target.node)
        }
        if isRefused {
            return self.loop.makeFailedFuture(TunnelError(code: .noPath, message: "no path to \(target.node)"))
        }
        let endpoint = Endpoint(address: target.address.address, nodeName: target.node)
        return open(ResolvedEndpoint(endpoint: endpoint, port: target.address.port), FlowOrigin())
    }

    func openStream(
        to target: TunnelTarget,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart?
    ) -> EventLoopFuture<any Channel> {
        self.open(target) { self.sockets.dial($0, for: $1, on: self.loop, deadline: deadline) }
    }

    func openDatagrams(
        to target: TunnelTarget,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel> {
        self.open(target) { self.sockets.dialDatagrams($0, for: $1, on: self.loop, deadline: deadline) }
    }

    func observeUnreachableNodes(_ receive: @escaping @Sendable (Set<String>) -> Void) -> TunnelObservation {
        self.state.withLock { $0.receive = receive }
        receive([])
        return TunnelObservation { self.state.withLock { $0.receive = nil } }
    }

    func tell(unreachable nodes: Set<String>) {
        self.state.withLock { $0.receive }?(nodes)
    }
}

@Suite("Flows through the tunnel", .timeLimit(.minutes(1)))
struct TunnelledFlowTests {
    private static let otherLoop = MultiThreadedEventLoopGroup.singleton.next()

    @Test(
        "a connection follows its stream to another loop, and loses no byte",
        arguments: [1, 3_000_000],
        [false, true]
    )
    func moves(size: Int, isLoopKnown: Bool) async throws {
        let server = try await Loopback.lateEcho("127.0.0.1")
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        let tunnel = FakeTunnel(loop: Self.otherLoop, tellsLoop: isLoopKnown)
        try await Loopback.withProxy([service], tunnel: tunnel) { proxy, listeners, _, _ in
            let sent = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 7) }
            // The kernel spreads connections over the listeners of all loops.
            for _ in 0..<12 {
                let exchange = try await Loopback.exchange(listeners.tcpV4, send: sent, endOutput: true)
                #expect(exchange.bytes == sent)
                #expect(!exchange.wasReset)
            }
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
            let accepted = await Loopback.total(proxy, \.connectionsAccepted)
            let moved = await Loopback.total(proxy, \.connectionsMoved)
            #expect(accepted == 12)
            // Only those that were accepted on the stream's own loop stay.
            #expect(moved <= accepted)
            #expect(moved > 0 || Array(Loopback.group.makeIterator()).count == 1)
            let balancers = await proxy.parts.programmer.balancers
            #expect(balancers.flatMap { $0.status(limit: 10) }.allSatisfy { $0.active == 0 })
        }
        let targets = tunnel.targets
        #expect(targets.count == 12)
        #expect(targets.allSatisfy { $0.node == "elsewhere" && $0.service?.name == "web" && $0.client != nil })
        try await server.close()
    }

    @Test("what was read to find the hash key goes along", arguments: [false, true])
    func sniffedBytes(isLoopKnown: Bool) async throws {
        let server = try await Loopback.lateEcho("127.0.0.1")
        let policy = LoadBalancingPolicy.consistentHash(
            ConsistentHashPolicy(key: .httpHeader("user-agent"), algorithm: .maglev(tableSize: 131))
        )
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server), policy: policy)
        let tunnel = FakeTunnel(loop: Self.otherLoop, tellsLoop: isLoopKnown)
        try await Loopback.withProxy([service], tunnel: tunnel) { _, listeners, _, _ in
            let request = Array("GET / HTTP/1.1\r\nHost: web\r\nUser-Agent: curl\r\n\r\n".utf8)
            for _ in 0..<8 {
                let exchange = try await Loopback.exchange(listeners.tcpV4, send: request, endOutput: true)
                #expect(exchange.bytes == request)
            }
        }
        try await server.close()
    }

    @Test("datagrams cross loops both ways", arguments: [0, 1, 4_097, 65_507])
    func datagrams(size: Int) async throws {
        let server = DatagramPeer { $0 }
        let serverChannel = try await server.open("127.0.0.1")
        let service = try Loopback.service(
            ["127.0.0.1"],
            port: Loopback.port(serverChannel),
            transportProtocol: .udp
        )
        try await Loopback.withProxy([service], tunnel: FakeTunnel(loop: Self.otherLoop)) { proxy, listeners, _, _ in
            for _ in 0..<4 {
                let client = DatagramPeer()
                let channel = try await client.open("127.0.0.1")
                let bytes = [UInt8](repeating: 5, count: size)
                for datagram in [bytes, [9]] {
                    try await channel.writeAndFlush(
                        AddressedEnvelope(
                            remoteAddress: SocketAddress(listeners.udpV4),
                            data: ByteBuffer(bytes: datagram)
                        )
                    )
                }
                try await client.wait(2)
                #expect(client.received == [bytes, [9]])
                try await channel.close()
            }
            #expect(await Loopback.total(proxy, \.datagrams.sessionsOpened) == 4)
        }
        try await serverChannel.close()
    }

    @Test("a node without a path costs a dial, and nothing once the tunnel has told of it", arguments: [false, true])
    func unreachable(isLoopKnown: Bool) async throws {
        let server = try await Loopback.lateEcho("127.0.0.3")
        let service = try makeService(
            endpointPort: Loopback.port(server),
            endpoints: [endpoint("127.0.0.2", node: "dead"), endpoint("127.0.0.3", node: "alive")]
        )
        let tunnel = FakeTunnel(loop: Self.otherLoop, tellsLoop: isLoopKnown, refused: ["dead"])
        try await Loopback.withProxy([service], tunnel: tunnel) { proxy, listeners, _, _ in
            for _ in 0..<4 { #expect(try await self.isServed(listeners)) }
            #expect(await Loopback.total(proxy, \.dialsFailed) > 0)
            func endpoints() async -> Int { await proxy.parts.programmer.balancers.first?.endpointCount ?? 0 }
            #expect(await endpoints() == 2)
            tunnel.tell(unreachable: ["dead", "unheard of"])
            while await endpoints() != 1 { try await Loopback.pause() }
            let failed = await Loopback.total(proxy, \.dialsFailed)
            for _ in 0..<6 { #expect(try await self.isServed(listeners)) }
            #expect(await Loopback.total(proxy, \.dialsFailed) == failed)
            // If none can be reached, all are tried: what is known may be a moment old.
            tunnel.tell(unreachable: ["dead", "alive"])
            while await endpoints() != 2 { try await Loopback.pause() }
            tunnel.tell(unreachable: [])
            #expect(try await self.isServed(listeners))
        }
        try await server.close()
    }

    private func isServed(_ listeners: ProxyListeners) async throws -> Bool {
        try await Loopback.exchange(listeners.tcpV4, send: [7], endOutput: true).bytes == [7]
    }
}
