import LibP2P
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    @Suite(.serialized)
    struct DiscoveryExchangeTests {
        private struct Pair {
            let fixture: FlowFixture
            let near: DiscoveryExchange
            let far: DiscoveryExchange
            let connection: Connection
        }

        /// - Parameter farName: what the far agent says that it is.
        private static func with(farName: String, _ body: (Pair) async throws -> Void) async throws {
            try await FlowFixture.with { fixture in
                fixture.naming.set("edge-near", fixture.near.peerID)
                fixture.naming.set(FlowFixture.farNode, fixture.far.peerID)
                let near = DiscoveryExchange(host: fixture.near, nodeName: "edge-near", naming: fixture.naming)
                let far = DiscoveryExchange(host: fixture.far, nodeName: farName, naming: fixture.naming)
                far.start()
                try await body(
                    Pair(fixture: fixture, near: near, far: far, connection: try await fixture.connect())
                )
            }
        }

        @Test
        func bothSidesLearnProvenNames() async throws {
            try await Self.with(farName: FlowFixture.farNode) { pair in
                let name = try await pair.near.ask(pair.connection, .mdns).get()
                #expect(name == FlowFixture.farNode)
                #expect(pair.near.counters.verified == 1 && pair.near.falseClaims.isEmpty)
                #expect(pair.far.counters.answered == 1 && pair.far.counters.verified == 1)
            }
        }

        @Test
        func aFalseNameIsNotBelieved() async throws {
            try await Self.with(farName: "edge-near") { pair in
                let error = try await FlowFixture.error { try await pair.near.ask(pair.connection, .dht).get() }
                #expect(error.code == .unknownNode)
                #expect(pair.near.counters.falseClaims == 1)
                #expect(
                    pair.near.falseClaims
                        == [DiscoveryExchange.FalseClaim(peer: pair.fixture.far.peerID, claimed: "edge-near")]
                )
            }
            // Somebody that nothing is known about claims a node that is known.
            try await FlowFixture.with { fixture in
                fixture.naming.set("master", fixture.near.peerID)
                let near = DiscoveryExchange(host: fixture.near, nodeName: "master", naming: fixture.naming)
                let far = DiscoveryExchange(host: fixture.far, nodeName: "master", naming: fixture.naming)
                far.start()
                let connection = try await fixture.connect()
                await #expect(throws: TunnelError.self) { try await near.ask(connection, .mdns).get() }
                #expect(near.counters.falseClaims == 1 && near.counters.unknownClaims == 0)
            }
        }

        @Test
        func theAnswerHasTheOriginalsBytes() async throws {
            try await Self.with(farName: "ke-edge1") { pair in
                let channel = try await pair.fixture.rawStream(TunnelProtocol.discovery)
                let log = try await channel.record()
                channel.writeAndFlush(try ByteBuffer(hex: "14080012044d444e531a0a6b38732d6d6173746572"), promise: nil)
                try await eventually("the answer") {
                    log.reads.map(\.hex) == ["12080112044d444e531a086b652d6564676531"]
                }
                // The peer is known to be another node than it says.
                #expect(pair.far.counters.falseClaims == 1)
            }
        }

        @Test
        func aPeerWithoutTheProtocolFails() async throws {
            try await FlowFixture.with { fixture in
                let near = DiscoveryExchange(host: fixture.near, nodeName: "edge-near", naming: fixture.naming)
                let connection = try await fixture.connect()
                await #expect(throws: TunnelError.self) { try await near.ask(connection, .mdns).get() }
                #expect(near.counters.failed == 1)
            }
        }
    }
}
