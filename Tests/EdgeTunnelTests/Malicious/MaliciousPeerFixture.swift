import ByteStreams
import Documents
import Glibc
import KubeModel
import LibP2P
import LibP2PSecurity
import Logging
import MeshCore
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import ServiceCatalog
import Synchronization
import Testing
import Yamux

@testable import EdgeTunnel

/// A node of the mesh that is attacked, an honest one beside the attacker, and what runs behind them. Real sockets on loopback.
final class MaliciousPeerFixture: Sendable {
    static let victim = "edge-victim"
    static let honest = "edge-honest"
    /// Sends back what comes.
    static let echo = TransportAddress(.v4(IPv4Address(10, 1, 0, 7)), 80)
    /// Sends for as long as somebody reads.
    static let endless = TransportAddress(.v4(IPv4Address(10, 1, 0, 8)), 80)
    /// An endpoint of the honest node.
    static let elsewhere = TransportAddress(.v4(IPv4Address(10, 2, 0, 7)), 80)
    static let key = PreSharedKey(originalFileBytes: Array("the key of this cluster".utf8))

    let victim: MeshNode
    let honest: MeshNode
    /// What the victim knows of the cluster.
    let catalog: ClusterCatalog
    private let dials: DialLog
    private let attackers = Mutex<[Host]>([])

    /// What the victim has dialled for others.
    var dialled: [TransportAddress] { self.dials.targets.withLock { $0 } }

    private init(_ servers: [TransportAddress: TransportAddress], _ configure: (inout TunnelSettings) -> Void) throws {
        self.dials = DialLog(servers)
        self.catalog = ClusterCatalog()
        self.victim = try Self.node(Self.victim, self.dials.dialer, configure)
        self.honest = try Self.node(Self.honest, .sockets) { _ in }
        self.catalog.apply(
            Self.service("mine", at: Self.victim, [Self.echo, Self.endless])
                + Self.service("theirs", at: Self.honest, [Self.elsewhere])
                + [Self.victim, Self.honest].map { .upsert(.node(NodeObject(name: $0))) },
            from: .api
        )
    }

    static func with(
        _ configure: (inout TunnelSettings) -> Void = { _ in },
        _ body: (MaliciousPeerFixture) async throws -> Void
    ) async throws {
        let servers = [
            Self.echo: try await TestTarget.echo(), Self.endless: try await TestTarget.server { EndlessTarget() },
        ]
        let datagrams = try await TestTarget.datagrams()
        var addresses = servers.compactMapValues { $0.localAddress.flatMap { TransportAddress($0) } }
        addresses[DialLog.datagrams] = datagrams.localAddress.flatMap { TransportAddress($0) }
        let fixture = try MaliciousPeerFixture(addresses, configure)
        do {
            try await fixture.victim.start(catalog: fixture.catalog)
            try await fixture.honest.start(catalog: ClusterCatalog())
            // By the address that the attackers do not come from, as no two sites have the same.
            fixture.honest.host.peers.add(fixture.addresses(.v6), to: fixture.victim.host.peerID, lifetime: .permanent)
            try await eventually("the victim knows its cluster") {
                fixture.victim.directory.node(of: fixture.honest.host.peerID) == Self.honest
            }
            try await body(fixture)
        } catch {
            await fixture.end()
            throw error
        }
        await fixture.end()
        for server in servers.values { try await server.close() }
        try await datagrams.close()
    }

    private func end() async {
        for host in self.attackers.withLock({ $0 }) { await host.shutdown(deadline: .now()) }
        for node in [self.victim, self.honest] { await node.stop(deadline: .now()) }
    }

    private static func node(
        _ name: String,
        _ dialer: TargetDialer,
        _ configure: (inout TunnelSettings) -> Void
    ) throws -> MeshNode {
        var settings = TunnelSettings(nodeName: name)
        settings.listenPort = 0
        settings.listenInterfaces = ["lo"]
        settings.portMapping = false
        settings.holePunching = false
        configure(&settings)
        let identity = try KeyPair.derived(nodeName: name)
        let directory = PeerDirectory(ownName: name, ownPeer: identity.peerID)
        let interfaces = InterfaceSelection(named: settings.listenInterfaces, filtered: [])
        let host = try FlowFixture.host(identity: identity) { configuration in
            settings.apply(to: &configuration, interfaces, directory)
            configuration.listenAddresses = []
            configuration.preSharedKey = Self.key
        }
        var surroundings = MeshNode.Surroundings()
        surroundings.dialer = dialer
        return MeshNode(
            host: host,
            settings: settings,
            directory: directory,
            interfaces: interfaces,
            unreachable: UnreachableNodes(loop: host.group.next()),
            surroundings: surroundings,
            logger: host.logger
        )
    }

    private static func service(_ name: String, at node: String, _ endpoints: [TransportAddress]) -> [SourceEvent] {
        let name = ObjectName(namespace: "test", name: name)
        let slices = endpoints.enumerated().map { index, endpoint in
            let ports = [TransportProtocol.tcp, .udp].map { EndpointPort(transport: $0, port: endpoint.port) }
            return EndpointSliceObject(
                name: ObjectName(namespace: "test", name: "\(name.name)-\(index)"),
                serviceName: name.name,
                group: EndpointGroup(ports: ports, endpoints: [Endpoint(address: endpoint.address, nodeName: node)])
            )
        }
        return [.upsert(.service(ServiceObject(name: name)))] + slices.map { .upsert(.endpointSlice($0)) }
    }

    // MARK: Attackers

    /// A host that has the cluster's key, unless it is given another, and does what a test makes it do.
    func attacker(identity: KeyPair = .generate(), key: PreSharedKey? = MaliciousPeerFixture.key) async throws -> Host {
        let host = try FlowFixture.host(identity: identity) {
            $0.preSharedKey = key
            // Who reads grants no more than who does not.
            $0.yamux.maximumWindowBytes = YamuxConfiguration.initialWindowBytes
        }
        self.attackers.withLock { $0.append(host) }
        try await host.start()
        return host
    }

    func addresses(_ family: IPFamily = .v4) -> [Multiaddr] {
        self.victim.host.listenAddresses.filter { $0.ipAddress?.family == family }
    }

    @discardableResult
    func join(_ attacker: Host, reuse: DialOptions.Reuse = .any) async throws -> Connection {
        try await attacker.connect(
            to: self.victim.host.peerID,
            addresses: self.addresses(),
            options: DialOptions(reuse: reuse, onlyGivenAddresses: true, ignoreBackoff: true)
        )
    }

    /// A stream whose bytes the attacker writes itself.
    func stream(_ attacker: Host, _ protocolID: ProtocolID) async throws -> any Channel {
        try await self.join(attacker).openStream(
            protocols: [protocolID],
            options: OpenStreamOptions(waitForAnswer: true)
        ).get().channel
    }

    /// What a stream of our protocol is answered with.
    func reply(to bytes: ByteBuffer, of attacker: Host) async throws -> OpenReply {
        let channel = try await self.stream(attacker, TunnelProtocol.flow)
        let log = try await channel.record()
        channel.writeAndFlush(bytes, promise: nil)
        return try await Self.reply(in: log)
    }

    static func reply(in log: ReadLog) async throws -> OpenReply {
        try await eventually("an answer", within: .seconds(60)) { !log.reads.isEmpty }
        var answer = try #require(log.reads.first)
        return try OpenReply(try #require(try answer.readVarintPrefixed(maximumLength: 4096)))
    }

    // MARK: What is expected

    /// The honest node calls a service of the victim, as if nothing were.
    func expectHonestIsServed() async throws {
        let channel = try await self.open(from: self.honest, Self.victim, Self.echo)
        let log = try await channel.record()
        channel.send("honest")
        try await eventually("the honest node is served", within: .seconds(60)) { log.text == "honest" }
        try await channel.close().get()
    }

    func open(
        from node: MeshNode,
        _ name: String,
        _ target: TransportAddress,
        within timeout: TimeAmount = .seconds(60)
    ) async throws -> any Channel {
        let target = TunnelTarget(node: name, address: target)
        return try await node.open(target, .tcp, on: node.loop, deadline: .now() + timeout).get()
    }

    func counter(_ name: String) async -> Int64 {
        await self.victim.status()["counters"]?[name]?.integer ?? -1
    }

    func expectNothingIsLeft(of attacker: Host) async throws {
        try await eventually("nothing is left", within: .seconds(60)) {
            self.victim.acceptor.tally.flows(with: attacker.peerID) == 0
        }
    }
}

/// Leads the endpoints of tests to servers on loopback, and notes what was asked for.
private final class DialLog: Sendable {
    /// Where datagrams go.
    static let datagrams = TransportAddress(.v4(.any), 0)

    let targets = Mutex<[TransportAddress]>([])
    private let servers: [TransportAddress: TransportAddress]

    init(_ servers: [TransportAddress: TransportAddress]) { self.servers = servers }

    var dialer: TargetDialer {
        func lead(
            _ dial: @escaping TargetDialer.Dial,
            _ server: @escaping @Sendable (TransportAddress) -> TransportAddress?
        )
            -> TargetDialer.Dial
        {
            { target, loop, deadline in
                self.targets.withLock { $0.append(target) }
                guard let server = server(target) else {
                    return loop.makeFailedFuture(IOError(errnoCode: ECONNREFUSED, reason: "connect"))
                }
                return dial(server, loop, deadline)
            }
        }
        return TargetDialer(
            stream: lead(TargetDialer.sockets.stream) { self.servers[$0] },
            datagrams: lead(TargetDialer.sockets.datagrams) { _ in self.servers[Self.datagrams] }
        )
    }
}
