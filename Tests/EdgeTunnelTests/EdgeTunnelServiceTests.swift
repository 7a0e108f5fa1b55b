import Documents
import Glibc
import KubeModel
import LibP2P
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

@testable import EdgeTunnel

extension FlowSocketTests {
    /// Whole services on loopback.
    @Suite(.serialized)
    struct EdgeTunnelServiceTests {
        private static let folder = "/tmp/edgemesh-tunnel-tests-\(getpid())"

        private static func write(_ name: String, _ text: String) throws -> String {
            mkdir(self.folder, 0o700)
            let path = "\(self.folder)/\(name)"
            let file = try #require(fopen(path, "w"))
            defer { fclose(file) }
            fputs(text, file)
            return path
        }

        private static func settings(_ name: String, key: String?) -> TunnelSettings {
            var settings = TunnelSettings(nodeName: name)
            settings.preSharedKeyFile = key
            settings.listenPort = 0
            settings.listenInterfaces = ["lo"]
            settings.portMapping = false
            settings.targets.mode = .any
            return settings
        }

        private static func service(
            _ settings: TunnelSettings,
            catalog: ClusterCatalog = ClusterCatalog(),
            annotator: (any NodeAnnotating)? = nil
        ) -> EdgeTunnelService {
            var logger = Logger(label: "test")
            logger.logLevel = .critical
            return EdgeTunnelService(
                settings: settings,
                catalog: catalog,
                group: MultiThreadedEventLoopGroup.singleton,
                annotator: annotator,
                logger: logger
            )
        }

        /// Runs services while `body` does.
        private static func running(
            _ services: [EdgeTunnelService],
            _ body: ([MeshNode]) async throws -> Void
        ) async throws {
            let tasks = services.map { service in Task { try await service.run() } }
            do {
                try await eventually("the tunnels are up", within: .seconds(60)) {
                    services.allSatisfy { $0.state.withLock { $0.running } != nil }
                }
                try await body(services.compactMap { $0.state.withLock { $0.running } })
            } catch {
                for task in tasks { task.cancel() }
                for task in tasks { _ = try? await task.value }
                throw error
            }
            for task in tasks { task.cancel() }
            for task in tasks { _ = try? await task.value }
        }

        @Test("a flow goes to a target behind another node, and both say so")
        func flow() async throws {
            let key = try Self.write("psk", "the key of this test")
            let (near, far) = (
                Self.service(Self.settings("edge-near", key: key)), Self.service(Self.settings("edge-far", key: key))
            )
            let echo = try await TestTarget.echo()
            try await Self.running([near, far]) { nodes in
                nodes[0].host.peers.add(
                    nodes[1].host.listenAddresses,
                    to: nodes[1].host.peerID,
                    lifetime: .permanent
                )
                let target = try FlowFixture.target(echo.localAddress, node: "edge-far")
                let channel = try await near.openStream(
                    to: target,
                    on: MultiThreadedEventLoopGroup.singleton.next(),
                    deadline: .now() + .seconds(60)
                ).get()
                try await eventually("the path is up") {
                    near.paths["edge-far"]?.state == .up && near.paths["edge-far"]?.agent == .edgemesh
                }
                #expect(near.paths["edge-far"]?.flows == 1 && near.paths["edge-far"]?.kind == .direct)
                let status = await near.status()
                #expect(status["peers"]?["edge-far"]?["state"]?.string == "up")
                #expect(status["counters"]?["flowsOpened"]?.integer == 1)
                let there = await far.status()
                #expect(there["counters"]?["flowsAccepted"]?.integer == 1)
                let metrics = await near.metrics()
                #expect(metrics.contains { $0.name == "edgemesh_tunnel_flows_opened_total" })
                let (path, roundTrip) = try await near.ping(node: "edge-far")
                #expect(path.kind == .direct && path.agent == .edgemesh && path.remoteAddress != nil)
                #expect(roundTrip > .zero)
                let own = await #expect(throws: TunnelError.self) { try await near.ping(node: "edge-near") }
                #expect(own?.message.contains("is this node") == true)
                let unknown = await #expect(throws: TunnelError.self) {
                    try await near.ping(node: String(repeating: "n", count: 300))
                }
                #expect(unknown?.code == .unknownNode)
                try await channel.close()
            }
            let stopped = await #expect(throws: TunnelError.self) { try await near.ping(node: "edge-far") }
            #expect(stopped?.code == .notRunning)
            try await echo.close()
            #expect(near.paths.isEmpty)
            await #expect(throws: TunnelError.self) {
                _ = try await near.openStream(
                    to: FlowFixture.target(echo.localAddress ?? SocketAddress(ipAddress: "127.0.0.1", port: 1)),
                    on: MultiThreadedEventLoopGroup.singleton.next(),
                    deadline: .now() + .seconds(1)
                ).get()
            }
        }

        @Test("packets go to whoever takes them at another node, and both services say so")
        func packets() async throws {
            let (near, far) = (
                Self.service(Self.settings("edge-near", key: nil)), Self.service(Self.settings("edge-far", key: nil))
            )
            let taken = TakenPackets()
            // It is said before the tunnel is up.
            far.acceptPackets { taken.take($0) }
            let loop = MultiThreadedEventLoopGroup.singleton.next()
            try await Self.running([near, far]) { nodes in
                nodes[0].host.peers.add(nodes[1].host.listenAddresses, to: nodes[1].host.peerID, lifetime: .permanent)
                // As its catalog would have told it.
                #expect(nodes[1].directory.peer(of: "edge-near") == nodes[0].host.peerID)
                let channel = try await near.openPackets(
                    to: "edge-far",
                    on: loop,
                    deadline: .now() + .seconds(60)
                ).get()
                channel.channel.send("a packet")
                try await eventually("it is taken") { taken.all.first?.log.text == "a packet" }
                #expect(taken.all.first?.channel.node == "edge-near" && channel.node == "edge-far")
                try await eventually("it counts as a flow") { near.paths["edge-far"]?.flows == 1 }
                let (here, there) = (await near.status(), await far.status())
                #expect(here["counters"]?["packetChannelsOpened"]?.integer == 1)
                #expect(here["gauges"]?["packetChannels"]?.integer == 1)
                #expect(there["counters"]?["packetChannelsAccepted"]?.integer == 1)
                let own = try await FlowFixture.error {
                    try await near.openPackets(to: "edge-near", on: loop, deadline: .now() + .seconds(60)).get()
                }
                #expect(own.code == .noPath)
            }
            let stopped = try await FlowFixture.error {
                try await near.openPackets(to: "edge-far", on: loop, deadline: .now() + .seconds(60)).get()
            }
            #expect(stopped.code == .notRunning)
        }

        @Test("who holds another pre-shared key does not get in, and the error says what was tried")
        func strangers() async throws {
            let services = [
                Self.service(Self.settings("edge-near", key: try Self.write("psk-1", "one key"))),
                Self.service(Self.settings("edge-far", key: try Self.write("psk-2", "another key"))),
            ]
            try await Self.running(services) { nodes in
                nodes[0].host.peers.add(
                    nodes[1].host.listenAddresses,
                    to: nodes[1].host.peerID,
                    lifetime: .permanent
                )
                let told = Mutex<[Set<String>]>([])
                let observation = services[0].observeUnreachableNodes { nodes in told.withLock { $0.append(nodes) } }
                defer { observation.cancel() }
                let error = await #expect(throws: TunnelError.self) {
                    _ = try await services[0].openStream(
                        to: FlowFixture.target(SocketAddress(ipAddress: "127.0.0.1", port: 1), node: "edge-far"),
                        on: MultiThreadedEventLoopGroup.singleton.next(),
                        deadline: .now() + .seconds(60)
                    ).get()
                }
                #expect(error?.code == .noPath && error?.message.contains("/ip4/127.0.0.1") == true, "\(error as Any)")
                try await eventually("it is told") { told.withLock { $0.last } == ["edge-far"] }
                #expect(services[0].paths["edge-far"]?.state == .down)
            }
        }

        @Test("what cannot work says what mends it")
        func broken() async throws {
            let missing = Self.settings("edge", key: "\(Self.folder)/missing")
            var error = await #expect(throws: EdgeTunnelError.self) { try await Self.service(missing).run() }
            #expect(error?.code == .preSharedKey && error?.message.contains("psk.enable: false") == true)
            var quic = Self.settings("edge", key: nil)
            quic.transport = .quic
            error = await #expect(throws: EdgeTunnelError.self) { try await Self.service(quic).run() }
            #expect(error?.code == .transport && error?.message.contains("tcp or ws") == true)
            var identity = Self.settings("edge", key: nil)
            identity.identity = .node(file: try Self.write("no-key", "nonsense"))
            error = await #expect(throws: EdgeTunnelError.self) { try await Self.service(identity).run() }
            #expect(error?.code == .identity)
        }

        private static func record(_ name: String, _ peer: PeerID) -> SourceEvent {
            var record = NodeObject(name: name)
            record.peerID = peer.description
            return .upsert(.node(record))
        }

        /// The last good state on disk may be older than the revocation: it was written before, or its disk was full.
        @Test(
            "a key that is revoked stays so over a restart, whatever the last good state says, until the cluster names it anew"
        )
        func revocation() async throws {
            mkdir(Self.folder, 0o700)
            var settings = Self.settings("edge", key: nil)
            settings.revocationsFile = "\(Self.folder)/revoked-\(UInt32.random(in: .min ... .max))"
            let (old, new) = (KeyPair.generate(), KeyPair.generate().peerID)
            let thief = try FlowFixture.host(identity: old)
            try await thief.start()
            func join(_ node: MeshNode) async throws {
                let addresses = node.host.listenAddresses.filter { $0.ipAddress?.family == .v4 }
                _ = try? await thief.connect(
                    to: node.host.peerID,
                    addresses: addresses,
                    options: DialOptions(reuse: .never, onlyGivenAddresses: true, ignoreBackoff: true)
                )
            }
            let catalog = ClusterCatalog()
            try await Self.running([Self.service(settings, catalog: catalog)]) { nodes in
                catalog.apply([Self.record("a", old.peerID)], from: .api)
                try await eventually("it is the node") { nodes[0].directory.node(of: old.peerID) == "a" }
                catalog.apply([Self.record("a", new)], from: .api)
                try await eventually("it is revoked") { nodes[0].directory.isRevoked(old.peerID) }
            }
            let stale = ClusterCatalog()
            stale.apply([Self.record("a", old.peerID)], from: .store)
            try await Self.running([Self.service(settings, catalog: stale)]) { nodes in
                let node = nodes[0]
                #expect(node.directory.isRevoked(old.peerID))
                try await join(node)
                try await eventually("the thief is refused") { node.host.metrics.handshakesFailed == 1 }
                try await eventually("the record is looked at") { node.directory.peer(of: "a") == nil }
                #expect(node.directory.node(of: old.peerID) == nil && node.host.connections.isEmpty)
                // The cluster itself says that the node has this key again.
                stale.apply([Self.record("a", old.peerID)], from: .api)
                try await eventually("it is the node") { node.directory.node(of: old.peerID) == "a" }
                #expect(!node.directory.isRevoked(old.peerID))
            }
            try await Self.running([Self.service(settings)]) { nodes in
                #expect(!nodes[0].directory.isRevoked(old.peerID))
                try await join(nodes[0])
                try await eventually("it is let in") { nodes[0].host.connections(to: old.peerID).count == 1 }
            }
            await thief.shutdown(deadline: .now())
        }

        @Test("a node with its own key writes its peer ID into the cluster's record, again after a failure")
        func annotation() async throws {
            mkdir(Self.folder, 0o700)
            let file = "\(Self.folder)/tunnel-\(UInt32.random(in: .min ... .max)).key"
            var settings = Self.settings("edge", key: nil)
            settings.identity = .node(file: file)
            let annotator = RecordingAnnotator(failures: 1)
            let service = Self.service(settings, annotator: annotator)
            try await Self.running([service]) { nodes in
                try await eventually("the record is written", within: .seconds(60)) { annotator.written.count == 1 }
                #expect(annotator.written == ["edge edgemesh.kubeedge.io/peer-id=\(nodes[0].host.peerID)"])
                #expect(try KeyPair.loadOrCreate(path: file).peerID == nodes[0].host.peerID)
            }
        }
    }
}

/// Fails some times, then notes what it is to write.
private final class RecordingAnnotator: NodeAnnotating {
    private struct Refused: Error {}

    private let state: Mutex<(failures: Int, written: [String])>

    init(failures: Int) {
        self.state = Mutex((failures, []))
    }

    var written: [String] { self.state.withLock { $0.written } }

    func annotate(node: String, key: String, value: String) async throws {
        let isRefused = self.state.withLock { state in
            guard state.failures == 0 else {
                state.failures -= 1
                return true
            }
            state.written.append("\(node) \(key)=\(value)")
            return false
        }
        if isRefused { throw Refused() }
    }
}
