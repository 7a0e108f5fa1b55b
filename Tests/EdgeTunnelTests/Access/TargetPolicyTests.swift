import KubeModel
import MeshCore
import MeshInterfaces
import ServiceCatalog
import Testing

@testable import EdgeTunnel

@Suite
struct TargetPolicyTests {
    private static let node = "edge-1"

    private static func address(_ text: String) throws -> TransportAddress { try #require(TransportAddress(text)) }

    private static func service(_ name: String, _ endpoints: [Endpoint], port: UInt16 = 8080) -> Service {
        let groups = [EndpointGroup(ports: [EndpointPort(port: port)], endpoints: endpoints)]
        return Service(
            object: ServiceObject(name: ObjectName(namespace: "shop", name: name)),
            groups: groups,
            policy: nil,
            portPolicies: [:],
            isProxied: true
        )
    }

    private static func endpoint(_ text: String, _ node: String?) throws -> Endpoint {
        Endpoint(address: try #require(IPAddress(text)), nodeName: node)
    }

    private static func snapshot(_ services: [Service], version: UInt64 = 1) throws -> CatalogSnapshot {
        var own = NodeObject(name: Self.node)
        own.internalIPs = [try #require(IPAddress("192.168.1.10"))]
        own.podCIDRs = [try #require(CIDR("10.244.1.0/24"))]
        return CatalogSnapshot(version: version, services: services, nodes: [own, NodeObject(name: "edge-2")])
    }

    private static func access(
        _ settings: TargetAccessSettings = TargetAccessSettings(),
        _ services: [Service]? = nil
    ) throws -> TargetAccess {
        let access = TargetAccess(nodeName: Self.node, settings: settings)
        let services =
            try services ?? [
                Self.service("mine", [Self.endpoint("10.9.9.9", Self.node)]),
                Self.service("theirs", [Self.endpoint("10.244.2.2", "edge-2")]),
                Self.service("pods", [Self.endpoint("10.244.1.7", nil)]),
                Self.service("odd", [Self.endpoint("127.0.0.1", Self.node), Self.endpoint("0.0.0.0", Self.node)]),
            ]
        access.apply(CatalogUpdate(snapshot: try Self.snapshot(services), changedServices: []))
        return access
    }

    @Test(arguments: [
        ("10.9.9.9:8080", TransportProtocol.tcp, TargetRefusal?.none),
        ("10.9.9.9:8081", .tcp, .notAnEndpoint),
        ("10.9.9.9:8080", .udp, .notAnEndpoint),
        ("10.244.2.2:8080", .tcp, .notAnEndpoint),
        // In the node's pod CIDR, and an endpoint; only the former is not enough.
        ("10.244.1.7:8080", .tcp, nil),
        ("10.244.1.8:8080", .tcp, .notAnEndpoint),
        ("127.0.0.1:8080", .tcp, .loopback),
        ("127.0.0.1:10550", .tcp, .loopback),
        ("0.0.0.0:8080", .tcp, .loopback),
        ("[::1]:8080", .tcp, .loopback),
        ("[::ffff:127.0.0.1]:10550", .tcp, .loopback),
        ("[::ffff:10.9.9.9]:8080", .tcp, nil),
        // The node itself is for SOCKS5 clients.
        ("192.168.1.10:22", .tcp, .notAnEndpoint),
    ])
    func endpointsOfThisNodeAreDialled(
        _ target: String,
        _ transport: TransportProtocol,
        _ expected: TargetRefusal?
    ) throws {
        let policy = try Self.access().policy
        let target = TargetPolicy.normalized(try Self.address(target))
        #expect(policy.refusal(of: target, transport, purpose: .service) == expected)
    }

    @Test
    func socksReachesTheNodeAlone() throws {
        let access = try Self.access()
        access.apply(interfaces: try ["172.16.0.5", "127.0.0.1", "169.254.96.16"].map { try #require(IPAddress($0)) })
        let policy = access.policy
        func refusal(
            _ text: String,
            _ purpose: TunnelTarget.Purpose?,
            _ transport: TransportProtocol = .tcp
        ) throws
            -> TargetRefusal?
        {
            policy.refusal(of: try Self.address(text), transport, purpose: purpose)
        }
        #expect(try refusal("192.168.1.10:22", .socks) == nil)
        #expect(try refusal("172.16.0.5:22", .socks) == nil)
        #expect(try refusal("192.168.1.10:22", .socks, .udp) == .notThisNode)
        #expect(try refusal("169.254.96.16:10800", .socks) == .notThisNode)
        #expect(try refusal("127.0.0.1:22", .socks) == .loopback)
        #expect(try refusal("10.9.9.9:8080", .socks) == .notThisNode)
        // The original does not tell what a flow is for.
        #expect(try refusal("192.168.1.10:22", nil) == nil)
        #expect(try refusal("192.168.1.11:22", nil) == .notAnEndpoint)
        var strict = TargetAccessSettings()
        strict.treatsOriginalsAsSOCKS = false
        let other = try Self.access(strict).policy
        #expect(other.refusal(of: try Self.address("192.168.1.10:22"), .tcp, purpose: nil) == .notAnEndpoint)
    }

    @Test
    func settingsWidenWhatIsDialled() throws {
        var settings = TargetAccessSettings()
        settings.routableCIDRs = [try #require(CIDR("10.244.2.0/24"))]
        settings.allowed = try ["192.168.9.0/24:502", "172.16.0.1:1000-2000", "127.0.0.1:9100"].map {
            try #require(TargetAccessSettings.Entry($0))
        }
        let access = try Self.access(settings)
        func refusal(_ text: String) throws -> TargetRefusal? {
            access.policy.refusal(of: try Self.address(text), .tcp, purpose: .service)
        }
        #expect(try refusal("10.244.2.2:8080") == nil)
        #expect(try refusal("10.244.2.3:8080") == .notAnEndpoint)
        #expect(try refusal("192.168.9.77:502") == nil)
        #expect(try refusal("192.168.9.77:503") == .notAnEndpoint)
        #expect(try refusal("172.16.0.1:2000") == nil)
        #expect(try refusal("172.16.0.1:2001") == .notAnEndpoint)
        #expect(try refusal("127.0.0.1:9100") == .loopback)
        settings.allowsLoopback = true
        access.apply(settings)
        #expect(try refusal("127.0.0.1:9100") == nil)
        #expect(try refusal("127.0.0.1:9101") == .notAnEndpoint)
        settings = TargetAccessSettings()
        settings.mode = .any
        access.apply(settings)
        #expect(try refusal("127.0.0.1:10550") == nil)
    }

    @Test(arguments: [
        ("10.0.0.0/8", "10.0.0.0/8:1-65535"), ("10.0.0.1", "10.0.0.1/32:1-65535"),
        ("10.0.0.1:80", "10.0.0.1/32:80-80"), ("10.0.0.0/8:80-90", "10.0.0.0/8:80-90"),
        ("fd00::/8:80", "fd00::/8:80-80"), ("[fd00::1]:80", "fd00::1/128:80-80"), ("fd00::1", "fd00::1/128:1-65535"),
    ])
    func entriesAreRead(_ text: String, _ expected: String) throws {
        #expect(try #require(TargetAccessSettings.Entry(text)).description == expected)
    }

    @Test(arguments: [
        "", ":80", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:90-80", "10.0.0.1:65536", "10.0.0.1:1-2-3", "a:80",
    ])
    func wrongEntriesAreNotRead(_ text: String) {
        #expect(TargetAccessSettings.Entry(text) == nil)
    }

    @Test
    func namesOfNodesAreCompared() throws {
        let policy = try Self.access().policy
        #expect(!policy.isWrong(node: Self.node, isLenient: false))
        #expect(policy.isWrong(node: "edge-2", isLenient: false))
        #expect(policy.isWrong(node: "unheard-of", isLenient: false))
        #expect(policy.isWrong(node: "edge-2", isLenient: true))
        #expect(!policy.isWrong(node: "unheard-of", isLenient: true))
    }

    @Test
    func theIndexFollowsTheCatalog() throws {
        let access = TargetAccess(nodeName: Self.node)
        let target = try Self.address("10.9.9.9:8080")
        #expect(access.policy.refusal(of: target, .tcp, purpose: .service) == .noCatalog)
        let mine = try Self.service("mine", [Self.endpoint("10.9.9.9", Self.node)])
        let twin = try Self.service("twin", [Self.endpoint("10.9.9.9", Self.node)])
        access.apply(CatalogUpdate(snapshot: try Self.snapshot([mine, twin]), changedServices: []))
        #expect(access.policy.refusal(of: target, .tcp, purpose: .service) == nil)
        // One of two services that share the endpoint goes; then it moves to another node.
        access.apply(CatalogUpdate(snapshot: try Self.snapshot([twin], version: 2), changedServices: [mine.name]))
        #expect(access.policy.refusal(of: target, .tcp, purpose: .service) == nil)
        let moved = try Self.service("twin", [Self.endpoint("10.9.9.9", "edge-2")])
        access.apply(CatalogUpdate(snapshot: try Self.snapshot([moved], version: 3), changedServices: [moved.name]))
        #expect(access.policy.refusal(of: target, .tcp, purpose: .service) == .notAnEndpoint)
        // The node gets the block that it lies in.
        var snapshot = try Self.snapshot([moved], version: 4)
        var own = NodeObject(name: Self.node)
        own.podCIDRs = [try #require(CIDR("10.9.9.0/24"))]
        snapshot = CatalogSnapshot(version: 4, services: [moved], nodes: [own])
        access.apply(CatalogUpdate(snapshot: snapshot, changedServices: []))
        #expect(access.policy.refusal(of: target, .tcp, purpose: .service) == nil)
    }

    @Test
    func tenThousandServicesAreIndexed() throws {
        let services = try (0..<10_000).map { number in
            let endpoints = try (0..<10).map { index in
                try Self.endpoint("10.\(number >> 8).\(number & 255).\(index)", "node-\((number + index) % 100)")
            }
            return Self.service("s\(number)", endpoints)
        }
        let access = TargetAccess(nodeName: "node-7")
        let snapshot = CatalogSnapshot(version: 1, services: services, nodes: [NodeObject(name: "node-7")])
        let began = ContinuousClock.now
        access.apply(CatalogUpdate(snapshot: snapshot, changedServices: []))
        let first = ContinuousClock.now - began
        let changed = ContinuousClock.now
        access.apply(CatalogUpdate(snapshot: snapshot, changedServices: [services[7].name]))
        print("index of 10,000 services: \(first); of one change: \(ContinuousClock.now - changed)")
        let policy = access.policy
        #expect(policy.endpoints.count == 1000)
        #expect(policy.refusal(of: try Self.address("10.0.7.0:8080"), .tcp, purpose: .service) == nil)
        #expect(policy.refusal(of: try Self.address("10.0.7.1:8080"), .tcp, purpose: .service) == .notAnEndpoint)
    }

    @Test
    func theLastRefusalsAreKept() throws {
        let access = try Self.access()
        for port in UInt16(1)...100 {
            access.note(
                TargetAccess.Refused(
                    peer: "edge-2",
                    target: TransportAddress(.v4(.loopback), port),
                    transport: .tcp,
                    reason: .loopback,
                    time: UInt64(port)
                )
            )
        }
        #expect(access.refusals == [.loopback: 100])
        #expect(access.lastRefused.map(\.time) == Array(69...100))
    }
}
