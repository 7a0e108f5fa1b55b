import ByteStreams
import Documents
import FakeKube
import Glibc
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
import PeerTesting
import ServiceCatalog
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    /// Flows with an agent of v1.17 itself, both ways, in a private network. By hand: EDGEMESH_ORIGINAL_AGENT is its program, and
    /// the network namespace is made for the run, as the agent writes rules into it:
    ///
    ///     unshare -n sh -c 'ip link set lo up; ip address add 10.88.0.1/32 dev lo
    ///         ip link add up0 type veth peer name up1; ip link set up1 up; ip address add 10.99.0.2/24 dev up0
    ///         ip link set up0 up; ip route add default dev up0; exec swift test --skip-build --filter OriginalAgentTests'
    @Suite(.serialized, .enabled(if: getenv("EDGEMESH_ORIGINAL_AGENT") != nil))
    struct OriginalAgentTests {
        private static let own = "ke-ours"
        private static let theirs = "ke-original"
        /// Stands for a pod's: v1.17 takes none of loopback for an endpoint.
        private static let podAddress = "10.88.0.1"
        private static let folder = "/tmp/edgemesh-original-\(getpid())"
        private static let secret = "a secret of the test"

        /// - Parameter identity: with a random key, as of `identity: node`, the other agent cannot derive it from the name: it learns it
        ///   by the discovery exchange.
        @Test(arguments: [TunnelSettings.Identity.derived, .node(file: "")])
        func flowsPassBothWays(identity: TunnelSettings.Identity) async throws {
            let echo = try await TestTarget.echo(greeting: "220 ready\r\n", host: Self.podAddress)
            let datagrams = try await TestTarget.datagrams(host: Self.podAddress)
            let kube = FakeKube()
            try await kube.start()
            Self.apply(to: kube, "tcp", "10.96.0.10", echo)
            Self.apply(to: kube, "udp", "10.96.0.11", datagrams)
            let agent = try Self.start(kube)
            let host = try Self.host(identity == .derived ? .derived(nodeName: Self.own) : .generate())
            try await host.start()
            var logger = Logger(label: "test")
            logger.logLevel = .critical
            let naming = TestNaming([
                Self.own: host.peerID, Self.theirs: try KeyPair.derived(nodeName: Self.theirs).peerID,
            ])
            let access = TargetAccess(nodeName: Self.own)
            let acceptor = FlowAcceptor(host: host, naming: naming, access: access, logger: logger)
            acceptor.start()
            var endpoints = CatalogFixture.empty
            endpoints.snapshot = CatalogFixture.snapshot(
                node: Self.own,
                try [echo, datagrams].map { try #require($0.localAddress.flatMap { TransportAddress($0) }) }
            )
            access.apply(endpoints)
            let discovery = DiscoveryExchange(host: host, nodeName: Self.own, naming: naming)
            discovery.start()

            let peer = try #require(naming.peer(of: Self.theirs))
            let address = try Multiaddr("/ip4/127.0.0.1/tcp/20006")
            var connection: Connection?
            try await eventually("the agent of v1.17 is up:\n\(agent.output)", within: .seconds(60)) {
                connection = try? await host.connect(
                    to: peer,
                    addresses: [address],
                    options: DialOptions(ignoreBackoff: true)
                )
                return connection != nil
            }
            let name = try await discovery.ask(try #require(connection), .mdns).get()
            #expect(name == Self.theirs)

            try await Self.checkFlowsToOriginal(host, peer, echo, datagrams)
            try await Self.checkFlowsFromOriginal(agent)
            #expect(acceptor.counters.openedForOriginals == 2)
            print("with v1.17: \(acceptor.counters) \(await acceptor.book.total()) \(discovery.counters)")

            // It may not go where our policy does not let it.
            #expect(access.refusals.isEmpty)
            await host.shutdown(deadline: .now())
            await kube.stop()
            for name in ["psk", "agent.yaml"] { unlink("\(Self.folder)/\(name)") }
            rmdir(Self.folder)
            try await echo.close()
            try await datagrams.close()
        }

        private static func checkFlowsToOriginal(
            _ host: Host,
            _ peer: PeerID,
            _ echo: any Channel,
            _ datagrams: any Channel
        ) async throws {
            let opener = FlowOpener(host: host)
            func open(_ server: any Channel, _ transport: TransportProtocol) async throws -> any Channel {
                try await opener.open(
                    try FlowFixture.target(server.localAddress, node: Self.theirs),
                    transport: transport,
                    peer: peer,
                    on: host.group.next(),
                    deadline: .now() + .seconds(30)
                ).get()
            }
            for number in 0..<50 {
                let channel = try await open(echo, .tcp)
                let log = try await channel.record()
                channel.send("\(number)")
                try await eventually("greeting and echo \(number)") { log.text == "220 ready\r\n\(number)" }
                try await channel.close().get()
            }
            let flow = try await open(datagrams, .udp)
            let log = try await flow.record()
            let sent = [1, 100, 1400, 4096].map { ByteBuffer(repeating: UInt8($0 & 255), count: $0) }
            for (index, datagram) in sent.enumerated() {
                try await flow.writeAndFlush(datagram).get()
                try await eventually("the echo of \(datagram.readableBytes) bytes") { log.reads.count == index + 1 }
            }
            #expect(log.reads == sent)
            try await flow.close().get()
            // Nobody listens there.
            let closed = TunnelTarget(node: Self.theirs, address: TransportAddress(.v4(.loopback), 1))
            let deadline = NIODeadline.now() + .seconds(30)
            let error = try await FlowFixture.error {
                try await opener.open(closed, transport: .tcp, peer: peer, on: host.group.next(), deadline: deadline)
                    .get()
            }
            #expect(error.code == .refused)
            #expect(opener.counters.openedWithOriginals == 51)
        }

        /// The agent's proxy sends connections to the services' addresses to the endpoints at our node.
        private static func checkFlowsFromOriginal(_ agent: PeerProcess) async throws {
            var stream: (any Channel)?
            try await eventually("its proxy serves:\n\(agent.output)", within: .seconds(60)) {
                stream = try? await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                    .channelOption(.autoRead, value: false)
                    .connectTimeout(.seconds(2))
                    .connect(host: "10.96.0.10", port: 80).get()
                return stream != nil
            }
            let channel = try #require(stream)
            let log = try await channel.record()
            channel.send("from the original")
            try await eventually("greeting and echo") { log.text == "220 ready\r\nfrom the original" }
            try await channel.close().get()

            let socket = try await DatagramBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
                .connect(host: "10.96.0.11", port: 80).get()
            let answers = ReadLog()
            try await socket.eventLoop.submit {
                try socket.pipeline.syncOperations.addHandler(EnvelopeLog(answers))
            }.get()
            for count in 1...3 {
                try await socket.writeAndFlush(ByteBuffer(string: "datagram \(count)")).get()
                try await eventually("echo \(count)") { answers.reads.count == count }
            }
            #expect(answers.text == "datagram 1datagram 2datagram 3")
            try await socket.close()
        }

        // MARK: Parts

        private static func host(_ identity: KeyPair) throws -> Host {
            try FlowFixture.host(identity: identity) { configuration in
                configuration.listenAddresses = []
                configuration.preSharedKey = PreSharedKey(originalFileBytes: Array(Self.secret.utf8))
            }
        }

        private static func apply(to kube: FakeKube, _ name: String, _ clusterIP: String, _ server: any Channel) {
            let port = server.localAddress?.port ?? 0
            let transport = Document.string(name.uppercased())
            kube.apply([
                "apiVersion": "v1", "kind": "Service",
                "metadata": ["name": .string(name), "namespace": "default"],
                "spec": [
                    "type": "ClusterIP", "clusterIP": .string(clusterIP),
                    "ports": [["name": "p", "protocol": transport, "port": 80, "targetPort": .integer(port)]],
                ],
            ])
            kube.apply([
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": ["name": .string(name), "namespace": "default"],
                "subsets": [
                    [
                        "addresses": [["ip": .string(Self.podAddress), "nodeName": .string(Self.own)]],
                        "ports": [["name": "p", "protocol": transport, "port": .integer(port)]],
                    ]
                ],
            ])
        }

        /// v1.17 wants to raise a limit further than most machines let it; told that it has, it starts.
        private static func start(_ kube: FakeKube) throws -> PeerProcess {
            let program = String(cString: try #require(getenv("EDGEMESH_ORIGINAL_AGENT")))
            let folder = Self.folder
            mkdir(folder, 0o700)
            try Self.write(Self.secret, to: "\(folder)/psk")
            try Self.write(
                """
                kubeAPIConfig: {master: "\(kube.url)", contentType: application/json}
                modules:
                  edgeDNS: {enable: false}
                  edgeProxy: {enable: true}
                  edgeTunnel: {enable: true, psk: {enable: true, path: \(folder)/psk}}
                """,
                to: "\(folder)/agent.yaml"
            )
            let trace = ["/usr/bin/strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=prlimit64,setrlimit"]
            return try PeerProcess(
                trace + [
                    "-e", "inject=prlimit64,setrlimit:retval=0", program, "--config-file", "\(folder)/agent.yaml",
                ],
                environment: ["NODE_NAME": Self.theirs, "NAMESPACE": "kubeedge"]
            )
        }

        private static func write(_ text: String, to path: String) throws {
            let file = try #require(fopen(path, "w"))
            defer { fclose(file) }
            fputs(text, file)
        }
    }
}

private final class EnvelopeLog: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let log: ReadLog

    init(_ log: ReadLog) { self.log = log }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data).data
        self.log.note { $0.reads.append(bytes) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}
