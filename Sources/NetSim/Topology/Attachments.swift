import MeshCore

/// The interfaces of a node, and which of them packets leave by.
struct Attachments {
    struct Route {
        let interface: Interface
        /// Nil if the destination itself is on the network.
        let gateway: IPAddress?
    }

    private(set) var interfaces: [Interface] = []
    private var routes = RoutingTable<Route>()

    mutating func attach(_ interface: Interface) {
        self.interfaces.append(interface)
        for prefix in interface.network.prefixes { self.routes.add(prefix, Route(interface: interface, gateway: nil)) }
    }

    /// All that is on no network goes to the gateways of this one.
    mutating func setDefault(_ interface: Interface) {
        for (family, gateway) in interface.network.gateways {
            let any: IPAddress = family == .v4 ? .v4(.any) : .v6(.any)
            guard let prefix = CIDR(any, prefixLength: 0) else { continue }
            self.routes.add(prefix, Route(interface: interface, gateway: gateway))
        }
    }

    mutating func detach(_ interface: Interface) {
        for address in interface.addresses { interface.remove(address) }
        let left = self.interfaces.filter { $0 !== interface }
        self = Attachments()
        for other in left {
            self.attach(other)
            self.setDefault(other)
        }
    }

    mutating func add(_ prefix: CIDR, via gateway: IPAddress, on interface: Interface) {
        self.routes.add(prefix, Route(interface: interface, gateway: gateway))
    }

    func route(to address: IPAddress) -> Route? { self.routes.next(to: address) }

    func has(_ address: IPAddress) -> Bool { self.interfaces.contains { $0.addresses.contains(address) } }

    /// Sends over the interface that the route names; false if there is no route.
    func send(_ packet: Packet) -> Bool {
        guard let route = self.route(to: packet.destination.address) else { return false }
        let hop = route.gateway ?? packet.destination.address
        route.interface.network.send(packet, to: hop, from: route.interface)
        return true
    }
}
