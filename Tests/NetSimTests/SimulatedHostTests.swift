import LibP2P
import MeshCore
import Multiformats
import NIOCore
import NetSim
import Synchronization
import Testing

@Suite struct SimulatedHostTests {
    private static let echo: ProtocolID = "/test/echo/1.0.0"

    /// Serves streams that send back what comes.
    private static func serveEcho(_ host: Host) {
        host.handle(Self.echo) { stream in
            stream.channel.eventLoop.makeCompletedFuture {
                try stream.channel.pipeline.syncOperations.addHandler(Echo())
                try stream.channel.syncOptions?.setOption(.autoRead, value: true)
            }
        }
    }

    /// What comes back of `text` on a new stream.
    private static func ask(_ host: Host, _ peer: PeerID, _ text: String) async throws -> String {
        let stream = try await host.openStream(to: peer, protocols: [Self.echo]).get()
        let inbox = Inbox()
        try stream.channel.pipeline.syncOperations.addHandler(inbox)
        try stream.channel.syncOptions?.setOption(.autoRead, value: true)
        try await stream.channel.writeAndFlush(ByteBuffer(string: text)).get()
        try await stream.channel.close(mode: .output).get()
        try await stream.channel.closeFuture.get()
        return inbox.text
    }

    private static func shutDown(_ hosts: [Host], _ simulation: Simulation) async {
        for host in hosts { await host.shutdown(deadline: simulation.loop.now + .seconds(5)) }
    }

    @Test func hostsConnectThroughANAT() throws {
        try withSimulation(seed: 1) { simulation in
            let home = simulation.home("home", .symmetric, inside: "10.0.0.0/24", outside: "198.51.100.1")
            let inside = home.machine("inside", 2, in: simulation)
            let (server, _) = simulation.twoMachines()
            let (client, relay) = (try inside.host(), try server.host())
            Self.serveEcho(relay)
            try simulation.run {
                try await client.start()
                try await relay.start()
                let address = try Multiaddr("/ip4/203.0.113.1/tcp/4001")
                let connection = try await client.connect(to: relay.peerID, addresses: [address])
                #expect(connection.securityProtocol == "/noise")
                #expect(try await Self.ask(client, relay.peerID, "hello") == "hello")
                // The relay sees the NAT, and tells of it.
                let seen = try #require(relay.connections(to: client.peerID).first)
                #expect(seen.remoteAddress.ipAddress == "198.51.100.1")
                try await simulation.loop.scheduleTask(in: .seconds(5)) {}.futureResult.get()
                #expect(connection.identification?.observedAddress == seen.remoteAddress)
                // Names and refusals are the simulation's, too.
                simulation.names["relay.example"] = ["203.0.113.1"]
                client.disconnect(from: relay.peerID)
                let name = try Multiaddr("/dns4/relay.example/tcp/4001")
                _ = try await client.connect(to: relay.peerID, addresses: [name])
                await Self.shutDown([client, relay], simulation)
            }
        }
    }

    /// Each host dials the next one, all within a second.
    @Test func aThousandHostsInSeconds() throws {
        let count = 1000
        let clock = ContinuousClock()
        let begin = clock.now
        try withSimulation(seed: 1) { simulation in
            let hosts = try (0..<count).map { index in
                let machine = simulation.machine("machine-\(index)")
                machine.attach(to: simulation.internet, CIDR("203.0.0.0/16").host(UInt32(index + 1)))
                return try machine.host { $0.identifyPushDelay = .seconds(5) }
            }
            hosts.forEach(Self.serveEcho)
            let made = clock.now
            try simulation.run {
                for host in hosts { try await host.start() }
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for (index, host) in hosts.enumerated() {
                        let target = hosts[(index + 1) % count]
                        let address = Multiaddr([
                            .ip4(IPv4Address(rawValue: 0xCB00_0001 + UInt32((index + 1) % count))), .tcp(4001),
                        ])
                        group.addTask {
                            let delay = Int64(simulation.randomNumber() % 1000)
                            try await simulation.loop.scheduleTask(in: .milliseconds(delay)) {}.futureResult.get()
                            _ = try await host.connect(to: target.peerID, addresses: [address])
                            let answer = try await Self.ask(host, target.peerID, "\(index)")
                            #expect(answer == "\(index)")
                        }
                    }
                    try await group.waitForAll()
                }
                #expect(hosts.allSatisfy { $0.connections.count == 2 })
                await Self.shutDown(hosts, simulation)
            }
            let trace = simulation.trace
            print(
                """
                \(count) hosts, each connected to the next: \(simulation.loop.jobsRun) events, \(trace.delivered) packets, \
                \(trace.bytes) bytes; hosts made in \(made - begin), run in \(clock.now - made), virtual time \
                \((simulation.loop.now - SimulatedLoop.start).nanoseconds / 1_000_000) ms
                """
            )
            #expect(trace.delivered > UInt64(count) * 10)
        }
    }

    /// Whole hosts behind NATs, on links that lose and reorder: one seed, one trace.
    @Test func oneSeedOneTrace() throws {
        func trace(_ seed: UInt64) throws -> Trace {
            try withSimulation(seed: seed, link: Link(jitter: .milliseconds(5), loss: 0.02)) { simulation in
                let server = simulation.machine("server")
                server.attach(to: simulation.internet, "203.0.113.1")
                let relay = try server.host()
                Self.serveEcho(relay)
                let clients = try (0..<20).map { index in
                    let home = simulation.home(
                        "home-\(index)",
                        index % 2 == 0 ? .symmetric : .portRestrictedCone,
                        inside: "10.0.0.0/24",
                        outside: CIDR("198.51.100.0/24").host(UInt32(index + 1))
                    )
                    return try home.machine("client-\(index)", 2, in: simulation).host()
                }
                return try simulation.run {
                    try await relay.start()
                    for client in clients { try await client.start() }
                    let address = try Multiaddr("/ip4/203.0.113.1/tcp/4001")
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        for client in clients {
                            group.addTask {
                                _ = try await client.connect(to: relay.peerID, addresses: [address])
                                _ = try await Self.ask(client, relay.peerID, "hello")
                            }
                        }
                        try await group.waitForAll()
                    }
                    let trace = simulation.trace
                    await Self.shutDown(clients + [relay], simulation)
                    return trace
                }
            }
        }
        let first = try trace(11)
        #expect(try trace(11) == first)
        #expect(try trace(12).digest != first.digest)
    }
}
