import ByteStreams
import Glibc
public import MeshCore
public import NIOCore

/// A computer in the simulated internet, with sockets. Confined to the simulation's loop.
/// Unchecked, as the compiler cannot see it: the simulation's one thread alone touches what can change, see `Simulation`.
public final class Machine: Node, @unchecked Sendable {  // Safe because the simulation's loop alone touches it.
    public let name: String
    public unowned let simulation: Simulation
    /// Closed ports answer, by RST and ICMP. If not, packets to them vanish as at many a firewall.
    public var answersClosedPorts = true
    /// What the wall clock here is ahead of the simulation's.
    public var clockError = TimeAmount.zero

    private var attachments = Attachments()
    private(set) lazy var tcp = TCPStack(machine: self)
    private(set) lazy var udp = UDPStack(machine: self)

    init(name: String, simulation: Simulation) {
        self.name = name
        self.simulation = simulation
    }

    public var tcpConfiguration: TCPConfiguration {
        get { self.tcp.configuration }
        set { self.tcp.configuration = newValue }
    }

    /// How many connections there are, with those that only linger.
    public var connections: Int { self.tcp.sockets.count }

    // MARK: Networks

    public var interfaces: [Interface] { self.attachments.interfaces }
    public var addresses: [IPAddress] { self.interfaces.flatMap(\.addresses) }

    /// Connects to a network; its gateways become those for all other addresses.
    @discardableResult
    public func attach(to network: Network, _ addresses: IPAddress..., link: Link? = nil) -> Interface {
        let interface = Interface(node: self, network: network, link: link ?? network.link)
        for address in addresses { interface.add(address) }
        self.attachments.attach(interface)
        self.attachments.setDefault(interface)
        return interface
    }

    /// Leaves a network. Connections that used it are not told.
    public func detach(from interface: Interface) {
        self.attachments.detach(interface)
    }

    /// A machine that is asleep neither sends nor receives. Its timers go on.
    public var isAsleep: Bool {
        get { !self.interfaces.isEmpty && self.interfaces.allSatisfy { !$0.isUp } }
        set { for interface in self.interfaces { interface.isUp = !newValue } }
    }

    /// Ends all sockets without a word to their peers, as a power failure does.
    public func crash() {
        self.tcp.crash()
        self.udp.crash()
    }

    public var unixTime: UInt64 { self.simulation.unixTime(ahead: self.clockError) }

    func has(_ address: IPAddress) -> Bool { address.isLoopback || self.attachments.has(address) }

    /// The address that packets to `destination` come from; nil if there is no way to it.
    func source(for destination: IPAddress) -> IPAddress? {
        if self.has(destination) { return destination }
        guard let route = self.attachments.route(to: destination) else { return nil }
        return route.interface.addresses.first { $0.family == destination.family }
    }

    // MARK: Packets

    func send(_ packet: Packet) {
        if self.has(packet.destination.address) {
            self.simulation.loop.execute {
                self.simulation.record(packet, .delivered)
                self.deliver(packet)
            }
            return
        }
        // From an address that the machine has lost, nothing would come back.
        guard self.has(packet.source.address), self.attachments.send(packet) else {
            self.simulation.record(packet, .dropped(.noRoute))
            return
        }
    }

    public func receive(_ packet: Packet, from interface: Interface) {
        guard self.has(packet.destination.address) else {
            self.simulation.record(packet, .dropped(.noRoute))
            return
        }
        self.deliver(packet)
    }

    private func deliver(_ packet: Packet) {
        switch packet.payload {
        case .tcp(let segment): self.tcp.receive(segment, packet)
        case .udp(let bytes): self.udp.receive(bytes, packet)
        case .unreachable(let about):
            switch about.transport {
            case .tcp: self.tcp.unreachable(about)
            case .udp: self.udp.unreachable(about)
            case .sctp: break
            }
        }
    }
}

extension Machine {
    /// Takes a port for a socket, any free one for port zero. Throws an `IOError` as bind(2) fails.
    func bind(
        _ address: TransportAddress,
        reuse: Bool,
        in ports: inout PortTable
    ) throws -> PortTable.Binding {
        guard address.address.isUnspecified || self.has(address.address) else {
            throw IOError(errnoCode: EADDRNOTAVAIL, reason: "bind")
        }
        guard address.port == 0 else {
            let wanted = PortTable.Binding(address: address.address, port: address.port, reuse: reuse)
            guard ports.bind(wanted) else { throw IOError(errnoCode: EADDRINUSE, reason: "bind") }
            return wanted
        }
        guard
            let free = ports.bindEphemeral(address.address, reuse: reuse, using: &self.simulation.generator)
        else { throw IOError(errnoCode: EADDRINUSE, reason: "bind") }
        return free
    }
}
