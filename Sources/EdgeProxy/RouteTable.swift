import EndpointBalancing
import HashTreeCollections
import LinuxNetwork
import MeshCore

/// The user-space routes by frontend. Copies share structure, so posting one to each loop costs nothing.
struct RouteTable: Sendable {
    var routes: TreeDictionary<KernelFrontend, RouteBalancer> = [:]

    /// The route of a flow that was going to `destination`: an address of a service, else a node port.
    func route(_ destination: TransportAddress, _ transport: TransportProtocol) -> (KernelFrontend, RouteBalancer)? {
        let exact = KernelFrontend(match: .address(destination.address), transport: transport, port: destination.port)
        if let route = self.routes[exact] { return (exact, route) }
        let node = KernelFrontend(
            match: .nodePort(destination.address.family),
            transport: transport,
            port: destination.port
        )
        return self.routes[node].map { (node, $0) }
    }
}
