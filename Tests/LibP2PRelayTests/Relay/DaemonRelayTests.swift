import Glibc
import LibP2P
import MeshTesting
import Multiformats
import NIOCore
import PeerIdentity
import Testing

@testable import LibP2PRelay

extension SocketTests {
    /// go-libp2p's daemon as relay, and as the target of a circuit through ours. The environment names it: EDGEMESH_P2PD.
    /// Its own reservations cannot be asked for: it looks for relays when it thinks fit.
    @Suite(
        .enabled(if: ChildPeer.daemonPath != nil, "EDGEMESH_P2PD names no daemon of go-libp2p to test against")
    )
    struct DaemonRelayTests {
        private func daemon(_ arguments: [String], _ body: (ChildPeer, Multiaddr) async throws -> Void) async throws {
            let socket = "/tmp/edgemesh-p2pd-\(getpid())-\(UInt64.random(in: .min ... .max)).sock"
            let peer = try await ChildPeer.run(
                arguments + ["-hostAddrs", "/ip4/127.0.0.1/tcp/0", "-listen", "/unix\(socket)"],
                path: ChildPeer.daemonPath,
                readyWord: "/ip4/127.0.0.1/tcp/"
            )
            defer {
                peer.stop()
                unlink(socket)
            }
            let lines = peer.output.split(separator: "\n")
            let id = try #require(lines.first { $0.hasPrefix("Peer ID: ") }).dropFirst("Peer ID: ".count)
            let address = try #require(lines.first { $0.hasPrefix("/ip4") })
            try await body(peer, try Multiaddr(address).appending(.p2p(PeerID(id))))
        }

        @Test func theDaemonIsOurRelay() async throws {
            try await Hosts.with { hosts in
                try await self.daemon(["-relayService=1", "-forceReachabilityPublic=1"]) { _, address in
                    let relay = try #require(address.peerID)
                    let target = try await hosts.make(listens: false)
                    target.echo("/echo", options: HandlerOptions(allowLimitedConnection: true))
                    let client = hosts.client(of: target)
                    client.setCandidates([RelayCandidate(peer: relay, addresses: [address])])
                    try await client.holds(1)
                    // The daemon sets limits, and tells private addresses to nobody.
                    #expect(client.reservations[0].limit?.bytes == 128 * 1024)
                    #expect(target.advertisedAddresses == [address.appending(.circuit)])
                    let source = try await hosts.make(listens: false)
                    hosts.client(of: source)
                    let connection = try await source.connect(
                        to: target.peerID,
                        addresses: target.advertisedAddresses
                    )
                    #expect(connection.isLimited)
                    let options = OpenStreamOptions(allowLimitedConnection: true)
                    let stream = try await connection.openStream(protocols: ["/echo"], options: options).get()
                    #expect(try await stream.exchange(.pattern(30_000)) == .pattern(30_000))
                }
            }
        }

        @Test func theDaemonIsReachedThroughUs() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve()
                try await self.daemon([]) { _, address in
                    let peer = try #require(address.peerID)
                    _ = try await relay.connect(to: peer, addresses: [address]) as Connection
                    let source = try await hosts.make(listens: false)
                    hosts.client(of: source)
                    let circuit = relay.addresses[0].appending(.circuit)
                    let connection = try await source.connect(to: peer, addresses: [circuit]) as Connection
                    #expect(connection.path == .relayed(nil))
                    #expect(try await connection.ping().get() > .zero)
                }
                #expect(await service.metrics().circuitsOpened == 1)
            }
        }
    }
}
