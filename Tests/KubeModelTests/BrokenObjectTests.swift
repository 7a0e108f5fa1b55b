import Documents
import KubeModel
import Testing

@Suite("Broken objects")
struct BrokenObjectTests {
    private static func service(_ spec: String) -> String {
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  \(spec)\n"
    }

    private static func slice(_ endpoints: String) -> String {
        """
        apiVersion: discovery.k8s.io/v1
        kind: EndpointSlice
        metadata: {name: s, labels: {kubernetes.io/service-name: web}}
        \(endpoints)
        """
    }

    private static func rule(_ balancer: String) -> String {
        """
        apiVersion: networking.istio.io/v1alpha3
        kind: DestinationRule
        metadata: {name: web}
        spec: {trafficPolicy: {loadBalancer: \(balancer)}}
        """
    }

    /// The text, where its error is, the field, a distinctive part of the message.
    private static let cases: [(String, Int, Int, String, String)] = [
        ("7", 1, 1, "", "must be an object"),
        ("{a: 1}", 1, 1, "kind", "kind is missing"),
        ("kind: Service\nmetadata: {name: a}", 1, 1, "apiVersion", "apiVersion is missing"),
        ("apiVersion: v1\nkind: [Service]", 2, 7, "kind", "a list; it must be text"),
        ("apiVersion: v1\nkind: ServiceAccount", 2, 7, "kind", "v1 ServiceAccount is no kind that the mesh reads"),
        ("apiVersion: serving.knative.dev/v1\nkind: Service", 2, 7, "kind", "no kind that the mesh reads"),
        ("apiVersion: v1\nkind: ServiceAccountList\nitems: []", 2, 7, "kind", "ServiceAccountList is no kind"),
        ("apiVersion: v1\nkind: List\nitems: {a: 1}", 3, 8, "items", "an object; it must be a list"),
        ("apiVersion: v1\nkind: Service\nspec: {}", 1, 1, "metadata.name", "is missing"),
        ("apiVersion: v1\nkind: Service\nmetadata: web", 3, 11, "metadata", "\"web\"; it must be an object"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: Web}", 3, 18, "metadata.name", "lower-case letters"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: a_b}", 3, 32, "metadata.namespace", "\"a_b\""),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: 12}", 3, 18, "metadata.name",
            "quotes if it looks like a number"
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: {x: yes}}", 3, 33, "metadata.labels.x",
            "is true; it must be text"
        ),
        (service("type: Cluster"), 5, 9, "spec.type", "allowed: ClusterIP, NodePort, LoadBalancer, ExternalName"),
        (service("type: ExternalName"), 5, 3, "spec.externalName", "is missing; set it to a domain name"),
        (service("clusterIP: 10.96.0"), 5, 14, "spec.clusterIP", "\"10.96.0\"; allowed: an IPv4 or IPv6 address"),
        (service("clusterIPs: [10.96.0.1, fd00::g]"), 5, 27, "spec.clusterIPs[1]", "IPv4 or IPv6 address"),
        (service("clusterIPs: 10.96.0.1"), 5, 15, "spec.clusterIPs", "must be a list"),
        (service("externalIPs: [2001]"), 5, 17, "spec.externalIPs[0]", "must be text"),
        (service("loadBalancerSourceRanges: [10.0.0.0/33]"), 5, 30, "spec.loadBalancerSourceRanges[0]", "10.0.0.0/8"),
        (service("selector: {app: 1}"), 5, 19, "spec.selector.app", "must be text"),
        (service("publishNotReadyAddresses: 1"), 5, 29, "spec.publishNotReadyAddresses", "true or false"),
        (service("internalTrafficPolicy: local"), 5, 26, "spec.internalTrafficPolicy", "allowed: Cluster, Local"),
        (service("sessionAffinity: Cookie"), 5, 20, "spec.sessionAffinity", "allowed: None, ClientIP"),
        (
            service("sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}"), 6, 54,
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds", "is 86401; allowed: a whole number from 1 to 86400"
        ),
        (service("ports: {port: 80}"), 5, 10, "spec.ports", "must be a list"),
        (service("ports: [80]"), 5, 11, "spec.ports[0]", "is 80; it must be an object"),
        (service("ports: [{name: http}]"), 5, 11, "spec.ports[0].port", "is missing"),
        (service("ports: [{port: 0}]"), 5, 18, "spec.ports[0].port", "is 0; allowed: a whole number from 1 to 65535"),
        (service("ports: [{port: 65536}]"), 5, 18, "spec.ports[0].port", "is 65536"),
        (service("ports: [{port: 99999999999999999999}]"), 5, 18, "spec.ports[0].port", "is 1e+20"),
        (service("ports: [{port: 80.5}]"), 5, 18, "spec.ports[0].port", "is 80.5"),
        (service("ports: [{port: \"80\"}]"), 5, 18, "spec.ports[0].port", "is \"80\"; it must be a whole number"),
        (service("ports: [{port: 80, protocol: HTTP}]"), 5, 32, "spec.ports[0].protocol", "TCP, UDP or SCTP"),
        (service("ports: [{port: 80, nodePort: 70000}]"), 5, 32, "spec.ports[0].nodePort", "is 70000"),
        (service("ports: [{port: 80, targetPort: \"0\"}]"), 5, 34, "spec.ports[0].targetPort", "container port"),
        (service("ports: [{port: 80, targetPort: [1]}]"), 5, 34, "spec.ports[0].targetPort", "must be a whole number"),
        (service("ports: [{port: 80}, {port: 81}]"), 5, 11, "spec.ports[0].name", "names each of them"),
        (
            service("ports: [{name: a, port: 80}, {name: a, port: 81}]"), 5, 39, "spec.ports[1].name",
            "spec.ports[0].name has it already"
        ),
        (
            service("ports: [{name: a, port: 80}, {name: b, port: 80}]"), 5, 48, "spec.ports[1].port",
            "for the same protocol"
        ),
        (slice("addressType: FQDN"), 4, 14, "addressType", "dials addresses, not names"),
        (slice("endpoints: [{}]"), 4, 13, "endpoints[0].addresses", "is missing"),
        (slice("endpoints: [{addresses: []}]"), 4, 25, "endpoints[0].addresses", "list of one address"),
        (slice("endpoints: [{addresses: [web.example]}]"), 4, 26, "endpoints[0].addresses[0]", "IPv4 or IPv6 address"),
        (
            slice("endpoints: [{addresses: [10.0.0.1], conditions: {ready: \"true\"}}]"), 4, 57,
            "endpoints[0].conditions.ready", "\"true\"; it must be true or false"
        ),
        (slice("ports: [{port: -1}]"), 4, 16, "ports[0].port", "is -1"),
        (
            "apiVersion: v1\nkind: Endpoints\nmetadata: {name: e}\nsubsets: [{addresses: [{}]}]", 4, 24,
            "subsets[0].addresses[0].ip", "is missing"
        ),
        (
            "apiVersion: v1\nkind: Node\nmetadata: {name: n}\nspec: {podCIDRs: [10.0.0.0]}\nstatus: {addresses: [{type: InternalIP, address: x}]}",
            5, 50, "status.addresses[0].address", "IPv4 or IPv6"
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{ports: [{}]}]}", 4, 30,
            "spec.containers[0].ports[0].containerPort", "is missing"
        ),
        (
            rule("{simple: RANDOM, consistentHash: {useSourceIp: true}}"), 4, 47,
            "spec.trafficPolicy.loadBalancer.simple", "remove one"
        ),
        (rule("{consistentHash: {}}"), 4, 55, "spec.trafficPolicy.loadBalancer.consistentHash", "exactly one of"),
        (
            rule("{consistentHash: {useSourceIp: true, httpHeaderName: X}}"), 4, 55,
            "spec.trafficPolicy.loadBalancer.consistentHash", "it has 2"
        ),
        (
            rule("{consistentHash: {httpCookie: {name: c, ttl: soon}}}"), 4, 83,
            "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.ttl", "30s or 1h30m"
        ),
        (
            rule("{consistentHash: {useSourceIp: true, minimumRingSize: -1}}"), 4, 92,
            "spec.trafficPolicy.loadBalancer.consistentHash.minimumRingSize", "is -1"
        ),
        (
            """
            apiVersion: networking.istio.io/v1
            kind: DestinationRule
            metadata: {name: web}
            spec: {trafficPolicy: {portLevelSettings: [{port: {number: 80}}, {port: {number: 0}}]}}
            """, 4, 82, "spec.trafficPolicy.portLevelSettings[1].port.number", "is 0"
        ),
    ]

    @Test("each names its place, its field and what is allowed", arguments: cases)
    func broken(text: String, line: Int, column: Int, field: String, message: String) throws {
        let document = try #require(try Document.parseYAML(Array(text.utf8)).first)
        let error = #expect(throws: ObjectError.self) { try ClusterObject.decode(document) }
        #expect(error?.position == SourcePosition(line: line, column: column), "\(error.debugDescription)")
        #expect(error?.field == field)
        #expect(error?.message.contains(message) == true, "\(error.debugDescription)")
        #expect(error?.describe(in: "m.yaml").hasPrefix("m.yaml:\(line):\(column): ") == true)
    }
}
