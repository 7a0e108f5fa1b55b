public import LibP2P
public import Logging
import MeshCore
import Multiformats
import NIOCore
public import PeerIdentity

extension Machine {
    /// A libp2p host on this machine, whose time, addresses, names and random numbers are the simulation's. It is not started.
    ///
    /// Its identity comes from the simulation's seed unless one is given. It speaks Noise, whose messages always have the same length, which those of TLS
    /// (with their ECDSA signatures) have not, so that equal seeds make equal traces.
    public func host(
        listen port: UInt16 = 4001,
        identity: KeyPair? = nil,
        logger: Logger = Logger(label: "host", factory: { _ in SwiftLogNoOpLogHandler() }),
        _ configure: (inout HostConfiguration) -> Void = { _ in }
    ) throws -> Host {
        let families = Set(self.addresses.map(\.family))
        var addresses: [Multiaddr] = []
        if families.contains(.v4) { addresses.append(Multiaddr([.ip4(.any), .tcp(port)])) }
        if families.contains(.v6) { addresses.append(Multiaddr([.ip6(.any), .tcp(port)])) }
        var configuration = HostConfiguration(listenAddresses: addresses)
        configuration.security = [.noise]
        configuration.interfaces = SimulatedInterfaces(machine: self)
        configuration.resolver = SimulatedResolver(simulation: self.simulation)
        configuration.unixTime = { self.unixTime }
        configuration.randomNumber = { self.simulation.randomNumber() }
        configure(&configuration)
        var seed: [UInt8] = []
        while seed.count < 32 {
            withUnsafeBytes(of: self.simulation.randomNumber()) { seed.append(contentsOf: $0) }
        }
        let host = try Host(
            identity: try identity ?? KeyPair(ed25519Seed: seed),
            configuration: configuration,
            group: self.simulation.loop,
            logger: logger
        )
        host.add(transport: SimulatedTransport(self))
        return host
    }
}

/// The interfaces of a machine.
struct SimulatedInterfaces: InterfaceLister {
    let machine: Machine

    func addresses() -> [InterfaceAddress] {
        self.machine.interfaces.enumerated().flatMap { index, interface in
            interface.isUp ? interface.addresses.map { InterfaceAddress(interface: "eth\(index)", address: $0) } : []
        }
    }
}

/// The names of a simulation; each answer takes a few milliseconds.
struct SimulatedResolver: NameResolver {
    let simulation: Simulation

    func addresses(of name: String, family: IPFamily?, on loop: any EventLoop) -> EventLoopFuture<[IPAddress]> {
        let found = (self.simulation.names[name] ?? []).filter { family == nil || $0.family == family }
        return loop.scheduleTask(in: .milliseconds(5)) {
            guard !found.isEmpty else {
                throw LibP2PError(code: .resolutionFailed, message: "nothing in the simulation is called \(name)")
            }
            return found
        }.futureResult
    }

    func texts(of name: String, on loop: any EventLoop) -> EventLoopFuture<[String]> {
        loop.makeSucceededFuture([])
    }
}
