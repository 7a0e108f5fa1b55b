import Documents
import LibP2P
import LibP2PRelay
import Logging
import Multiformats
import NIOCore
import PeerTesting

/// A test host that serves as relay, holds reservations, punches holes and keeps connections, as an agent of a mesh does.
struct MeshingPeer {
    var servesAsRelay = false
    var punchesHoles = false
    /// Relays, as `…/p2p/RELAY`.
    var reserve: [Multiaddr] = []
    /// Peers, each by all its addresses, which end in `/p2p/PEER`.
    var keep: [[Multiaddr]] = []

    var isWanted: Bool { self.servesAsRelay || self.punchesHoles || !self.reserve.isEmpty || !self.keep.isEmpty }

    /// Runs until the process is killed.
    func run(_ host: Host) async throws {
        let observation = host.observe { PeerEvents.say($0) }
        defer { observation.cancel() }
        let relay = self.useRelays(host)
        let service = RelayService(host: host, logger: host.logger)
        if self.servesAsRelay { service.start() }
        let observed = ObservedAddresses(host: host)
        observed.start()
        var punching = HolePunchConfiguration()
        punching.punched = { PeerEvents.say("punched", ["peer": .string("\($0.remotePeer)")]) }
        let puncher = HolePuncher(host: host, observed: observed, configuration: punching)
        if self.punchesHoles { puncher.start() }
        PeerEvents.say(
            "ready",
            [
                "peer": .string("\(host.peerID)"),
                "addresses": .array(host.advertisedAddresses.map { .string("\($0)") }),
            ]
        )
        try await self.meetRelays(host)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for addresses in self.keep {
                guard let peer = addresses.first?.peerID else { throw TestPeerError("-keep wants …/p2p/PEER") }
                group.addTask { try await KeptPeer(host: host, peer: peer, addresses: addresses).run() }
            }
            group.addTask { try await Self.report(puncher) }
            try await group.waitForAll()
        }
        relay.stop()
    }

    private func useRelays(_ host: Host) -> RelayClient {
        var configuration = RelayClientConfiguration()
        configuration.wantedReservations = self.reserve.count
        let relay = RelayClient(host: host, configuration: configuration, logger: host.logger)
        relay.start()
        relay.setCandidates(
            self.reserve.compactMap { address in
                address.peerID.map { RelayCandidate(peer: $0, addresses: [address.withoutPeerID]) }
            }
        )
        return relay
    }

    /// A relay tells how this host looks from outside, and that is needed before a peer asks for it.
    private func meetRelays(_ host: Host) async throws {
        let relays = Set(self.keep.joined().compactMap { $0.relay?.address })
        for address in relays {
            let connection = try await host.connect(to: address)
            for _ in 0..<400 where connection.identification == nil { try await Task.sleep(for: .milliseconds(25)) }
        }
    }

    private static func report(_ puncher: HolePuncher) async throws {
        var last = HolePunchMetrics()
        while true {
            let metrics = puncher.metrics
            if metrics != last {
                last = metrics
                PeerEvents.say(
                    "punches",
                    [
                        "started": .integer(metrics.started), "dialled": .integer(metrics.dialled),
                        "punched": .integer(metrics.punched), "failed": .integer(metrics.failed),
                        "answered": .integer(metrics.answered), "running": .integer(metrics.running),
                    ]
                )
            }
            try await Task.sleep(for: .milliseconds(200))
        }
    }
}
