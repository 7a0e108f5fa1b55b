import Documents
import KubeModel
import MeshCore
import Testing

/// The objects of a manifest.
func decode(_ yaml: String) throws -> [ClusterObject] {
    try Document.parseYAML(Array(yaml.utf8)).flatMap { try ClusterObject.decode($0) }
}

@Suite("Objects from manifests and the API")
struct DecodingTests {
    @Test(
        "of a service's labels only those that mean something are kept, some with one value only",
        arguments: [
            ("k8s-app: kube-dns", .clusterDNS), ("k8s-app: metrics-server", []), ("app: kube-dns", []),
            ("service.kubernetes.io/headless: ''", .headless),
        ] as [(String, ServiceObject.FilterLabels)]
    )
    func knownLabels(label: String, kept: ServiceObject.FilterLabels) throws {
        let objects = try decode(
            """
            apiVersion: v1
            kind: Service
            metadata: {name: a, namespace: b, labels: {\(label), other: x}}
            spec: {clusterIP: 10.96.0.2, ports: [{port: 53}]}
            """
        )
        guard case .service(let service) = objects.first else { throw DecodeFailure() }
        #expect(service.filterLabels == kept)
    }

    @Test("a service with everything")
    func service() throws {
        let objects = try decode(
            """
            apiVersion: v1
            kind: Service
            metadata:
              name: web
              namespace: shop
              labels: {service.kubernetes.io/headless: "", app: web}
            spec:
              type: LoadBalancer
              clusterIP: 10.96.0.7
              clusterIPs: [10.96.0.7, "fd00::7"]
              selector: {app: web}
              ports:
              - {name: http, port: 80, targetPort: http, nodePort: 30080, appProtocol: kubernetes.io/h2c}
              - {name: dns, port: 53, protocol: UDP}
              - {name: sig, port: 9000, protocol: SCTP, targetPort: "9001"}
              externalIPs: [192.0.2.1]
              loadBalancerSourceRanges: [" 10.0.0.0/8 "]
              sessionAffinity: ClientIP
              internalTrafficPolicy: Local
              externalTrafficPolicy: Local
              publishNotReadyAddresses: true
              trafficDistribution: PreferClose
              futureField: {x: 1}
            status:
              loadBalancer:
                ingress: [{ip: 198.51.100.1}, {hostname: lb.example}, {ip: 198.51.100.2, ipMode: Proxy}]
            """
        )
        guard case .service(let service) = objects.first else { throw DecodeFailure() }
        #expect(service.name == ObjectName(namespace: "shop", name: "web"))
        #expect(service.type == .loadBalancer)
        #expect(service.clusterIPs.map(\.description) == ["10.96.0.7", "fd00::7"])
        #expect(service.filterLabels == .headless)
        #expect(
            service.ports == [
                .init(
                    name: "http",
                    port: 80,
                    nodePort: 30080,
                    targetPort: .name("http"),
                    appProtocol: "kubernetes.io/h2c"
                ),
                .init(name: "dns", transport: .udp, port: 53),
                .init(name: "sig", transport: .sctp, port: 9000, targetPort: .number(9001)),
            ]
        )
        #expect(service.externalIPs.map(\.description) == ["192.0.2.1"])
        #expect(service.loadBalancerSourceRanges.map(\.description) == ["10.0.0.0/8"])
        #expect(service.loadBalancerIngress.map(\.description) == ["198.51.100.1"])
        #expect(service.clientIPAffinitySeconds == 10800)
        #expect(service.internalTrafficPolicy == .local && service.externalTrafficPolicy == .local)
        #expect(service.publishNotReadyAddresses && service.trafficDistribution == "PreferClose")
    }

    @Test("headless and external services, and those that only have a clusterIP")
    func serviceKinds() throws {
        let objects = try decode(
            """
            {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, clusterIPs: ["None"]}}
            ---
            {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {type: ExternalName, externalName: x.example}}
            ---
            {apiVersion: v1, kind: Service, metadata: {name: c}, spec: {clusterIP: 10.0.0.1, sessionAffinity: null}}
            ---
            {apiVersion: v1, kind: Service, metadata: {name: d}, spec: {clusterIP: ""}}
            """
        )
        let services = objects.compactMap { if case .service(let service) = $0 { service } else { nil } }
        #expect(services.map(\.isHeadless) == [true, false, false, false])
        #expect(services.map(\.clusterIPs.count) == [0, 0, 1, 0])
        #expect(services[1].externalName == "x.example")
        #expect(services[0].name.namespace == "default")
    }

    @Test("endpoint slices of both versions")
    func slices() throws {
        let objects = try decode(
            """
            apiVersion: discovery.k8s.io/v1
            kind: EndpointSlice
            metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
            addressType: IPv4
            ports: [{name: http, port: 8080}, {name: all}]
            endpoints:
            - addresses: [10.1.0.1, 10.1.0.99]
              nodeName: n1
              zone: z1
              hostname: h1
              targetRef: {kind: Pod, name: web-a}
              hints: {forZones: [{name: z1}, {name: z2}]}
            - {addresses: [10.1.0.2], conditions: {ready: false}}
            - {addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}}
            ---
            apiVersion: discovery.k8s.io/v1beta1
            kind: EndpointSlice
            metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}
            endpoints:
            - {addresses: [10.1.0.4], topology: {kubernetes.io/hostname: n2, topology.kubernetes.io/zone: z2}}
            ---
            {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: other}, endpoints: 7}
            """
        )
        let slices = objects.compactMap { if case .endpointSlice(let slice) = $0 { slice } else { nil } }
        #expect(slices.count == 2)
        let group = try #require(slices.first?.group)
        #expect(group.ports == [EndpointPort(name: "http", port: 8080)])
        #expect(group.endpoints.map(\.conditions) == [[.ready, .serving], [], [.serving, .terminating]])
        let first = try #require(group.endpoints.first)
        #expect(first.address.description == "10.1.0.1")
        #expect([first.nodeName, first.zone, first.hostname, first.podName] == ["n1", "z1", "h1", "web-a"])
        #expect(first.zoneHints == ["z1", "z2"])
        #expect(slices.last?.group.endpoints.first?.nodeName == "n2")
        #expect(slices.last?.group.endpoints.first?.zone == "z2")
    }

    @Test("endpoints, nodes, namespaces")
    func others() throws {
        let objects = try decode(
            """
            apiVersion: v1
            kind: Endpoints
            metadata: {name: web}
            subsets:
            - addresses: [{ip: 10.1.0.1, nodeName: n1, hostname: h, targetRef: {kind: Pod, name: p}}]
              notReadyAddresses: [{ip: "fd00::1"}]
              ports: [{port: 80}]
            ---
            apiVersion: v1
            kind: Node
            metadata: {name: n1, namespace: ignored, labels: {topology.kubernetes.io/zone: z, topology.kubernetes.io/region: r}}
            spec: {podCIDR: 10.244.1.0/24}
            status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.168.0.1}]}
            ---
            {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
            """
        )
        guard case .endpoints(let endpoints) = objects[0], case .node(let node) = objects[1] else {
            throw DecodeFailure()
        }
        #expect(endpoints.groups.first?.endpoints.map(\.conditions) == [[.ready, .serving], []])
        #expect(endpoints.groups.first?.endpoints.first?.podName == "p")
        #expect(node.internalIPs.map(\.description) == ["192.168.0.1"])
        #expect(node.podCIDRs.map(\.description) == ["10.244.1.0/24"])
        #expect(node.zone == "z" && node.region == "r")
        #expect(objects[1].name == ObjectName(namespace: "", name: "n1"))
        #expect(objects[2] == .namespace(NamespaceObject(name: "shop")))
    }

    @Test(
        "readiness of pods",
        arguments: [
            ("{}", true), ("{phase: Running}", true), ("{phase: Pending}", false), ("{phase: Succeeded}", false),
            ("{phase: Running, conditions: [{type: Ready, status: \"True\"}]}", true),
            ("{phase: Running, conditions: [{type: Ready, status: \"False\"}]}", false),
            ("{phase: Failed, conditions: [{type: Ready, status: \"True\"}]}", false),
            ("{phase: Running, conditions: [{type: Initialized, status: \"True\"}]}", false),
        ]
    )
    func pods(status: String, isReady: Bool) throws {
        let text = """
            apiVersion: v1
            kind: Pod
            metadata: {name: p, labels: {app: web}, deletionTimestamp: 2026-01-01T00:00:00Z}
            spec: {nodeName: n, containers: [{ports: [{name: http, containerPort: 8080}]}, {name: sidecar}]}
            status: \(status)
            """
        guard case .pod(let pod) = try decode(text).first else { throw DecodeFailure() }
        #expect(pod.isReady == isReady)
        #expect(pod.isTerminating)
        #expect(pod.containerPorts == [.init(name: "http", transport: .tcp, port: 8080)])
        #expect(pod.labels == ["app": "web"])
    }

    @Test(
        "destination rules",
        arguments: [
            ("{host: web}", nil),
            ("{host: web, trafficPolicy: {connectionPool: {}}}", nil),
            ("{trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}}", .simple("LEAST_CONN")),
            (
                "{trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: User-Agent}}}}",
                .consistentHash(.init(key: .httpHeader("User-Agent"), algorithm: .ring(minimumSize: nil)))
            ),
            (
                "{trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: \"64\"}}}}",
                .consistentHash(.init(key: .sourceIP, algorithm: .ring(minimumSize: 64)))
            ),
            (
                "{trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 1m30s}, maglev: {tableSize: 101}}}}}",
                .consistentHash(
                    .init(key: .httpCookie(name: "c", path: nil, ttl: 90), algorithm: .maglev(tableSize: 101))
                )
            ),
            (
                "{trafficPolicy: {loadBalancer: {consistentHash: {httpQueryParameterName: q, ringHash: {minimumRingSize: 9}}}}}",
                .consistentHash(.init(key: .httpQueryParameter("q"), algorithm: .ring(minimumSize: 9)))
            ),
        ] as [(String, DestinationRuleObject.LoadBalancer?)]
    )
    func destinationRules(spec: String, balancer: DestinationRuleObject.LoadBalancer?) throws {
        for version in ["v1alpha3", "v1beta1", "v1"] {
            let text =
                "{apiVersion: networking.istio.io/\(version), kind: DestinationRule, metadata: {name: web}, spec: \(spec)}"
            guard case .destinationRule(let rule) = try decode(text).first else { throw DecodeFailure() }
            #expect(rule.loadBalancer == balancer)
        }
        let ports = """
            apiVersion: networking.istio.io/v1
            kind: DestinationRule
            metadata: {name: web}
            spec: {trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}, {port: {number: 81}}]}}
            """
        guard case .destinationRule(let rule) = try decode(ports).first else { throw DecodeFailure() }
        #expect(rule.portLoadBalancers == [80: .simple("RANDOM")])
    }

    @Test("lists give a result for each item")
    func lists() throws {
        let items = """
            items:
            - {apiVersion: v1, kind: Namespace, metadata: {name: a}}
            - {apiVersion: v1, kind: ServiceAccount, metadata: {name: s}}
            - {apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {ports: [{port: 0}]}}
            - {apiVersion: v1, kind: List, items: []}
            - {apiVersion: v1, kind: Namespace, metadata: {name: b}}
            """
        let document = try Document.parseYAML(Array("apiVersion: v1\nkind: List\n\(items)".utf8))[0]
        let results = ClusterObject.decodeEach(document)
        let codes = results.map { result -> ObjectError.Code? in
            if case .failure(let error) = result { error.code } else { nil }
        }
        #expect(codes == [nil, .unsupportedKind, .badValue, .unsupportedKind, nil])
        guard case .failure(let error) = results[2] else { throw DecodeFailure() }
        #expect(error.rejectedObject?.name == ObjectName(namespace: "default", name: "bad"))
        #expect(error.rejectedObject?.field == "spec.ports[0].port")

        let typed =
            "{apiVersion: v1, kind: ServiceList, metadata: {resourceVersion: \"7\"}, items: [{metadata: {name: a}}]}"
        let list = try Document.parseYAML(Array(typed.utf8))[0]
        #expect(list.resourceVersion == "7")
        #expect(try ClusterObject.decode(list).map(\.kind) == [.service])
        #expect(list["items"]?.array?.first?.objectName == ObjectName(namespace: "", name: "a"))
        #expect(try decode("{apiVersion: v1, kind: ServiceList}").isEmpty)
    }
}

struct DecodeFailure: Error {}
