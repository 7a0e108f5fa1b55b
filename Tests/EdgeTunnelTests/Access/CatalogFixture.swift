import KubeModel
import MeshCore
import ServiceCatalog

enum CatalogFixture {
    /// A cluster that is known, and has nothing in it.
    static var empty: CatalogUpdate {
        CatalogUpdate(snapshot: CatalogSnapshot(version: 1, services: []), changedServices: [])
    }

    /// One service for each endpoint, over TCP and UDP.
    static func snapshot(node: String, _ endpoints: [TransportAddress]) -> CatalogSnapshot {
        let services = endpoints.enumerated().map { index, address in
            let ports = [TransportProtocol.tcp, .udp].map { EndpointPort(transport: $0, port: address.port) }
            return Service(
                object: ServiceObject(name: ObjectName(namespace: "test", name: "service-\(index)")),
                groups: [
                    EndpointGroup(ports: ports, endpoints: [Endpoint(address: address.address, nodeName: node)])
                ],
                policy: nil,
                portPolicies: [:],
                isProxied: true
            )
        }
        return CatalogSnapshot(version: 1, services: services, nodes: [NodeObject(name: node)])
    }
}
