import LibP2P
import LibP2PDiscovery
import MeshTesting
import Multiformats
import NIOCore
import PeerTesting
import Testing

/// The DHT with nodes of other implementations: a peer and a provider are found through them, and by them through us. In each test
/// one node stands between the others, which know of each other by it only.
@Suite(.serialized) struct KademliaTests {
    private static func cid(_ name: String) -> CID { KademliaDHT.cid(rendezvous: name) }

    /// Starts a host of ours with a DHT that serves beside those of the other implementation.
    private func withDHT(
        _ configuration: KademliaConfiguration = .init(protocolID: "/ipfs/kad/1.0.0", mode: .server, scope: .any),
        _ body: (Host, KademliaDHT) async throws -> Void
    ) async throws {
        try await withHost(TestHost()) { host in
            let dht = KademliaDHT(host: host, configuration: configuration)
            try await dht.start()
            do {
                try await body(host, dht)
            } catch {
                await dht.stop()
                throw error
            }
            await dht.stop()
        }
    }

    private func knows(_ dht: KademliaDHT, _ count: Int) async throws {
        try await eventually("\(count) nodes are in our table", within: .seconds(60)) {
            await dht.metrics().tablePeers >= count
        }
    }

    /// Asks until it succeeds: nodes take note of each other when they have identified themselves.
    private func eventuallyFinds<Value: Equatable>(
        _ what: String,
        _ expected: Value,
        _ search: () async throws -> Value
    ) async throws {
        var last = "nothing"
        do {
            try await eventually(what, within: .seconds(60)) {
                do {
                    let found = try await search()
                    last = "\(found)"
                    return found == expected
                } catch {
                    last = "\(error)"
                    try await Task.sleep(for: .milliseconds(200))
                    return false
                }
            }
        } catch {
            throw TestPeerError("\(error); the last search gave \(last)")
        }
    }

    // MARK: go-libp2p's daemon

    private func daemon() async throws -> Daemon { try await Peers.startDaemon("-dhtServer=1") }

    /// A daemon stands between us and another.
    private func withDaemonBetween(_ body: (Host, KademliaDHT, _ other: Daemon) async throws -> Void) async throws {
        let (middle, other) = (try await self.daemon(), try await self.daemon())
        try await self.withDHT { host, dht in
            _ = try await host.connect(to: try middle.address)
            try await other.connect(to: middle.peerID, at: middle.addresses)
            try await self.knows(dht, 1)
            try await body(host, dht, other)
        }
    }

    @Test func weFindThroughTheDaemon() async throws {
        try await self.withDaemonBetween { host, dht, other in
            try await self.eventuallyFinds("we find a node", true) {
                !Set(try await dht.findPeer(other.peerID)).isDisjoint(with: other.addresses)
            }
            try await other.provide(Self.cid("the daemon's"))
            try await self.eventuallyFinds("we find a provider", [other.peerID]) {
                try await dht.findProviders(of: Self.cid("the daemon's"), limit: 1).map(\.peer)
            }
        }
    }

    @Test func theDaemonFindsUs() async throws {
        try await self.withDaemonBetween { host, dht, other in
            try await self.eventuallyFinds("the daemon finds us", true) {
                !Set(try await other.findPeer(host.peerID)).isDisjoint(with: host.listenAddresses)
            }
            try await self.eventuallyFinds("a node is told that we provide", true) {
                try await dht.provide(Self.cid("ours")) > 0
            }
            try await self.eventuallyFinds("the daemon finds us as provider", [host.peerID]) {
                try await other.findProviders(of: Self.cid("ours"))
            }
        }
    }

    @Test func daemonsFindEachOtherThroughUs() async throws {
        let (first, second) = (try await self.daemon(), try await self.daemon())
        try await self.withDHT { host, dht in
            for daemon in [first, second] { try await daemon.connect(to: host.peerID, at: host.listenAddresses) }
            try await self.knows(dht, 2)
            try await self.eventuallyFinds("the daemon finds another", true) {
                !Set(try await first.findPeer(second.peerID)).isDisjoint(with: second.addresses)
            }
            try await self.eventuallyFinds("the daemon finds what another provides", [first.peerID]) {
                try await first.provide(Self.cid("the first's"))
                return try await second.findProviders(of: Self.cid("the first's"))
            }
            #expect(await dht.metrics().providerKeys == 1)
        }
    }

    // MARK: py-libp2p

    @Test func weFindThroughPythonAndItFindsUs() async throws {
        let middle = try Peers.startPython(["-dht"])
        let address = try await middle.address()
        let other = try Peers.startPython(
            ["-dht", "-stay", "-dial", "\(address)", "-op", "provide=\(Self.cid("Python's"))"]
        )
        let otherAddress = try await other.address()
        let otherPeer = try #require(otherAddress.peerID)
        _ = try await other.line("done")
        try await self.withDHT { host, dht in
            _ = try await host.connect(to: address)
            try await self.knows(dht, 1)
            try await self.eventuallyFinds("we find a node", [otherAddress.withoutPeerID]) {
                try await dht.findPeer(otherPeer).map(\.withoutPeerID)
            }
            try await self.eventuallyFinds("we find a provider", [otherPeer]) {
                try await dht.findProviders(of: Self.cid("Python's"), limit: 1).map(\.peer)
            }
            try await self.eventuallyFinds("a node is told that we provide", true) {
                try await dht.provide(Self.cid("ours")) > 0
            }
            let asking = try Peers.startPython(
                ["-dht", "-dial", "\(address)", "-op", "findpeer=\(host.peerID),findproviders=\(Self.cid("ours"))"]
            )
            let output = try await asking.finish(within: 90)
            #expect(output.contains("found \(host.listenAddresses[0])"), "\(output)")
            #expect(output.contains("provider \(host.peerID)"), "\(output)")
        }
    }

    @Test func pythonFindsThroughUs() async throws {
        try await self.withDHT { host, dht in
            let address = try host.address(Way(transport: "tcp", security: .noise))
            let first = try Peers.startPython(
                ["-dht", "-stay", "-dial", "\(address)", "-op", "provide=\(Self.cid("the first's"))"]
            )
            let firstAddress = try await first.address()
            let firstPeer = try #require(firstAddress.peerID)
            _ = try await first.line("done")
            try await self.knows(dht, 1)
            try await eventually("we know the provider", within: .seconds(60)) { await dht.metrics().providerKeys == 1 }
            let second = try Peers.startPython(
                [
                    "-dht", "-dial", "\(address)", "-op",
                    "findpeer=\(firstPeer),findproviders=\(Self.cid("the first's"))",
                ]
            )
            let output = try await second.finish(within: 90)
            #expect(output.contains("found \(firstAddress.withoutPeerID)"), "\(output)")
            #expect(output.contains("provider \(firstPeer)"), "\(output)")
        }
    }

    // MARK: a host of go-libp2p, in the DHT of private networks as v1.17 has it

    @Test(.enabled(if: Peers.go != nil, "EDGEMESH_GO_PEER names no program")) func weFindThroughGo()
        async throws
    {
        let program = try #require(Peers.go)
        let middle = try PeerProcess([program, "-dht"], limit: Peers.lifetime)
        let address = try await middle.address()
        try await self.withDHT(.lan()) { first, firstDHT in
            try await self.withDHT(.lan()) { second, secondDHT in
                for host in [first, second] { _ = try await host.connect(to: address) }
                for dht in [firstDHT, secondDHT] { try await self.knows(dht, 1) }
                try await self.eventuallyFinds("we find a node", true) {
                    !Set(try await firstDHT.findPeer(second.peerID)).isDisjoint(with: second.listenAddresses)
                }
                try await self.eventuallyFinds("we find whom we meet", [second.peerID]) {
                    try await secondDHT.advertise(rendezvous: "EDGEMESH_PLAYGOUND")
                    return try await firstDHT.findPeers(rendezvous: "EDGEMESH_PLAYGOUND").map(\.peer)
                }
            }
        }
    }
}
