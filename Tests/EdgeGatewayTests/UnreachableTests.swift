import EndpointBalancing
import GatewayRouting
import KubeModel
import LoadBalancing
import MeshCore
import ServiceCatalog
import Testing

@testable import EdgeGateway

/// Endpoints that cannot be reached leave the balancers, as long as there are others.
@Suite struct UnreachableTests {
    private static func service(nodes: [String]) -> Service {
        var object = ServiceObject(name: serviceName("web"))
        object.ports = [ServiceObject.Port(port: 80)]
        let endpoints = nodes.enumerated().map { index, node in
            Endpoint(address: .v4(IPv4Address(10, 0, 0, UInt8(index + 1))), nodeName: node)
        }
        return Service(
            object: object,
            groups: [EndpointGroup(ports: [EndpointPort(port: 8080)], endpoints: endpoints)],
            policy: nil,
            portPolicies: [:],
            isProxied: true
        )
    }

    @Test func theyAreLeftOutAndComeBack() throws {
        let directory = BackendDirectory(defaultPolicy: .roundRobin, seed: 1)
        func tell(_ nodes: [String]) {
            let snapshot = CatalogSnapshot(services: [Self.service(nodes: nodes)])
            directory.update(CatalogUpdate(snapshot: snapshot, changedServices: [serviceName("web")]))
        }
        tell(["a", "b", "c"])
        let balancer = try #require(directory.balancer(for: Backend(service: serviceName("web"), port: 80)))
        #expect(balancer.endpointCount == 3)
        directory.avoid { $0.nodeName == "b" }
        #expect(balancer.endpointCount == 2)
        // Endpoints that come later are looked at, too.
        tell(["a", "b", "b"])
        #expect(balancer.endpointCount == 1)
        directory.avoid { _ in true }
        #expect(balancer.endpointCount == 3, "what is known of nodes may be old")
        directory.avoid { _ in false }
        #expect(balancer.endpointCount == 3)
    }
}
