import ByteStreams
public import MeshCore
public import NIOCore
import Synchronization

/// A simulated internet on virtual time: networks, routers and machines, whose sockets are NIO channels on one event loop.
///
/// Everything that happens comes from one seed. Two runs of one test differ only in what the code under test draws itself
/// (its keys), and in the order of hashed collections, which Swift seeds for each process: see `Trace`.
///
/// Unchecked, as the compiler cannot see that all of it is confined to the loop, which runs on the thread that calls `run`; between
/// runs that thread may use it, too. The other classes of this target are unchecked for the same reason.
public final class Simulation: @unchecked Sendable {  // Safe because the simulation's loop alone touches it.
    public let seed: UInt64
    public let loop = SimulatedLoop()
    /// Where every public address is reached directly. What has no owner vanishes.
    public private(set) var internet: Network! = nil
    public private(set) var trace = Trace()
    /// Called with every packet that has come to the end of its way over a network, for tests and for those who look for errors.
    public var observer: ((NIODeadline, Packet, PacketFate) -> Void)?
    /// What host names resolve to, everywhere.
    public var names: [String: [IPAddress]] = [:]

    var generator: SeededGenerator
    private var networks: [Network] = []
    private var routers: [Router] = []
    private var machines: [Machine] = []

    fileprivate init(seed: UInt64, link: Link) {
        self.seed = seed
        self.generator = SeededGenerator(seed: seed)
        self.internet = self.network("internet", ["0.0.0.0/0", "::/0"], link: link, neighborTimeout: nil)
    }

    // MARK: Topology

    public func network(
        _ name: String,
        _ prefixes: [CIDR],
        link: Link = .wire,
        neighborTimeout: TimeAmount? = .seconds(3)
    ) -> Network {
        let network = Network(
            name: name,
            prefixes: prefixes,
            link: link,
            neighborTimeout: neighborTimeout,
            simulation: self
        )
        self.networks.append(network)
        return network
    }

    public func router(_ name: String) -> Router {
        let router = Router(name: name, simulation: self)
        self.routers.append(router)
        return router
    }

    public func machine(_ name: String) -> Machine {
        let machine = Machine(name: name, simulation: self)
        self.machines.append(machine)
        return machine
    }

    /// A network behind a NAT: its gateway is the first address of `inside`, and `outside` its address on the other side.
    public func home(
        _ name: String,
        _ behavior: NATBehavior,
        inside: CIDR,
        outside: IPAddress,
        on upstream: Network? = nil,
        link: Link? = nil
    ) -> Home {
        let network = self.network(name, [inside])
        let router = self.router("\(name)-nat")
        router.attachUplink(to: upstream ?? self.internet, outside, link: link)
        router.attach(to: network, inside.host(1))
        router.nat = NATTable(behavior, outside: [outside], seed: self.randomNumber())
        return Home(network: network, router: router, inside: inside)
    }

    /// From the simulation's seed, for code under test.
    public func randomNumber() -> UInt64 { self.generator.next() }

    /// Seconds since 1970 by the simulation's clock, or by one that is wrong.
    public func unixTime(ahead error: TimeAmount = .zero) -> UInt64 {
        let passed = (self.loop.now - SimulatedLoop.start) + error
        return UInt64(max(0, 1_700_000_000 + passed.nanoseconds / 1_000_000_000))
    }

    func record(_ packet: Packet, _ fate: PacketFate) {
        self.trace.record(packet, fate, at: self.loop.now)
        self.observer?(self.loop.now, packet, fate)
    }

    // MARK: Running

    /// Lets virtual time pass.
    public func run(for time: TimeAmount) throws(NetSimError) {
        self.loop.run(until: self.loop.now + time)
        try self.checkLoop()
    }

    /// Runs a task on the loop until it is done. Throws what it throws, or `NetSimError` if it takes longer than `bound` of
    /// virtual time, waits for nothing that could still happen, or has left the loop.
    public func run<R: Sendable>(
        within bound: TimeAmount = .minutes(10),
        _ body: @escaping @Sendable () async throws -> R
    ) throws -> R {
        let outcome = Outcome<R>()
        let task = Task(executorPreference: LoopTaskExecutor(self.loop)) {
            do { outcome.set(.success(try await body())) } catch { outcome.set(.failure(error)) }
        }
        let limit = self.loop.now + bound
        let isDone = self.loop.run(until: limit, advance: false) { outcome.isSet || self.loop.foreignJobs > 0 }
        try self.checkLoop()
        if isDone, let result = outcome.result { return try result.get() }
        task.cancel()
        throw self.loop.isIdle
            ? NetSimError(
                code: .stalled,
                message: "the task waits, and nothing is left to happen: look for a lost promise"
            )
            : NetSimError(
                code: .outOfTime,
                message: "the task is not done after \(bound.nanoseconds / 1_000_000_000) s"
            )
    }

    /// For tasks on the loop: waits until `condition` holds, for `bound` at most.
    public func wait(
        atMost bound: TimeAmount,
        asking interval: TimeAmount = .milliseconds(50),
        until condition: () -> Bool
    ) async throws {
        let deadline = self.loop.now + bound
        while !condition(), self.loop.now < deadline { try await self.sleep(interval) }
    }

    /// For tasks on the loop: lets virtual time pass.
    public func sleep(_ time: TimeAmount) async throws {
        try await self.loop.scheduleTask(in: time) {}.futureResult.get()
    }

    private func checkLoop() throws(NetSimError) {
        guard self.loop.foreignJobs > 0 else { return }
        throw NetSimError(
            code: .leftTheLoop,
            message: """
                \(self.loop.foreignJobs) jobs came from other threads: look for tasks without an executor preference, \
                for thread pools and for other event loops
                """
        )
    }

    /// Ends all sockets and timers, so that no promise is left.
    fileprivate func end() {
        self.loop.execute {
            for machine in self.machines { machine.crash() }
        }
        self.loop.shutDown()
        self.observer = nil
    }
}

/// Runs `body` with a simulated internet, and ends that when it returns or throws.
///
/// - Parameter link: what machines and routers hang on the internet by, if they are attached without a link.
public func withSimulation<R>(
    seed: UInt64,
    link: Link = Link(),
    _ body: (Simulation) throws -> R
) rethrows -> R {
    let simulation = Simulation(seed: seed, link: link)
    defer { simulation.end() }
    return try body(simulation)
}

/// A network behind a NAT.
public struct Home: Sendable {
    public let network: Network
    public let router: Router
    public let inside: CIDR

    /// Adds a machine with the address of that number in the network.
    @discardableResult
    public func machine(_ name: String, _ number: UInt32, in simulation: Simulation) -> Machine {
        let machine = simulation.machine(name)
        machine.attach(to: self.network, self.inside.host(number))
        return machine
    }
}

/// What a task has come to.
private final class Outcome<R: Sendable>: Sendable {
    private let value = Mutex<Result<R, any Error>?>(nil)

    var result: Result<R, any Error>? { self.value.withLock { $0 } }
    var isSet: Bool { self.value.withLock { $0 != nil } }
    func set(_ result: Result<R, any Error>) { self.value.withLock { $0 = result } }
}

extension CIDR {
    /// The address with that number in the block.
    public func host(_ number: UInt32) -> IPAddress {
        switch self.address {
        case .v4(let v4): .v4(IPv4Address(rawValue: v4.rawValue &+ number))
        case .v6(let v6): .v6(IPv6Address(high: v6.high, low: v6.low &+ UInt64(number)))
        }
    }
}
