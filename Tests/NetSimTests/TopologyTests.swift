import Glibc
import MeshCore
import NIOCore
import NetSim
import Synchronization
import Testing

@Suite struct TopologyTests {
    private static let server: TransportAddress = "203.0.113.2:4001"

    /// Keeps the datagrams that come.
    private final class Datagrams: ChannelInboundHandler, Sendable {
        typealias InboundIn = AddressedEnvelope<ByteBuffer>
        private let received = Mutex<[String]>([])
        private let failure = Mutex<CInt?>(nil)

        var all: [String] { self.received.withLock { $0 } }
        var error: CInt? { self.failure.withLock { $0 } }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let envelope = self.unwrapInboundIn(data)
            let source = envelope.remoteAddress
            let text = "\(source.ipAddress ?? "?"):\(source.port ?? 0) \(String(buffer: envelope.data))"
            self.received.withLock { $0.append(text) }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            self.failure.withLock { $0 = errno(error) }
        }
    }

    private func pause(_ simulation: Simulation, _ time: TimeAmount = .seconds(1)) async throws {
        try await simulation.loop.scheduleTask(in: time) {}.futureResult.get()
    }

    @Test func datagramsArriveOrNot() throws {
        try withSimulation(seed: 3, link: Link(loss: 0.2)) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                let datagrams = Datagrams()
                _ = try await other.bindDatagrams(to: "0.0.0.0:53") {
                    try $0.pipeline.syncOperations.addHandler(datagrams)
                }.get()
                let channel = try await one.bindDatagrams(to: "0.0.0.0:5353") { _ in }.get()
                let target = try SocketAddress(ipAddress: "203.0.113.2", port: 53)
                for number in 0..<100 {
                    let bytes = ByteBuffer(string: "\(number)")
                    try await channel.writeAndFlush(AddressedEnvelope(remoteAddress: target, data: bytes)).get()
                }
                try await self.pause(simulation)
                // Two links lose a fifth each.
                #expect((45...85).contains(datagrams.all.count), "\(datagrams.all.count)")
                #expect(datagrams.all.first?.hasPrefix("203.0.113.1:5353 ") == true)
            }
        }
    }

    @Test func datagramsToClosedPortsAreToldThroughANAT() throws {
        try withSimulation(seed: 1) { simulation in
            let home = simulation.home("home", .symmetric, inside: "10.0.0.0/24", outside: "198.51.100.1")
            let inside = home.machine("inside", 2, in: simulation)
            let (_, _) = simulation.twoMachines()
            try simulation.run {
                let datagrams = Datagrams()
                let channel = try await inside.bindDatagrams(to: "0.0.0.0:0") {
                    try $0.pipeline.syncOperations.addHandler(datagrams)
                }.get()
                let target = try SocketAddress(ipAddress: "203.0.113.2", port: 53)
                try await channel.writeAndFlush(AddressedEnvelope(remoteAddress: target, data: ByteBuffer(string: "?")))
                    .get()
                try await self.pause(simulation)
                #expect(datagrams.error == ECONNREFUSED)
            }
        }
    }

    @Test func natsTranslateAndNest() throws {
        try withSimulation(seed: 1) { simulation in
            let carrier = simulation.home("carrier", .symmetric, inside: "100.64.0.0/10", outside: "198.51.100.1")
            let home = simulation.home(
                "home",
                .portRestrictedCone,
                inside: "192.168.1.0/24",
                outside: "100.64.0.7",
                on: carrier.network
            )
            let inside = home.machine("inside", 2, in: simulation)
            let server = simulation.machine("server")
            server.attach(to: simulation.internet, "203.0.113.2")
            try simulation.run {
                let talk = try await Conversation.open(from: inside, to: server, at: Self.server)
                #expect(talk.server.remoteAddress?.ipAddress == "198.51.100.1")
                #expect(talk.client.localAddress?.ipAddress == "192.168.1.2")
                try await talk.server.writeAndFlush(ByteBuffer(string: "hi")).get()
                try await self.pause(simulation)
                #expect(talk.clientInbox.text == "hi")
            }
            #expect(home.router.nat?.mappings == 1 && carrier.router.nat?.mappings == 1)
        }
    }

    @Test(arguments: [true, false])
    func hairpins(_ hairpinning: Bool) throws {
        try withSimulation(seed: 1) { simulation in
            let behavior = NATBehavior(filtering: .endpointIndependent, hairpinning: hairpinning)
            let home = simulation.home("home", behavior, inside: "10.0.0.0/24", outside: "198.51.100.1")
            let (one, other) = (home.machine("one", 2, in: simulation), home.machine("other", 3, in: simulation))
            let (server, _) = simulation.twoMachines()
            try simulation.run {
                // The mapping that the neighbour will use.
                let listener = try await server.listen(on: "203.0.113.1:80") { _ in }.get()
                _ = try await other.listen(on: "0.0.0.0:4001", reuse: true) { _ in }.get()
                _ = try await other.connect(to: listener.address, from: "0.0.0.0:4001", reuse: true).get()
                let attempt = one.connect(to: "198.51.100.1:4001", deadline: simulation.loop.now + .seconds(5))
                if hairpinning {
                    _ = try await attempt.get()
                } else {
                    await #expect(throws: ChannelError.self) { _ = try await attempt.get() }
                }
            }
        }
    }

    @Test func firewallsLetOutAndNotIn() throws {
        try withSimulation(seed: 1) { simulation in
            let router = simulation.router("firewall")
            router.firewall = FirewallTable()
            let uplink = router.attachUplink(to: simulation.internet, "2001:db8::1")
            let lan = simulation.network("lan", ["2001:db8:1::/64"])
            router.attach(to: lan, "2001:db8:1::1")
            simulation.internet.addRoute("2001:db8:1::/64", via: uplink)
            let (inside, outside) = (simulation.machine("inside"), simulation.machine("outside"))
            inside.attach(to: lan, "2001:db8:1::2")
            outside.attach(to: simulation.internet, "2001:db8:2::2")
            try simulation.run {
                let talk = try await Conversation.open(from: inside, to: outside, at: "[2001:db8:2::2]:80")
                #expect(talk.server.remoteAddress?.ipAddress == "2001:db8:1::2")
                _ = try await inside.listen(on: "[::]:80") { _ in }.get()
                let deadline = simulation.loop.now + .seconds(5)
                await #expect(throws: ChannelError.self) {
                    _ = try await outside.connect(to: "[2001:db8:1::2]:80", deadline: deadline).get()
                }
            }
        }
    }

    @Test func unroutedPacketsAreAnsweredByRouters() throws {
        withSimulation(seed: 1) { simulation in
            let lan = simulation.network("lan", ["10.0.0.0/24"])
            simulation.router("no-uplink").attach(to: lan, "10.0.0.1")
            let machine = simulation.machine("one")
            machine.attach(to: lan, "10.0.0.2")
            let error = #expect(throws: IOError.self) {
                try simulation.run { _ = try await machine.connect(to: "8.8.8.8:53").get() }
            }
            #expect(errno(error) == ENETUNREACH)
        }
    }

    @Test func aMachineThatMovesLosesItsConnections() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run(within: .hours(1)) {
                let talk = try await Conversation.open(from: one, to: other, at: Self.server)
                one.interfaces[0].remove("203.0.113.1")
                one.interfaces[0].add("203.0.113.77")
                try await talk.client.writeAndFlush(ByteBuffer(string: "?")).get()
                try await self.pause(simulation, .minutes(30))
                #expect(errno(talk.clientInbox.now.error) == ETIMEDOUT)
                _ = try await Conversation.open(from: one, to: other, at: "203.0.113.2:80")
            } as Void
        }
    }

    @Test func clocksMayBeWrong() throws {
        try withSimulation(seed: 1) { simulation in
            let machine = simulation.machine("one")
            let before = machine.unixTime
            try simulation.run(for: .seconds(60))
            #expect(machine.unixTime == before + 60)
            machine.clockError = .hours(-1)
            #expect(machine.unixTime == before + 60 - 3600)
        }
    }

    /// A seed makes one run, down to each packet; another seed makes another.
    @Test func oneSeedOneTrace() throws {
        func trace(_ seed: UInt64) throws -> Trace {
            try withSimulation(seed: seed, link: Link(jitter: .milliseconds(9), loss: 0.05)) { simulation in
                let home = simulation.home("home", .symmetric, inside: "10.0.0.0/24", outside: "198.51.100.1")
                let inside = home.machine("inside", 2, in: simulation)
                let (_, server) = simulation.twoMachines()
                try simulation.run {
                    let talk = try await Conversation.open(from: inside, to: server, at: Self.server) { channel in
                        try channel.pipeline.syncOperations.addHandler(Echo())
                    }
                    for _ in 0..<20 {
                        try await talk.client.writeAndFlush(ByteBuffer(repeating: 1, count: 3000)).get()
                        try await self.pause(simulation, .milliseconds(20))
                    }
                    try await talk.client.close(mode: .output).get()
                    try await talk.client.closeFuture.get()
                }
                return simulation.trace
            }
        }
        let first = try trace(11)
        #expect(try trace(11) == first)
        #expect(try trace(12).digest != first.digest)
        #expect(first.dropped > 0)
    }
}
