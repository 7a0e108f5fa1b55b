import MeshCore
import Multiformats
import NIOCore
import PeerIdentity
import Testing

@testable import LibP2P

@Suite struct ExpectedSourcesTests {
    private static let start = NIODeadline.uptimeNanoseconds(0)

    private static func ip(_ number: UInt32) -> IPAddress { .v4(IPv4Address(rawValue: 0x1F00_0000 + number)) }

    @Test func addressesAreExpectedUntilTheirTime() throws {
        var expected = ExpectedSources(maximum: 8)
        let now = Self.start
        expected.add([Self.ip(1)], until: now + .seconds(5), now: now)
        expected.add([Self.ip(1)], until: now + .seconds(3), now: now)
        let source = try Multiaddr("/ip4/31.0.0.1/tcp/4001")
        // From any port, but not through a relay.
        #expect(expected.contains(source, now: now + .seconds(4)))
        #expect(expected.contains(try Multiaddr("/ip4/31.0.0.1/tcp/9"), now: now))
        #expect(!expected.contains(try Multiaddr("/ip4/31.0.0.2/tcp/4001"), now: now))
        #expect(!expected.contains(source.appending(.p2p(KeyPair.generate().peerID)).appending(.circuit), now: now))
        #expect(!expected.contains(source, now: now + .seconds(5)))
    }

    @Test func theyAreBounded() throws {
        var expected = ExpectedSources(maximum: 2)
        let now = Self.start
        expected.add([1, 2, 3].map(Self.ip), until: now + .seconds(5), now: now)
        #expect(expected.count == 2)
        #expect(!expected.contains(try Multiaddr("/ip4/31.0.0.3/tcp/1"), now: now))
        // Those whose time is over make room.
        expected.add([Self.ip(3)], until: now + .seconds(10), now: now + .seconds(6))
        #expect(expected.count == 1)
        #expect(expected.contains(try Multiaddr("/ip4/31.0.0.3/tcp/1"), now: now + .seconds(6)))
    }
}
