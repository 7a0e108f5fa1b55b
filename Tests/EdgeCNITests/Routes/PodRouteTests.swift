import KubeModel
import MeshCore
import ServiceCatalog
import Testing

@testable import EdgeCNI

@Suite
struct PodRouteTests {
    private static let networks = PodNetworks(
        mesh: ["10.244.0.0/16", "10.9.0.0/16", "fd00:244::/32"].compactMap { CIDR($0) }
    )

    private func node(_ name: String, _ blocks: String...) -> NodeObject {
        var node = NodeObject(name: name)
        node.podCIDRs = blocks.compactMap { CIDR($0) }
        return node
    }

    private func service(_ name: String, _ endpoints: [(String, String?)]) -> Service {
        Service(
            object: ServiceObject(name: ObjectName(namespace: "shop", name: name)),
            groups: [
                EndpointGroup(
                    ports: [EndpointPort(port: 80)],
                    endpoints: endpoints.compactMap { text, node in
                        IPAddress(text).map { Endpoint(address: $0, nodeName: node) }
                    }
                )
            ],
            policy: nil,
            portPolicies: [:],
            isProxied: true
        )
    }

    private func place(_ routes: PodRoutes, _ text: String) throws -> PodRoutes.Place {
        routes.place(of: try #require(IPAddress(text)))
    }

    private var nodes: [NodeObject] {
        [
            self.node("here", "10.244.1.0/24", "fd00:244:1::/64"),
            self.node("cloud", "10.244.2.0/24", "fd00:244:2::/64"),
            self.node("edge", "10.244.3.0/24"), self.node("spider"),
        ]
    }

    @Test
    func blocksOfNodesTellWhereAPodIs() throws {
        var builder = PodRouteBuilder(localNode: "here", networks: Self.networks)
        let routesMade = builder.apply(CatalogSnapshot(services: [], nodes: self.nodes), changed: [])
        let routes = try #require(routesMade)
        for (address, place) in [
            ("10.244.1.9", .local), ("10.244.2.9", .node("cloud")), ("10.244.3.255", .node("edge")),
            ("10.244.4.1", .unknown), ("10.9.1.1", .unknown), ("192.168.1.1", .outside), ("8.8.8.8", .outside),
            ("fd00:244:1::5", .local), ("fd00:244:2::5", .node("cloud")), ("fd00:244:3::5", .unknown),
            ("fd01::1", .outside),
        ] as [(String, PodRoutes.Place)] {
            #expect(try self.place(routes, address) == place, "\(address)")
        }
    }

    @Test
    func aNodeSendsForItsOwnPodsAlone() throws {
        var builder = PodRouteBuilder(localNode: "here", networks: Self.networks)
        let routesMade = builder.apply(CatalogSnapshot(services: [], nodes: self.nodes), changed: [])
        let routes = try #require(routesMade)
        for (address, node, isPermitted) in [
            ("10.244.2.9", "cloud", true), ("fd00:244:2::9", "cloud", true), ("10.244.2.9", "edge", false),
            ("10.244.1.9", "cloud", false), ("10.244.1.9", "here", false), ("10.244.9.9", "cloud", false),
            ("192.168.1.1", "cloud", false), ("127.0.0.1", "cloud", false), ("10.244.2.9", "nobody", false),
        ] {
            let source = try #require(IPAddress(address))
            #expect(routes.permits(source: source, from: node) == isPermitted, "\(address) from \(node)")
        }
    }

    @Test
    func theLongestPrefixCounts() throws {
        let nodes = [
            self.node("wide", "10.244.0.0/16"), self.node("narrow", "10.244.7.0/24"), self.node("one", "10.244.7.7/32"),
            self.node("again", "10.244.7.0/24"), self.node("stray", "0.0.0.0/0"),
        ]
        var builder = PodRouteBuilder(
            localNode: "here",
            networks: PodNetworks(
                mesh: Self.networks.mesh,
                local: ["10.0.0.0/8", "10.244.8.0/24"].compactMap { CIDR($0) }
            )
        )
        let routesMade = builder.apply(CatalogSnapshot(services: [], nodes: nodes), changed: [])
        let routes = try #require(routesMade)
        #expect(try self.place(routes, "10.244.1.1") == .node("wide"))
        #expect(try self.place(routes, "10.244.7.1") == .node("again"))
        #expect(try self.place(routes, "10.244.7.7") == .node("one"))
        // A network of a device of ours, which is wider than what a node has, or narrower.
        #expect(try self.place(routes, "10.244.8.1") == .local)
        #expect(try self.place(routes, "10.1.1.1") == .local)
        // A node that claims everything gets nothing outside of the mesh.
        #expect(try self.place(routes, "8.8.8.8") == .outside)
        #expect(routes.conflicts == 1)
    }

    @Test
    func endpointsTellWhatNoBlockTells() throws {
        let shop = self.service(
            "shop",
            [
                ("10.9.0.1", "spider"), ("10.9.0.2", "here"), ("10.244.2.5", "edge"), ("8.8.8.8", "spider"),
                ("10.9.0.3", nil),
            ]
        )
        var builder = PodRouteBuilder(localNode: "here", networks: Self.networks)
        var snapshot = CatalogSnapshot(services: [shop], nodes: self.nodes)
        let routesMade = builder.apply(snapshot, changed: [shop.name])
        let routes = try #require(routesMade)
        #expect(try self.place(routes, "10.9.0.1") == .node("spider"))
        #expect(try self.place(routes, "10.9.0.2") == .local)
        #expect(try self.place(routes, "10.9.0.3") == .unknown)
        #expect(try self.place(routes, "8.8.8.8") == .outside)
        // Nobody takes an address of another node's block by writing an endpoint.
        #expect(try self.place(routes, "10.244.2.5") == .node("cloud"))

        // A second service that says otherwise does not get it, whichever came first.
        let thief = self.service("thief", [("10.9.0.1", "edge")])
        snapshot = CatalogSnapshot(services: [shop, thief], nodes: self.nodes)
        let contestedMade = builder.apply(snapshot, changed: [thief.name])
        let contested = try #require(contestedMade)
        #expect(try self.place(contested, "10.9.0.1") == .node("spider"))
        #expect(contested.conflicts == 1)

        snapshot = CatalogSnapshot(services: [thief], nodes: self.nodes)
        let laterMade = builder.apply(snapshot, changed: [shop.name])
        let later = try #require(laterMade)
        #expect(try self.place(later, "10.9.0.1") == .node("edge"))
        #expect(try self.place(later, "10.9.0.2") == .unknown)
        #expect(later.conflicts == 0)
    }

    @Test
    func onlyChangesMakeNewRoutes() throws {
        let shop = self.service("shop", [("10.9.0.1", "spider")])
        var builder = PodRouteBuilder(localNode: "here", networks: Self.networks)
        var snapshot = CatalogSnapshot(services: [shop], nodes: self.nodes)
        let made1 = builder.apply(snapshot, changed: [shop.name])
        #expect(made1 != nil)
        let made2 = builder.apply(snapshot, changed: [shop.name])
        #expect(made2 == nil)
        // Endpoints within blocks of nodes change nothing.
        let inside = self.service("inside", [("10.244.2.5", "cloud")])
        snapshot = CatalogSnapshot(services: [shop, inside], nodes: self.nodes)
        let made3 = builder.apply(snapshot, changed: [inside.name])
        #expect(made3 == nil)

        builder.setLocalNetworks([])
        let made4 = builder.apply(snapshot, changed: [])
        #expect(made4 == nil)
        builder.setLocalNetworks(["10.9.0.0/24"].compactMap { CIDR($0) })
        let movedMade = builder.apply(snapshot, changed: [])
        let moved = try #require(movedMade)
        #expect(try self.place(moved, "10.9.0.1") == .local)
        #expect(
            builder.apply(CatalogSnapshot(services: [shop, inside], nodes: [self.node("here")]), changed: []) != nil
        )
    }

    @Test
    func endpointsAreBounded() throws {
        let addresses = (1...9).map { ("10.9.0.\($0)", "spider" as String?) }
        var builder = PodRouteBuilder(localNode: "here", networks: Self.networks, maximumEndpoints: 4)
        let shop = self.service("shop", addresses)
        let routesMade = builder.apply(CatalogSnapshot(services: [shop], nodes: self.nodes), changed: [])
        let routes = try #require(routesMade)
        #expect(routes.overflow == 5)
        #expect(try addresses.filter { try self.place(routes, $0.0) == .node("spider") }.count == 4)
    }

    @Test
    func ownBlocksAreNotCaptured() {
        let networks = PodNetworks(
            mesh: ["10.244.0.0/16", "10.244.1.0/24", "10.9.0.0/16", "10.9.0.0/16", "fd00::/16"].compactMap { CIDR($0) },
            local: ["10.9.0.0/16"].compactMap { CIDR($0) }
        )
        #expect(
            networks.captured(besides: ["10.244.1.0/24", "fd00:244:1::/64"].compactMap { CIDR($0) }).map(\.description)
                == ["10.244.0.0/16", "fd00::/16"]
        )
    }
}
