import HashTreeCollections
public import KubeModel
import MeshCore

extension CatalogSnapshot {
    /// A snapshot of services alone, with the indexes that follow from them: for tests and tools that have no catalog.
    public init(version: UInt64 = 1, services: [Service], namespaces: [String] = [], nodes: [NodeObject] = []) {
        self.init()
        self.version = version
        for service in services {
            self.services[service.name] = service
            self.namespaces.insert(service.name.namespace)
            for address in service.object.clusterIPs { self.servicesByClusterIP[address] = service.name }
            guard service.object.isHeadless else { continue }
            for address in Set(service.groups.flatMap(\.endpoints).map(\.address)) {
                self.headlessServicesByEndpoint[address, default: []].append(service.name)
            }
        }
        for namespace in namespaces { self.namespaces.insert(namespace) }
        for node in nodes { self.nodes[node.name] = node }
    }
}
