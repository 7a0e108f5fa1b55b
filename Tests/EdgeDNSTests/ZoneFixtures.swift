import DNSWire
import KubeModel
import MeshCore
import MeshInterfaces
import ServiceCatalog
import Synchronization

@testable import EdgeDNS

/// A small cluster with a service of every kind.
enum ZoneFixtures {
    static func address(_ text: String) -> IPAddress { IPAddress(text) ?? .v4(.any) }

    static func service(
        _ name: String,
        in namespace: String = "default",
        clusterIPs: [String] = [],
        ports: [ServiceObject.Port] = [],
        groups: [EndpointGroup] = [],
        adjust: (inout ServiceObject) -> Void = { _ in }
    ) -> ServiceCatalog.Service {
        var object = ServiceObject(name: ObjectName(namespace: namespace, name: name))
        object.clusterIPs = clusterIPs.map(self.address)
        object.ports = ports
        adjust(&object)
        return ServiceCatalog.Service(object: object, groups: groups, policy: nil, portPolicies: [:], isProxied: true)
    }

    static func headless(
        _ name: String,
        groups: [EndpointGroup],
        adjust: (inout ServiceObject) -> Void = { _ in }
    ) -> ServiceCatalog.Service {
        self.service(name, groups: groups) {
            $0.isHeadless = true
            adjust(&$0)
        }
    }

    static func externalName(_ name: String, _ target: String) -> ServiceCatalog.Service {
        self.service(name) {
            $0.type = .externalName
            $0.externalName = target
        }
    }

    static let web = service(
        "web",
        clusterIPs: ["10.96.0.10"],
        ports: [
            ServiceObject.Port(name: "http", port: 80), ServiceObject.Port(name: "dns", transport: .udp, port: 53),
        ],
        groups: [
            EndpointGroup(
                ports: [EndpointPort(name: "http", port: 8080)],
                endpoints: [Endpoint(address: address("10.244.0.9"))]
            )
        ]
    )

    static let snapshot = CatalogSnapshot(
        version: 7,
        services: [
            web,
            service("dual", clusterIPs: ["10.96.0.11", "fd00::11"], ports: [ServiceObject.Port(port: 80)]),
            service("pending"),
            headless(
                "db",
                groups: [
                    EndpointGroup(
                        ports: [EndpointPort(name: "sql", port: 5432)],
                        endpoints: [
                            Endpoint(address: address("10.244.0.1"), hostname: "db-0"),
                            Endpoint(address: address("10.244.0.2")),
                            Endpoint(address: address("10.244.0.3"), conditions: [], hostname: "db-2"),
                        ]
                    ),
                    EndpointGroup(
                        ports: [EndpointPort(name: "sql", port: 5432)],
                        endpoints: [Endpoint(address: address("fd00::1"), hostname: "db-0")]
                    ),
                ]
            ),
            headless(
                "starting",
                groups: [
                    EndpointGroup(ports: [], endpoints: [Endpoint(address: address("10.244.0.4"), conditions: [])])
                ]
            ),
            headless(
                "eager",
                groups: [
                    EndpointGroup(ports: [], endpoints: [Endpoint(address: address("10.244.0.5"), conditions: [])])
                ]
            ) { $0.publishNotReadyAddresses = true },
            externalName("outside", "Example.ORG"),
            externalName("inside", "web.default.svc.cluster.local"),
            externalName("nowhere", "gone.default.svc.cluster.local"),
            externalName("loop-a", "loop-b.default.svc.cluster.local"),
            externalName("loop-b", "loop-a.default.svc.cluster.local"),
            externalName("self", "self.default.svc.cluster.local"),
        ],
        namespaces: ["empty"]
    )

    static func zone(_ domain: String = "cluster.local") throws -> ClusterZone {
        ClusterZone(
            domain: try DomainName(domain),
            ttl: 30,
            negativeTTL: 5,
            nameServers: [self.address("169.254.96.16")]
        )
    }
}

/// A catalog that tests change by hand.
final class FakeCatalog: CatalogReading {
    private struct State {
        var snapshot: CatalogSnapshot
        var receivers: [Int: @Sendable (CatalogUpdate) -> Void] = [:]
        var nextID = 0
    }

    private let state: Mutex<State>

    init(_ snapshot: CatalogSnapshot) {
        self.state = Mutex(State(snapshot: snapshot))
    }

    var snapshot: CatalogSnapshot { self.state.withLock { $0.snapshot } }

    func subscribe(_ receive: @escaping @Sendable (CatalogUpdate) -> Void) -> CatalogSubscription {
        let (id, snapshot) = self.state.withLock { state in
            state.nextID += 1
            state.receivers[state.nextID] = receive
            return (state.nextID, state.snapshot)
        }
        receive(CatalogUpdate(snapshot: snapshot, changedServices: []))
        return CatalogSubscription { [weak self] in self?.state.withLock { $0.receivers[id] = nil } }
    }

    func publish(_ snapshot: CatalogSnapshot) {
        let receivers = self.state.withLock { state in
            state.snapshot = snapshot
            return Array(state.receivers.values)
        }
        for receive in receivers { receive(CatalogUpdate(snapshot: snapshot, changedServices: [])) }
    }
}
