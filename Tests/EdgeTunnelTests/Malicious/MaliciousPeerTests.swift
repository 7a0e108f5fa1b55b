import ByteStreams
import Documents
import KubeModel
import LibP2P
import LibP2PSecurity
import MeshCore
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import ServiceCatalog
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    /// Peers that are not who they say. Each is refused, named and counted, and an honest node beside it is served.
    @Suite(.serialized) struct MaliciousPeerTests {
        @Test("who has another pre-shared key is turned away and counted")
        func wrongPreSharedKey() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let another = PreSharedKey(originalFileBytes: Array("the key of another cluster".utf8))
                let stranger = try await fixture.attacker(key: another)
                let error = await #expect(throws: LibP2PError.self) { try await fixture.join(stranger) }
                #expect(error?.code == .wrongPreSharedKey, "\(error as Any)")
                try await eventually("it is counted") { await fixture.counter("wrongPreSharedKeys") == 1 }
                #expect(fixture.victim.host.connections(to: stranger.peerID).isEmpty)
                try await fixture.expectHonestIsServed()
            }
        }

        @Test("bytes that are no handshake end the connection, and are counted")
        func noHandshake() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let address = try #require(fixture.addresses().first)
                let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                    .connect(to: SocketAddress(ipAddress: "127.0.0.1", port: Int(try #require(address.port)))).get()
                channel.writeAndFlush(ByteBuffer(repeating: 0xFF, count: 1 << 20), promise: nil)
                try await channel.closeFuture.get()
                try await eventually("it is counted") { await fixture.counter("handshakesFailed") == 1 }
                #expect(fixture.victim.host.metrics.inboundHandshakes == 0)
                try await fixture.expectHonestIsServed()
            }
        }

        @Test("a name that another node's key proves is not believed; claims are counted, and the last of them shown")
        func falseName() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let liar = try await fixture.attacker()
                let honest = fixture.honest.host.peerID
                let claims = 2 * DiscoveryExchange.maximumFalseClaims
                for _ in 0..<claims {
                    let channel = try await fixture.stream(liar, TunnelProtocol.discovery)
                    let log = try await channel.record()
                    let claim = DiscoveryMessage(.connect, foundBy: "MDNS", nodeName: MaliciousPeerFixture.honest)
                    channel.writeAndFlush(claim.framed, promise: nil)
                    try await eventually("it is answered") { !log.reads.isEmpty }
                }
                #expect(await fixture.counter("falseNames") == Int64(claims))
                let shown = await fixture.victim.status()["falseNames"]?.array ?? []
                #expect(shown.count == DiscoveryExchange.maximumFalseClaims)
                #expect(shown.last?["peer"]?.string == liar.peerID.description)
                #expect(shown.last?["claimed"]?.string == MaliciousPeerFixture.honest)
                #expect(fixture.victim.directory.node(of: liar.peerID) == nil)
                #expect(fixture.victim.directory.peer(of: MaliciousPeerFixture.honest) == honest)
                try await fixture.expectHonestIsServed()
            }
        }

        @Test("a record that names the peer of another node proves nobody, and is told")
        func falseRecord() async throws {
            try await MaliciousPeerFixture.with { fixture in
                var record = NodeObject(name: "edge-evil")
                record.peerID = fixture.honest.host.peerID.description
                fixture.catalog.apply([.upsert(.node(record))], from: .api)
                try await eventually("it is taken in") { fixture.victim.directory.peer(of: "edge-evil") == nil }
                let error = try await FlowFixture.error {
                    try await fixture.open(from: fixture.victim, "edge-evil", MaliciousPeerFixture.echo)
                }
                #expect(error.code == .unknownNode && error.message.contains("edge-evil"), "\(error)")
                #expect(fixture.victim.directory.node(of: fixture.honest.host.peerID) == MaliciousPeerFixture.honest)
                try await fixture.expectHonestIsServed()
            }
        }

        @Test("who answers at the address of a node without its key is not taken for it")
        func falseKey() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let impostor = try await fixture.attacker()
                let wanted = try KeyPair.derived(nodeName: "edge-third").peerID
                fixture.victim.host.peers.add(impostor.listenAddresses, to: wanted, lifetime: .permanent)
                let error = try await FlowFixture.error {
                    try await fixture.open(from: fixture.victim, "edge-third", MaliciousPeerFixture.echo)
                }
                #expect(error.code == .noPath && error.message.contains(impostor.peerID.description), "\(error)")
                #expect(fixture.victim.host.connections(to: wanted).isEmpty)
                #expect(await fixture.counter("dialsFailed") > 0)
                try await fixture.expectHonestIsServed()
            }
        }

        @Test("a key that was a node's and is not any more is not let in")
        func revokedKey() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let stolen = KeyPair.generate()
                var record = NodeObject(name: "edge-third")
                record.peerID = stolen.peerID.description
                fixture.catalog.apply([.upsert(.node(record))], from: .api)
                let thief = try await fixture.attacker(identity: stolen)
                try await fixture.join(thief)
                try await eventually("it is taken for the node") {
                    fixture.victim.directory.node(of: stolen.peerID) == "edge-third"
                }
                record.peerID = KeyPair.generate().peerID.description
                fixture.catalog.apply([.upsert(.node(record))], from: .api)
                try await eventually("it is thrown out") { fixture.victim.host.connections(to: stolen.peerID).isEmpty }
                let failed = await fixture.counter("handshakesFailed")
                try await eventually("the thief knows") { thief.connections.isEmpty }
                // Its handshake is over before the victim looks at its key, and the connection is closed then.
                _ = try? await fixture.join(thief)
                try await eventually("it is counted") { await fixture.counter("handshakesFailed") > failed }
                #expect(fixture.victim.host.connections(to: stolen.peerID).isEmpty)
                try await fixture.expectHonestIsServed()
            }
        }
    }
}
