public import MeshCore

/// Passes packets between networks. With an uplink, it may be a NAT, a firewall, or both, between that and all other networks.
/// Confined to the simulation's loop.
/// Unchecked, as the compiler cannot see it: the simulation's one thread alone touches what can change, see `Simulation`.
public final class Router: Node, @unchecked Sendable {  // Safe because the simulation's loop alone touches it.
    public let name: String
    /// What was translated and let in so far is theirs, too; `reset` makes them forget it.
    public var nat: NATTable?
    public var firewall: FirewallTable?
    public private(set) var uplink: Interface?
    private var attachments = Attachments()
    private unowned let simulation: Simulation

    init(name: String, simulation: Simulation) {
        self.name = name
        self.simulation = simulation
    }

    public var interfaces: [Interface] { self.attachments.interfaces }

    /// Connects to the network that leads to the rest of the world.
    @discardableResult
    public func attachUplink(to network: Network, _ addresses: IPAddress..., link: Link? = nil) -> Interface {
        let interface = self.attach(network, addresses, link)
        self.attachments.setDefault(interface)
        self.uplink = interface
        return interface
    }

    /// Connects to a network whose gateway this router becomes.
    @discardableResult
    public func attach(to network: Network, _ addresses: IPAddress..., link: Link? = nil) -> Interface {
        for address in addresses { network.gateways[address.family] = address }
        return self.attach(network, addresses, link)
    }

    private func attach(_ network: Network, _ addresses: [IPAddress], _ link: Link?) -> Interface {
        let interface = Interface(node: self, network: network, link: link ?? network.link)
        for address in addresses { interface.add(address) }
        self.attachments.attach(interface)
        return interface
    }

    /// Passes packets for addresses of `prefix` to another router.
    public func addRoute(_ prefix: CIDR, via gateway: IPAddress, on interface: Interface) {
        self.attachments.add(prefix, via: gateway, on: interface)
    }

    public func receive(_ packet: Packet, from interface: Interface) {
        guard packet.hopLimit > 1 else { return self.simulation.record(packet, .dropped(.hopLimit)) }
        var packet = packet
        packet.hopLimit -= 1
        switch self.judge(packet, from: interface) {
        case .forward(let packet):
            guard !self.attachments.has(packet.destination.address) else {
                // Nobody listens here.
                if let refusal = packet.refusal { self.send(refusal) }
                return
            }
            self.send(packet)
        case .reply(let answer): self.send(answer)
        case .drop(let reason): self.simulation.record(packet, .dropped(reason))
        }
    }

    private func judge(_ packet: Packet, from interface: Interface) -> Verdict {
        let now = self.simulation.loop.now
        let target = packet.destination.address
        if interface === self.uplink {
            if self.nat?.owns(target) == true { return self.nat?.inbound(packet, at: now) ?? .forward(packet) }
            return self.firewall?.inbound(packet, at: now) ?? .forward(packet)
        }
        if self.nat?.owns(target) == true { return self.nat?.hairpin(packet, at: now) ?? .forward(packet) }
        guard let uplink = self.uplink, self.attachments.route(to: target)?.interface === uplink else {
            return .forward(packet)
        }
        if case .drop(let reason)? = self.firewall?.outbound(packet, at: now) { return .drop(reason) }
        return self.nat?.outbound(packet, at: now) ?? .forward(packet)
    }

    private func send(_ packet: Packet) {
        guard !self.attachments.send(packet) else { return }
        self.simulation.record(packet, .dropped(.noRoute))
        guard let address = self.interfaces.first?.addresses.first,
            let answer = packet.unreachable(.network, from: address)
        else { return }
        _ = self.attachments.send(answer)
    }
}
