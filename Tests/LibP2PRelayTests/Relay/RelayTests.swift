import LibP2P
import LibP2PSecurity
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Synchronization
import Testing

@testable import LibP2PRelay

extension SocketTests {
    /// Relay, target and source as whole hosts on loopback.
    @Suite struct RelayTests {
        @Test(arguments: [1, 4], [false, true])
        func bytesGoThroughARelay(_ threads: Int, _ isPrivate: Bool) async throws {
            let group = MultiThreadedEventLoopGroup(numberOfThreads: threads)
            let key = isPrivate ? PreSharedKey(originalFileBytes: Array("secret".utf8)) : nil
            try await Hosts.with { hosts in
                let relay = try await hosts.make(group: group) { $0.preSharedKey = key }
                let service = relay.serve { $0.acceptsUnreserved = false }
                let target = try await hosts.make(listens: false) { $0.preSharedKey = key }
                target.echo()
                let client = hosts.client(of: target, relay)
                try await client.holds(1)
                #expect(target.advertisedAddresses == relay.addresses.map { $0.appending(.circuit) })

                // As many sources as put some of them on the target's loop, and some on another.
                for index in 0..<4 {
                    let source = try await hosts.make(listens: false) { $0.preSharedKey = key }
                    let sourceClient = hosts.client(of: source)
                    let connection = try await source.connect(
                        to: target.peerID,
                        addresses: target.advertisedAddresses
                    )
                    #expect(connection.remotePeer == target.peerID)
                    #expect(connection.path == .relayed(nil))
                    #expect(connection.remoteAddress == relay.addresses[0].appending(.circuit))
                    let stream = try await source.openStream(to: target.peerID, protocols: ["/echo"])
                    let bytes = ByteBuffer.pattern(400_000, seed: index)
                    #expect(try await stream.exchange(bytes) == bytes)
                    #expect(sourceClient.reservations.isEmpty)
                }
                let loops = Set(relay.connections.map { ObjectIdentifier($0.eventLoop) })
                #expect(loops.count == min(threads, relay.connections.count))
                let metrics = await service.metrics()
                #expect(metrics.openReservations == 1)
                #expect(metrics.openCircuits == 4)
                #expect(metrics.circuitsOpened == 4)
                #expect(metrics.bytesFromSources > 4 * 400_000)
                #expect(metrics.bytesFromTargets > 4 * 400_000)
                #expect(client.metrics.circuitsAccepted == 4)
            }
            try await group.shutdownGracefully()
        }

        @Test func theEndOfACircuitIsTheEndAtBothSides() async throws {
            try await Hosts.with { hosts in
                let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
                let relay = try await hosts.make(group: group)
                let service = relay.serve()
                let target = try await hosts.make(listens: false)
                let client = hosts.client(of: target, relay)
                try await client.holds(1)
                for _ in 0..<3 {
                    let source = try await hosts.make(listens: false)
                    hosts.client(of: source)
                    let connection = try await source.connect(to: target.peerID, addresses: relay.circuit(to: target))
                    try await eventually("the target knows") { target.connections(to: source.peerID).count == 1 }
                    connection.close()
                    try await eventually("the target has lost it") { target.connections(to: source.peerID).isEmpty }
                    try await eventually("the relay has forgotten it") { await service.metrics().openCircuits == 0 }
                }
                // The target's side ends it.
                let source = try await hosts.make(listens: false)
                hosts.client(of: source)
                _ = try await source.connect(to: target.peerID, addresses: relay.circuit(to: target))
                try await eventually("the target knows") { target.connections(to: source.peerID).count == 1 }
                target.disconnect(from: source.peerID)
                try await eventually("the source has lost it") { source.connections(to: target.peerID).isEmpty }
                try await eventually("the relay has forgotten it") { await service.metrics().openCircuits == 0 }
            }
        }

        @Test(arguments: [true, false]) func peersWithoutAReservationAreReachedIfTheRelayAllows(
            _ allows: Bool
        ) async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve { $0.acceptsUnreserved = allows }
                let target = try await hosts.make(listens: false)
                hosts.client(of: target, wanted: 0)
                try await target.join(relay)
                let source = try await hosts.make(listens: false)
                hosts.client(of: source)
                do {
                    let connection = try await source.connect(to: target.peerID, addresses: relay.circuit(to: target))
                    #expect(connection.isRelayed)
                    #expect(allows)
                } catch let error as LibP2PError {
                    #expect(!allows)
                    let reason = error.attempts.first?.error as? LibP2PRelayError
                    #expect(reason?.code == .noReservation)
                    #expect(await service.metrics().circuitsRefused == 1)
                }
            }
        }

        @Test func bytesAreLimited() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve { $0.limit = ConnectionLimit(seconds: 600, bytes: 300_000) }
                let target = try await hosts.make(listens: false)
                target.echo("/echo", options: HandlerOptions(allowLimitedConnection: true))
                let client = hosts.client(of: target, relay)
                try await client.holds(1)
                #expect(client.reservations.first?.limit == ConnectionLimit(seconds: 600, bytes: 300_000))
                let source = try await hosts.make(listens: false)
                hosts.client(of: source)
                let connection = try await source.connect(to: target.peerID, addresses: relay.circuit(to: target))
                #expect(connection.path == .relayed(ConnectionLimit(seconds: 600, bytes: 300_000)))
                #expect(target.connections(to: source.peerID).first?.isLimited ?? true)
                await #expect(throws: LibP2PError.self) {
                    _ = try await connection.openStream(protocols: ["/echo"]).get()
                }
                let options = OpenStreamOptions(allowLimitedConnection: true)
                let small = try await connection.openStream(protocols: ["/echo"], options: options).get()
                #expect(try await small.exchange(.pattern(1000)) == .pattern(1000))
                let large = try await connection.openStream(protocols: ["/echo"], options: options).get()
                await #expect(throws: (any Error).self) { _ = try await large.exchange(.pattern(400_000)) }
                try await eventually("the circuit is over") { !connection.isOpen }
                #expect(await service.metrics().circuitsCut >= 1)
            }
        }

        @Test func timeIsLimited() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve { $0.limit = ConnectionLimit(seconds: 1, bytes: nil) }
                let target = try await hosts.make(listens: false)
                hosts.client(of: target, relay)
                try await eventually("reserved") { await service.metrics().openReservations == 1 }
                let source = try await hosts.make(listens: false)
                hosts.client(of: source)
                // On a busy machine the time may be over before the handshake is.
                let connection = try? await source.connect(to: target.peerID, addresses: relay.circuit(to: target))
                try await eventually("the circuit is over") {
                    let metrics = await service.metrics()
                    return metrics.circuitsCut == 1 && metrics.openCircuits == 0
                }
                try await eventually("the source knows") { connection?.isOpen != true }
            }
        }

        @Test func theRelaysRulesHold() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let denied = Mutex<PeerID?>(nil)
                let rules = Rules(denied: denied.withLock { $0 })
                let service = relay.serve {
                    $0.allowReservation = { peer, _ in !rules.isDenied(peer) }
                    $0.allowCircuit = { source, _ in !rules.isDenied(source) }
                }
                let target = try await hosts.make(listens: false)
                rules.deny(target.peerID)
                let client = hosts.client(of: target, relay)
                try await eventually("it is refused") { client.metrics.reservationsRefused >= 1 }
                #expect(client.reservations.isEmpty)
                #expect(await service.metrics().reservationsRefused >= 1)
                // Not for ever: the relay is asked again.
                rules.deny(nil)
                try await client.holds(1)

                let source = try await hosts.make(listens: false)
                hosts.client(of: source)
                rules.deny(source.peerID)
                await #expect(throws: LibP2PError.self) {
                    _ = try await source.connect(to: target.peerID, addresses: relay.circuit(to: target)) as Connection
                }
                #expect(await service.metrics().circuitsRefused == 1)
            }
        }

        private final class Rules: Sendable {
            private let denied: Mutex<PeerID?>
            init(denied: PeerID?) { self.denied = Mutex(denied) }
            func deny(_ peer: PeerID?) { self.denied.withLock { $0 = peer } }
            func isDenied(_ peer: PeerID) -> Bool { self.denied.withLock { $0 == peer } }
        }

        @Test func reservationsComeBackAfterTheRelayWasAway() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve()
                let target = try await hosts.make(listens: false)
                let client = hosts.client(of: target, relay)
                try await client.holds(1)
                for _ in 0..<3 {
                    let lost = client.metrics.reservationsLost
                    service.stop()
                    relay.disconnect(from: target.peerID)
                    try await eventually("it is lost") { client.metrics.reservationsLost == lost + 1 }
                    try await client.holds(0)
                    #expect(target.advertisedAddresses.isEmpty)
                    service.start()
                    try await client.holds(1)
                    #expect(target.advertisedAddresses.count == 1)
                }
            }
        }

        @Test func anotherRelayTakesThePlaceOfOneThatIsGone() async throws {
            try await Hosts.with { hosts in
                let first = try await hosts.make()
                let second = try await hosts.make()
                let services = [first.serve(), second.serve()]
                let target = try await hosts.make(listens: false)
                target.echo()
                let client = hosts.client(of: target, first, second)
                try await client.holds(1)
                let chosen = try #require(client.reservations.first).relay
                #expect(client.reservations.first?.roundTripTime != nil)
                let (gone, left) = chosen == first.peerID ? (first, second) : (second, first)
                services[chosen == first.peerID ? 0 : 1].stop()
                gone.disconnect(from: target.peerID)
                try await eventually("the other serves") { client.reservations.first?.relay == left.peerID }
                let source = try await hosts.make(listens: false)
                hosts.client(of: source)
                _ = try await source.connect(to: target.peerID, addresses: left.circuit(to: target)) as Connection
            }
        }

        @Test func severalRelaysAreHeldAndLetGo() async throws {
            try await Hosts.with { hosts in
                let relays = [try await hosts.make(), try await hosts.make(), try await hosts.make()]
                let services = relays.map { $0.serve() }
                let target = try await hosts.make(listens: false)
                let client = hosts.client(of: target, wanted: 3)
                client.setCandidates(relays.map(\.candidate))
                try await client.holds(3)
                #expect(target.advertisedAddresses.count == 3)
                #expect(relays.allSatisfy { target.connectionManager.isProtected($0.peerID) })
                client.setCandidates([relays[0].candidate])
                try await client.holds(1)
                #expect(target.advertisedAddresses == relays[0].addresses.map { $0.appending(.circuit) })
                client.stop()
                try await client.holds(0)
                withExtendedLifetime(services) {}
            }
        }

        /// 200 circuits between twenty sources and ten targets, all opened at once.
        @Test func manyCircuitsAtOnce() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve()
                var targets: [Host] = []
                var clients: [RelayClient] = []
                for _ in 0..<10 {
                    let target = try await hosts.make(listens: false)
                    target.echo()
                    clients.append(hosts.client(of: target, relay))
                    targets.append(target)
                }
                for client in clients { try await client.holds(1) }
                var sources: [Host] = []
                for _ in 0..<20 {
                    let source = try await hosts.make(listens: false)
                    clients.append(hosts.client(of: source))
                    sources.append(source)
                }
                try await withThrowingTaskGroup(of: Bool.self) { group in
                    for (index, source) in sources.enumerated() {
                        for target in targets {
                            group.addTask {
                                let connection: Connection = try await source.connect(
                                    to: target.peerID,
                                    addresses: relay.circuit(to: target)
                                )
                                let stream = try await connection.openStream(protocols: ["/echo"]).get()
                                let bytes = ByteBuffer.pattern(20_000, seed: index)
                                return try await stream.exchange(bytes) == bytes
                            }
                        }
                    }
                    for try await isEqual in group { #expect(isEqual) }
                }
                let metrics = await service.metrics()
                #expect(metrics.openCircuits == 200)
                #expect(metrics.circuitsFailed == 0)
                for source in sources { for target in targets { source.disconnect(from: target.peerID) } }
                try await eventually("all are over") { await service.metrics().openCircuits == 0 }
            }
        }

        /// A reader that stalls stops the sender, and the relay holds no more than windows.
        @Test(arguments: [1, 2]) func aStalledReaderStopsTheSender(_ threads: Int) async throws {
            let group = MultiThreadedEventLoopGroup(numberOfThreads: threads)
            try await Hosts.with { hosts in
                let relay = try await hosts.make(group: group)
                let service = relay.serve()
                let target = try await hosts.make(listens: false)
                let stalled = Mutex<NegotiatedStream?>(nil)
                target.handle("/stall") { stream in
                    stalled.withLock { $0 = stream }
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                try await hosts.client(of: target, relay).holds(1)
                for _ in 0..<2 {
                    let source = try await hosts.make(listens: false)
                    hosts.client(of: source)
                    _ = try await source.connect(to: target.peerID, addresses: relay.circuit(to: target)) as Connection
                    let before = await service.metrics().bytesFromSources
                    let stream = try await source.openStream(to: target.peerID, protocols: ["/stall"])
                    let block = ByteBuffer.pattern(64 * 1024)
                    var written = 0
                    while stream.channel.isWritable, written < 64 << 20 {
                        stream.channel.writeAndFlush(block, promise: nil)
                        written += block.readableBytes
                        try await stream.channel.eventLoop.submit {}.get()
                    }
                    try await eventually("it has what it may have") {
                        await service.metrics().bytesFromSources > before
                    }
                    #expect(written < 4 << 20)
                    let carried = await service.metrics().bytesFromSources - before
                    #expect(carried < 4 << 20)
                    stream.reset()
                    source.disconnect(from: target.peerID)
                }
            }
            try await group.shutdownGracefully()
        }
    }
}
