import HashTreeCollections
import KubeModel
import LoadBalancing
import MeshCore
import ServiceCatalog
import Testing

@Suite("Destination rules")
struct DestinationRuleTests {
    private let catalog = ClusterCatalog()

    private func policy(_ text: String) -> LoadBalancingPolicy? { self.catalog.snapshot.service(text)?.policy }

    @Test(
        "hosts of the cluster",
        arguments: [
            ("web", true), ("web.d", true), ("web.d.svc", true), ("web.d.svc.cluster.local", true),
            ("WEB.d.svc.Cluster.Local.", true), ("*.d.svc.cluster.local", true), ("*.d.svc", true), ("*.d", true),
            ("*.svc.cluster.local", true), ("*.cluster.local", true), ("*", true), ("web.e", false), ("other", false),
            ("web.d.svc.example.org", false), ("web.d.pod.cluster.local", false), ("*.e.svc.cluster.local", false),
            ("", false), (".", false), ("web..svc", false), ("cluster.local", false),
            ("a.web.d.svc.cluster.local", false),
        ]
    )
    func hosts(host: String, isMeant: Bool) {
        self.catalog.apply([service("d/web").upsert, rule("d/some-rule", host: host).upsert], from: .api)
        #expect((self.policy("d/web") == .random) == isMeant)
        self.catalog.apply([.deleted(.destinationRule, name("d/some-rule"))], from: .api)
        #expect(self.policy("d/web") == nil)
    }

    @Test("the cluster domain can change while rules are in force")
    func clusterDomain() {
        self.catalog.apply([service("d/web").upsert, rule("d/r", host: "web.d.svc.mesh.example").upsert], from: .api)
        #expect(self.policy("d/web") == nil)
        self.catalog.update(settings: CatalogSettings(clusterDomain: "mesh.example"))
        #expect(self.policy("d/web") == .random)
    }

    @Test("ring settings of the node can change while rules are in force")
    func ringSettings() {
        func policy(_ size: Int, _ factor: Double) -> LoadBalancingPolicy {
            .consistentHash(
                ConsistentHashPolicy(key: .sourceAddress, algorithm: .ring(minimumSize: size, loadFactor: factor))
            )
        }
        var object = DestinationRuleObject(name: name("d/web"), host: "web")
        object.loadBalancer = .consistentHash(.init(key: .sourceIP, algorithm: .ring(minimumSize: nil)))
        self.catalog.apply([service("d/web").upsert, .upsert(.destinationRule(object))], from: .api)
        #expect(self.policy("d/web") == policy(1_024, 1.25))
        self.catalog.update(settings: CatalogSettings(ringLoadFactor: 2, ringSize: 500))
        #expect(self.policy("d/web") == policy(500, 2))
    }

    /// Each pair in force at once, in both orders of arrival: the first must win.
    @Test(
        "the rule that means a service most exactly wins",
        arguments: [
            (("d/web", "elsewhere"), ("d/r", "web")), (("d/web", "web"), ("d/aaa", "web")),
            (("d/r", "web"), ("d/a", "*.d.svc.cluster.local")), (("d/z", "web"), ("a/a", "web.d")),
            (("d/a", "web"), ("d/b", "web.d.svc.cluster.local")), (("a/a", "web.d"), ("b/a", "web.d")),
            (("d/z", "*.d"), ("d/a", "*")), (("d/z", "*"), ("a/a", "*")), (("e/z", "*.d"), ("d/a", "*")),
        ]
    )
    func precedence(winner: (String, String), loser: (String, String)) {
        let winning = rule(winner.0, host: winner.1, "RANDOM")
        let losing = rule(loser.0, host: loser.1, "LEAST_CONN")
        let objects = [service("d/web"), winning, losing]
        for order in [[0, 1, 2], [0, 2, 1], [1, 2, 0], [2, 1, 0], [1, 0, 2], [2, 0, 1]] {
            let catalog = ClusterCatalog()
            for index in order { catalog.apply([objects[index].upsert], from: .api) }
            #expect(catalog.snapshot.service("d/web")?.policy == .random, "order \(order)")
            catalog.apply([winning.deletion], from: .api)
            #expect(catalog.snapshot.service("d/web")?.policy == .leastRequest, "order \(order)")
            catalog.apply([losing.deletion], from: .api)
            #expect(catalog.snapshot.service("d/web")?.policy == nil, "order \(order)")
        }
    }

    @Test("a rule with the name of a service and another's host serves the name, and a warning tells")
    func nameAgainstHost() {
        let misleading = rule("d/a", host: "b")
        self.catalog.apply([service("d/b").upsert, misleading.upsert], from: .api)
        #expect(self.policy("d/b") == .random && self.catalog.snapshot.warnings.isEmpty)
        self.catalog.apply([service("d/a").upsert], from: .api)
        #expect(self.policy("d/a") == .random && self.policy("d/b") == nil)
        #expect(self.catalog.snapshot.warning("d/a")?.contains("\"b\"") == true)
        self.catalog.apply([.deleted(.service, name("d/a"))], from: .api)
        #expect(self.policy("d/b") == .random && self.catalog.snapshot.warnings.isEmpty)
        self.catalog.apply([service("d/a").upsert, rule("d/a", host: "a").upsert], from: .api)
        #expect(self.policy("d/a") == .random && self.policy("d/b") == nil)
        #expect(self.catalog.snapshot.warnings.isEmpty)
    }

    @Test("a wildcard rule serves all that it covers, its namesake included, without a warning")
    func wildcardNamesake() {
        self.catalog.apply(
            [service("d/a").upsert, service("d/b").upsert, service("e/c").upsert, rule("d/a", host: "*.d").upsert],
            from: .api
        )
        #expect(self.policy("d/a") == .random && self.policy("d/b") == .random && self.policy("e/c") == nil)
        #expect(self.catalog.snapshot.warnings.isEmpty)
    }

    @Test(
        "policies that are supported",
        arguments: [
            ("ROUND_ROBIN", .roundRobin), ("RANDOM", .random), ("LEAST_CONN", .leastRequest),
            ("LEAST_REQUEST", .leastRequest), ("least_request", .leastRequest),
        ] as [(String, LoadBalancingPolicy)]
    )
    func supported(simple: String, expected: LoadBalancingPolicy) {
        self.catalog.apply([service("d/web").upsert, rule("d/web", host: "web", simple).upsert], from: .api)
        #expect(self.policy("d/web") == expected)
        #expect(self.catalog.snapshot.rejected.isEmpty)
    }

    @Test(
        "a rule with an unknown policy is rejected until a good version comes; the default serves",
        arguments: ["PASSTHROUGH", "", "FASTEST"]
    )
    func unsupported(simple: String) throws {
        self.catalog.apply([service("d/web").upsert, rule("d/web", host: "web").upsert], from: .api)
        self.catalog.apply([rule("d/web", host: "web", simple).upsert], from: .api)
        #expect(self.policy("d/web") == nil)
        let rejection = try #require(self.catalog.snapshot.rejection(.destinationRule, "d/web"))
        #expect(rejection.field == "spec.trafficPolicy.loadBalancer.simple")
        #expect(rejection.reason.contains("policy \(simple) is not supported"))
        self.catalog.apply([rule("d/web", host: "web", "RANDOM").upsert], from: .api)
        #expect(self.policy("d/web") == .random && self.catalog.snapshot.rejected.isEmpty)
        // Gone and swept, the rejection goes too.
        self.catalog.apply([rule("d/web", host: "web", simple).upsert], from: .api)
        self.catalog.apply([.syncBegan(.destinationRule), .syncEnded(.destinationRule)], from: .api)
        #expect(self.policy("d/web") == nil && self.catalog.snapshot.rejected.isEmpty)
    }

    @Test("localities are taken over, and what cannot be meant is named")
    func localities() throws {
        func apply(_ change: (inout DestinationRuleObject.LocalitySetting) -> Void) {
            var object = DestinationRuleObject(name: name("d/web"), host: "web")
            var setting = DestinationRuleObject.LocalitySetting()
            change(&setting)
            object.locality = setting
            self.catalog.apply([service("d/web").upsert, .upsert(.destinationRule(object))], from: .api)
        }
        func locality() -> LocalityPreference? { self.catalog.snapshot.service("d/web")?.locality }
        apply { _ in }
        #expect(locality() == .failover([:]) && self.policy("d/web") == nil)
        apply { $0.failover = ["north": "south"] }
        #expect(locality() == .failover(["north": "south"]))
        apply { $0.isEnabled = false }
        #expect(locality() == nil && self.catalog.snapshot.rejected.isEmpty)
        apply { $0.failoverPriority = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone=z1"] }
        #expect(locality() == .priority([.init(label: .region), .init(label: .zone, value: "z1")]))
        apply { $0.distribute = [.init(from: "north/*", to: ["north/*": 90, "south": 10])] }
        guard case .distribute(let entries) = locality() else {
            Issue.record("no distribution: \(String(describing: locality()))")
            return
        }
        #expect(entries.map { $0.to.map(\.weight) } == [[90, 10]])
        let wrong: [(field: String, change: (inout DestinationRuleObject.LocalitySetting) -> Void)] = [
            ("distribute[0].to", { $0.distribute = [.init(from: "*", to: ["north": 99])] }),
            ("distribute[0].to", { $0.distribute = [.init(from: "*", to: ["a//b": 100])] }),
            ("distribute[0].from", { $0.distribute = [.init(from: "*/a", to: ["north": 100])] }),
            ("failoverPriority[1]", { $0.failoverPriority = ["kubernetes.io/hostname", "app"] }),
            (
                "localityLbSetting",
                { setting in
                    setting.distribute = [.init(from: "*", to: ["*": 100])]
                    setting.failover = ["a": "b"]
                }
            ),
        ]
        for (field, change) in wrong {
            apply(change)
            let rejection = try #require(self.catalog.snapshot.rejection(.destinationRule, "d/web"))
            #expect(rejection.field.hasSuffix(field), "\(rejection)")
            #expect(locality() == nil)
        }
    }

    @Test("a refused rule does not stand in the way of a good one")
    func refusedGivesWay() {
        self.catalog.apply(
            [service("d/web").upsert, rule("d/web", host: "web", "NO").upsert, rule("d/r", host: "web").upsert],
            from: .api
        )
        #expect(self.policy("d/web") == .random)
    }

    @Test(
        "sizes of consistent hashes",
        arguments: [
            (.ring(minimumSize: nil), .ring(minimumSize: 1_024, loadFactor: 1.25)),
            (.ring(minimumSize: 0), .ring(minimumSize: 1_024, loadFactor: 1.25)),
            (.ring(minimumSize: 8_388_608), .ring(minimumSize: 8_388_608, loadFactor: 1.25)),
            (.ring(minimumSize: 8_388_609), nil), (.ring(minimumSize: .max), nil),
            (.maglev(tableSize: nil), .maglev(tableSize: 65_537)), (.maglev(tableSize: 251), .maglev(tableSize: 251)),
            (.maglev(tableSize: 252), nil), (.maglev(tableSize: 1), nil), (.maglev(tableSize: 5_000_077), nil),
            (.maglev(tableSize: .max), nil),
        ] as [(DestinationRuleObject.ConsistentHash.Algorithm, ConsistentHashPolicy.Algorithm?)]
    )
    func sizes(given: DestinationRuleObject.ConsistentHash.Algorithm, expected: ConsistentHashPolicy.Algorithm?) {
        var object = DestinationRuleObject(name: name("d/web"), host: "web")
        object.portLoadBalancers = [80: .consistentHash(.init(key: .sourceIP, algorithm: given))]
        self.catalog.apply([service("d/web").upsert, .upsert(.destinationRule(object))], from: .api)
        let policy = self.catalog.snapshot.service("d/web")?.portPolicies[80]
        #expect(policy == expected.map { .consistentHash(ConsistentHashPolicy(key: .sourceAddress, algorithm: $0)) })
        #expect((self.catalog.snapshot.rejection(.destinationRule, "d/web") == nil) == (expected != nil))
    }

    @Test(
        "keys of consistent hashes",
        arguments: [
            (.sourceIP, .sourceAddress), (.httpHeader("User-Agent"), .httpHeader("User-Agent")), (.httpHeader(""), nil),
            (
                .httpCookie(name: "c", path: "/", ttl: 1.5),
                .httpCookie(name: "c", path: "/", timeToLive: .milliseconds(1_500))
            ),
            (.httpCookie(name: "", path: nil, ttl: nil), nil), (.httpCookie(name: "c", path: nil, ttl: -1), nil),
            (.httpCookie(name: "c", path: nil, ttl: .infinity), nil),
            (.httpCookie(name: "c", path: nil, ttl: .nan), nil),
            (.httpQueryParameter("q"), .httpQueryParameter("q")), (.httpQueryParameter(""), nil),
        ] as [(DestinationRuleObject.ConsistentHash.Key, ConsistentHashPolicy.Key?)]
    )
    func keys(given: DestinationRuleObject.ConsistentHash.Key, expected: ConsistentHashPolicy.Key?) {
        var object = DestinationRuleObject(name: name("d/web"), host: "web")
        object.loadBalancer = .consistentHash(.init(key: given, algorithm: .ring(minimumSize: nil)))
        self.catalog.apply([service("d/web").upsert, .upsert(.destinationRule(object))], from: .api)
        let algorithm = ConsistentHashPolicy.Algorithm.ring(minimumSize: 1_024, loadFactor: 1.25)
        #expect(
            self.policy("d/web")
                == expected.map { .consistentHash(ConsistentHashPolicy(key: $0, algorithm: algorithm)) }
        )
    }
}
