import LibP2P
import LibP2PRelay
import Logging
import MeshTesting
import Multiformats
import NIOCore
import PeerTesting
import Testing

/// Circuit v2: their relays for us, our relay for them, with payload both ways through every circuit.
@Suite(.serialized) struct RelayTests {
    /// py-libp2p relays at the pace of its reads.
    static let bytes = 256 * 1024

    /// The part of a host that uses relays: keeps a reservation with `relay` if there is one, and dials through any.
    private func client(of host: Host, reserving relay: Multiaddr? = nil) throws -> RelayClient {
        let client = RelayClient(host: host, logger: host.logger)
        client.start()
        if let relay {
            let peer = try #require(relay.peerID)
            client.setCandidates([RelayCandidate(peer: peer, addresses: [relay.withoutPeerID])])
        }
        return client
    }

    /// A peer of ours reserves with a relay of theirs, and others dial it.
    private func reserve(
        with relay: Multiaddr,
        _ body: (_ target: Host, _ circuit: Multiaddr, ActiveReservation) async throws -> Void
    ) async throws {
        try await withHost(TestHost(listen: [])) { target in
            let client = try self.client(of: target, reserving: relay)
            try await eventually("the relay grants a reservation", within: .seconds(60)) {
                !client.reservations.isEmpty
            }
            let reservation = try #require(client.reservations.first)
            #expect(reservation.circuitAddresses.contains(relay.appending(.circuit)), "\(reservation)")
            try await body(target, relay.appending(.circuit).appending(.p2p(target.peerID)), reservation)
            client.stop()
        }
    }

    /// A peer of ours dials through a relay. What the target says of the bytes that it gets and of those that it sends is checked.
    private func dial(_ circuit: Multiaddr, halfCloses: Bool, bytes: Int = Self.bytes) async throws {
        let target = try #require(circuit.peerID)
        try await withHost(TestHost(listen: [])) { source in
            let client = try self.client(of: source)
            let connection = try await source.connect(to: circuit)
            #expect(connection.isRelayed)
            #expect(connection.remotePeer == target)
            #expect(try await connection.ping().get() > .zero)
            try await source.testEcho(target, bytes: bytes, halfCloses: halfCloses)
            try await source.testSource(target, bytes: bytes, hashes: true)
            if halfCloses { try await source.testSink(target, bytes: bytes) }
            client.stop()
        }
    }

    private func dialFromDaemon(_ circuit: Multiaddr, bytes: Int = Self.bytes) async throws {
        let target = try #require(circuit.peerID)
        let daemon = try await Peers.startDaemon("-relay=1")
        try await daemon.connect(to: target, at: [circuit])
        try await daemon.echo(bytes, with: target)
    }

    private func dialFromPython(_ circuit: Multiaddr) async throws {
        let operations = ["ping", "echo", "sink", "source"]
        let dialer = try Peers.startPython(
            ["-dial", "\(circuit)", "-op", operations.joined(separator: ","), "-bytes", "\(Self.bytes)"]
        )
        let output = try await dialer.finish(within: 90)
        for operation in operations { #expect(output.contains("\(operation) ok"), "\(output)") }
    }

    @Test func theDaemonIsOurRelay() async throws {
        let relay = try await Peers.startDaemon(
            "-relay=1",
            "-relayService=1",
            "-forceReachabilityPublic=1",
            "-relayDataLimit=\(16 << 20)",
            "-relayTimeLimit=10m"
        )
        try await self.reserve(with: try relay.address) { target, circuit, reservation in
            // The daemon has two relay services: one with the limits of its options, one with those of go-libp2p. Which of them gets
            // the streams is a matter of chance.
            let limits = [ConnectionLimit(seconds: 600, bytes: 16 << 20), .init(seconds: 120, bytes: 128 << 10)]
            let limit = try #require(reservation.limit)
            #expect(limits.contains(limit))
            let bytes = min(Self.bytes, Int(limit.bytes ?? 0) / 4)
            try await self.dial(circuit, halfCloses: true, bytes: bytes)
            try await self.dialFromDaemon(circuit, bytes: bytes)
        }
    }

    @Test func pythonIsOurRelay() async throws {
        let relay = try Peers.startPython(["-relay"])
        try await self.reserve(with: try await relay.address()) { target, circuit, _ in
            try await self.dial(circuit, halfCloses: true)
            try await self.dialFromPython(circuit)
        }
    }

    /// A relay service of ours that gives circuits to those who have reserved, and to others only if wanted.
    private func withRelay(
        acceptsUnreserved: Bool = false,
        _ body: (RelayService, _ address: Multiaddr) async throws -> Void
    ) async throws {
        try await withHost(TestHost()) { host in
            var configuration = RelayServiceConfiguration()
            configuration.acceptsUnreserved = acceptsUnreserved
            configuration.addressFilter = { _ in true }
            let service = RelayService(host: host, configuration: configuration, logger: host.logger)
            service.start()
            try await body(service, try host.address(Way(transport: "tcp", security: .noise)))
            service.stop()
        }
    }

    private func hasReserved(_ service: RelayService) async throws {
        try await eventually("a reservation with our relay", within: .seconds(60)) {
            await service.metrics().openReservations == 1
        }
    }

    /// That so many circuits were opened, and bytes went through them both ways.
    private func check(_ service: RelayService, circuits: UInt64) async {
        let metrics = await service.metrics()
        #expect(metrics.circuitsOpened == circuits)
        #expect(metrics.bytesFromSources > circuits * UInt64(Self.bytes))
        #expect(metrics.bytesFromTargets > circuits * UInt64(Self.bytes))
    }

    @Test func weAreTheDaemonsRelay() async throws {
        try await self.withRelay { service, address in
            let target = try await Peers.startDaemon(
                "-relay=1",
                // It has no automatic relays without a DHT.
                "-dhtClient=1",
                "-autoRelay=1",
                "-relayDiscovery=0",
                "-trustedRelays=\(address)",
                "-forceReachabilityPrivate=1"
            )
            let listener = try await target.serveTestProtocols()
            try await self.hasReserved(service)
            let circuit = address.appending(.circuit).appending(.p2p(target.peerID))
            try await self.dial(circuit, halfCloses: false)
            try await self.dialFromDaemon(circuit)
            await self.check(service, circuits: 2)
            try await listener.close().get()
        }
    }

    /// As agents of v1.17 are, which never get to reserve: a connection is enough.
    @Test(arguments: [true, false]) func aDaemonThatHasNotReserved(isAccepted: Bool) async throws {
        try await self.withRelay(acceptsUnreserved: isAccepted) { service, address in
            let target = try await Peers.startDaemon("-relay=1")
            let listener = try await target.serveTestProtocols()
            try await target.connect(to: try #require(address.peerID), at: [address])
            let circuit = address.appending(.circuit).appending(.p2p(target.peerID))
            if isAccepted {
                try await self.dial(circuit, halfCloses: false)
                await self.check(service, circuits: 1)
            } else {
                await #expect(throws: LibP2PError.self) { try await self.dial(circuit, halfCloses: false) }
                #expect(await service.metrics().circuitsRefused == 1)
            }
            try await listener.close().get()
        }
    }

    @Test func weArePythonsRelay() async throws {
        try await self.withRelay { service, address in
            let target = try Peers.startPython(["-reserve", "\(address)"])
            let peer = try #require(try await target.address().peerID)
            try await self.hasReserved(service)
            let circuit = address.appending(.circuit).appending(.p2p(peer))
            try await self.dial(circuit, halfCloses: true)
            try await self.dialFromPython(circuit)
            await self.check(service, circuits: 2)
        }
    }
}
