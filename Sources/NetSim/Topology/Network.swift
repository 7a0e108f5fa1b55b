public import MeshCore
public import NIOCore

/// A machine or a router: what has interfaces. Confined to the simulation's loop.
public protocol Node: AnyObject, Sendable {
    var name: String { get }
    func receive(_ packet: Packet, from interface: Interface)
}

/// The end of a link at a node, with its addresses. Confined to the simulation's loop.
/// Unchecked, as the compiler cannot see it: the simulation's one thread alone touches what can change, see `Simulation`.
public final class Interface: @unchecked Sendable {  // Safe because the simulation's loop alone touches it.
    public unowned let node: any Node
    public let network: Network
    public fileprivate(set) var addresses: [IPAddress] = []
    public var link: Link
    /// A cable that is not plugged in, or a machine that sleeps, if false.
    public var isUp = true

    fileprivate var outgoing = LinkQueue()
    fileprivate var incoming = LinkQueue()

    init(node: any Node, network: Network, link: Link) {
        self.node = node
        self.network = network
        self.link = link
    }

    /// Takes the address from whatever interface of the network has it.
    public func add(_ address: IPAddress) {
        if let other = self.network.interfaces[address] { other.remove(address) }
        self.network.interfaces[address] = self
        self.addresses.append(address)
    }

    public func remove(_ address: IPAddress) {
        guard self.addresses.contains(address) else { return }
        self.addresses.removeAll { $0 == address }
        self.network.interfaces[address] = nil
    }
}

/// A network in which all interfaces reach each other: a LAN, a provider's network, or the internet's core.
///
/// Each interface hangs on a link of its own; a packet takes the sender's, then the receiver's.
/// Unchecked, as the compiler cannot see it: the simulation's one thread alone touches what can change, see `Simulation`.
public final class Network: @unchecked Sendable {  // Safe because the simulation's loop alone touches it.
    public let name: String
    /// The addresses that are sent to directly; others go to the gateway.
    public let prefixes: [CIDR]
    /// The routers by which nodes here leave the network.
    public var gateways: [IPFamily: IPAddress] = [:]
    /// The link of interfaces that are attached without one.
    public var link: Link
    /// After how long a sender learns that nobody has an address (RFC 4861 section 7.2.2); nil for never.
    public var neighborTimeout: TimeAmount?

    fileprivate(set) var interfaces: [IPAddress: Interface] = [:]
    private var routes = RoutingTable<Interface>()
    private var cuts: [Cut] = []
    private unowned let simulation: Simulation

    private struct Cut {
        let one: Set<ObjectIdentifier>
        let other: Set<ObjectIdentifier>

        func separates(_ a: any Node, _ b: any Node) -> Bool {
            let (a, b) = (ObjectIdentifier(a), ObjectIdentifier(b))
            return (self.one.contains(a) && self.other.contains(b)) || (self.one.contains(b) && self.other.contains(a))
        }
    }

    init(name: String, prefixes: [CIDR], link: Link, neighborTimeout: TimeAmount?, simulation: Simulation) {
        self.name = name
        self.prefixes = prefixes
        self.link = link
        self.neighborTimeout = neighborTimeout
        self.simulation = simulation
    }

    /// Makes the network pass packets for addresses of `prefix` to a router.
    public func addRoute(_ prefix: CIDR, via interface: Interface) {
        self.routes.add(prefix, interface)
    }

    /// No packet passes between the two groups of nodes until `heal`.
    public func cut(_ one: [any Node], from other: [any Node]) {
        self.cuts.append(Cut(one: Set(one.map(ObjectIdentifier.init)), other: Set(other.map(ObjectIdentifier.init))))
    }

    public func heal() {
        self.cuts = []
    }

    func isOnLink(_ address: IPAddress) -> Bool {
        self.prefixes.contains { $0.address.family == address.family && $0.contains(address) }
    }

    /// Passes a packet to whoever has the address `hop`.
    func send(_ packet: Packet, to hop: IPAddress, from sender: Interface) {
        guard let receiver = self.interfaces[hop] ?? self.routes.next(to: hop) else {
            self.simulation.record(packet, .dropped(.noRoute))
            self.tellUnreachable(packet, sender)
            return
        }
        guard sender.isUp, receiver.isUp, !self.cuts.contains(where: { $0.separates(sender.node, receiver.node) })
        else {
            self.simulation.record(packet, .dropped(.down))
            return
        }
        do {
            let arrival = try self.arrival(of: packet, from: sender, to: receiver)
            self.simulation.loop.schedule(at: arrival) {
                guard receiver.isUp else { return self.simulation.record(packet, .dropped(.down)) }
                self.simulation.record(packet, .delivered)
                receiver.node.receive(packet, from: receiver)
            }
        } catch {
            self.simulation.record(packet, .dropped(error.reason))
        }
    }

    private func arrival(
        of packet: Packet,
        from sender: Interface,
        to receiver: Interface
    ) throws(LinkDrop) -> NIODeadline {
        let size = packet.size
        // A segment of TCP is made of packets that both ends of the connection can carry.
        var longest = size
        if case .tcp(let segment) = packet.payload { longest = min(size, segment.pathMTU) }
        let sent = try sender.outgoing.send(
            size,
            longest: longest,
            over: sender.link,
            at: self.simulation.loop.now,
            using: &self.simulation.generator
        ).get()
        return try receiver.incoming.send(
            size,
            longest: longest,
            over: receiver.link,
            at: sent,
            using: &self.simulation.generator
        ).get()
    }

    private func tellUnreachable(_ packet: Packet, _ sender: Interface) {
        guard let timeout = self.neighborTimeout, let address = sender.addresses.first,
            let answer = packet.unreachable(.host, from: address)
        else { return }
        // The sender itself asks for its neighbours, and finds out.
        self.simulation.loop.schedule(at: self.simulation.loop.now + timeout) {
            sender.node.receive(answer, from: sender)
        }
    }
}
