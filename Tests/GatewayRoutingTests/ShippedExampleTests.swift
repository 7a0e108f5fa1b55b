import GatewayRouting
import KubeModel
import MeshCore
import Testing

/// What EdgeMesh 1.17 shipped as examples for its gateway, with its documented results.
@Suite("EdgeMesh 1.17's examples")
struct ShippedExampleTests {
    private static func example(
        hosts: String,
        prefix: String,
        tls: String = "",
        settings: CompilerSettings = CompilerSettings()
    ) throws -> TestCluster {
        try TestCluster(
            """
            apiVersion: networking.istio.io/v1alpha3
            kind: Gateway
            metadata: {name: edgemesh-gateway, namespace: default}
            spec:
              selector: {kubeedge: edgemesh-gateway}
              servers:
              - port: {number: 23333, name: http-0, protocol: HTTP}
                hosts: [\(hosts)]
            \(tls)
            ---
            apiVersion: networking.istio.io/v1alpha3
            kind: DestinationRule
            metadata: {name: hostname-lb-svc, namespace: default}
            spec: {host: hostname-lb-svc, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
            ---
            apiVersion: networking.istio.io/v1alpha3
            kind: VirtualService
            metadata: {name: edgemesh-gateway-vs, namespace: default}
            spec:
              hosts: [\(hosts)]
              gateways: [edgemesh-gateway]
              http:
              - match: [{uri: {prefix: \(prefix)}}]
                route: [{destination: {host: hostname-lb-svc, port: {number: 12345}}}]
            """,
            services: ["default/hostname-lb-svc:12345"],
            secrets: ["default/gw-secret"],
            settings: settings
        )
    }

    @Test("A gateway for every host and path")
    func everything() throws {
        let cluster = try Self.example(hosts: "'*'", prefix: "/")
        #expect(cluster.plan.listeners.map(\.key) == [ListenerPlan.Key(transport: .tcp, port: 23333)])
        #expect(try cluster.outcome("/", host: "192.168.0.7:23333", port: 23333) == "hostname-lb-svc")
        // It served only the root, against what its author wrote.
        #expect(try cluster.outcome("/deeper", host: "x", port: 23333) == "hostname-lb-svc")
        #expect(cluster.compilation.findings.isEmpty)
    }

    @Test("A gateway for one host and a path", arguments: ["/who", "who"])
    func oneHost(prefix: String) throws {
        let cluster = try Self.example(hosts: "'hostname.org'", prefix: prefix)
        #expect(try cluster.outcome("/who", host: "hostname.org:23333", port: 23333) == "hostname-lb-svc")
        #expect(try cluster.outcome("/other", host: "hostname.org", port: 23333) == "404")
        #expect(try cluster.outcome("/who", host: "other.org", port: 23333) == "404")
    }

    @Test("TLS with MUTUAL but without an authority: as it was if that is asked for, else not at all")
    func mutual() throws {
        let tls = """
                tls:
                  credentialName: gw-secret
                  mode: MUTUAL
                  minProtocolVersion: TLSV1_2
                  maxProtocolVersion: TLSV1_2
                  cipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305, TLS_RSA_WITH_RC4_128_SHA]
            """
        let refused = try Self.example(hosts: "'*'", prefix: "/", tls: tls)
        #expect(refused.plan.listeners.isEmpty)
        #expect(refused.finds(.error, "spec.servers[0].tls.mode", "add ca.crt to default/gw-secret"))
        let cluster = try Self.example(
            hosts: "'*'",
            prefix: "/",
            tls: tls,
            settings: CompilerSettings(servesMutualWithoutAuthority: true)
        )
        guard case .tls(let servers)? = cluster.listener(23333)?.service else { return #expect(Bool(false)) }
        let termination = try #require(servers.first?.termination)
        #expect(termination.clientCertificates == .ignored)
        #expect(termination.minimumVersion == .tls12 && termination.maximumVersion == .tls12)
        #expect(termination.cipherSuites == ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305"])
        #expect(try cluster.outcome("/", host: "10.0.0.1", port: 23333) == "hostname-lb-svc")
        #expect(cluster.finds(.warning, "spec.servers[0].tls.mode", "NOT asked"))
        #expect(cluster.finds(.warning, "spec.servers[0].tls.cipherSuites", "RC4"))
    }
}
