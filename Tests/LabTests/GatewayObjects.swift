import MeshCore

@testable import NetLab

/// What the gateway of `GatewayWorld` serves.
enum GatewayObjects {
    static func apply(to world: World) async throws {
        let authority = try await LabAuthority(in: world.authorityDirectory)
        for (name, hosts, verifiesClients) in [
            ("shop", ["shop.example", "grpc.example"], false), ("other", ["other.example"], false),
            ("mutual", ["mutual.example"], true),
        ] {
            let certificate = try await authority.issue(name, hosts: hosts)
            let secret = try await authority.secret(name, certificate, verifiesClients: verifiesClients)
            try world.apply("secret-\(name).yaml", secret)
        }
        try await authority.issue("client", hosts: ["client.example"])
        let app = try world.node("far-1").apps[0]
        let ports: [NodeLabManifests.ServicePort] = [("http-echo", .tcp, 9000, 9000), ("grpc", .tcp, 50_051, 50_051)]
        try world.apply(
            "tools.yaml",
            NodeLabManifests.service("tools", clusterIP: IPv4Address(10, 96, 3, 1), selector: nil, ports: ports)
                + "---\n" + NodeLabManifests.endpointSlice("tools", ports: ports, endpoints: [(app.address, "far-1")])
                + "---\n"
                + NodeLabManifests.service(
                    "nobody",
                    clusterIP: IPv4Address(10, 96, 3, 2),
                    selector: nil,
                    ports: [("http", .tcp, 80, 9376)]
                )
        )
        try world.apply("gateway.yaml", self.gateway)
        try world.apply("routes.yaml", self.routes)
        try world.apply("gateway-api.yaml", self.gatewayAPI)
    }

    private static let gateway = """
        apiVersion: networking.istio.io/v1
        kind: Gateway
        metadata: {name: front, namespace: default}
        spec:
          selector: {kubeedge: edgemesh-gateway}
          servers:
          - {port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example, lab]}
          - port: {number: 80, name: http-redirect, protocol: HTTP}
            hosts: [secure.example]
            tls: {httpsRedirect: true}
          - port: {number: 443, name: https-shop, protocol: HTTPS}
            hosts: [shop.example, grpc.example]
            tls: {mode: SIMPLE, credentialName: shop}
          - port: {number: 443, name: https-other, protocol: HTTPS}
            hosts: [other.example]
            tls: {mode: SIMPLE, credentialName: other}
          - port: {number: 443, name: tls-pass, protocol: TLS}
            hosts: [pass.example]
            tls: {mode: PASSTHROUGH}
          - port: {number: 8443, name: https-mutual, protocol: HTTPS}
            hosts: [mutual.example]
            tls: {mode: MUTUAL, credentialName: mutual}
          - port: {number: 8444, name: https-optional, protocol: HTTPS}
            hosts: [mutual.example]
            tls: {mode: OPTIONAL_MUTUAL, credentialName: mutual}
          - {port: {number: 2701, name: tcp-echo, protocol: TCP}, hosts: ['*']}

        """

    private static func service(_ name: String, _ host: String, _ route: String) -> String {
        """
        ---
        apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata: {name: \(name), namespace: default}
        spec:
          gateways: [front]
          hosts: ['\(host)']
        \(route)

        """
    }

    private static var routes: String {
        self.service(
            "shop",
            "shop.example",
            """
              http:
              - match: [{headers: {x-canary: {exact: 'yes'}}}]
                route: [{destination: {host: far-2, port: {number: 80}}}]
              - match: [{uri: {prefix: /echo}}]
                rewrite: {uri: /seen}
                headers:
                  request: {set: {x-set: by-the-gateway}, remove: [x-secret]}
                  response: {add: {x-gateway: lab}}
                route: [{destination: {host: tools, port: {number: 9000}}}]
              - match: [{uri: {exact: /sum}}]
                route: [{destination: {host: tools, port: {number: 9000}}}]
              - match: [{uri: {exact: /weighted}}]
                route:
                - {destination: {host: far-1, port: {number: 80}}, weight: 1}
                - {destination: {host: far-2, port: {number: 80}}, weight: 3}
              - match: [{uri: {prefix: /old}}]
                redirect: {uri: /new, redirectCode: 308}
              - match: [{uri: {exact: /late}}]
                rewrite: {uri: /hang}
                timeout: 0.3s
                route: [{destination: {host: tools, port: {number: 9000}}}]
              - match: [{uri: {exact: /nobody}}]
                route: [{destination: {host: nobody, port: {number: 80}}}]
              - match: [{uri: {exact: /missing}}]
                route: [{destination: {host: missing, port: {number: 80}}}]
              - match: [{uri: {exact: /both}}]
                route: [{destination: {host: both, port: {number: 80}}}]
              - match: [{uri: {exact: /}}, {uri: {prefix: /new}}]
                route: [{destination: {host: far-1, port: {number: 80}}}]
            """
        )
            + self.service(
                "grpc",
                "grpc.example",
                "  http: [{route: [{destination: {host: tools, port: {number: 50051}}}]}]"
            )
            + self.service(
                "websocket",
                "lab",
                "  http: [{route: [{destination: {host: far-1, port: {number: 8080}}}]}]"
            )
            + self.service(
                "other",
                "other.example",
                "  http: [{route: [{destination: {host: far-2, port: {number: 80}}}]}]"
            )
            + self.service(
                "mutual",
                "mutual.example",
                "  http: [{route: [{destination: {host: far-1, port: {number: 80}}}]}]"
            )
            + self.service(
                "pass",
                "pass.example",
                """
                  tls:
                  - match: [{port: 443, sniHosts: [pass.example]}]
                    route: [{destination: {host: far-1, port: {number: 443}}}]
                """
            )
            + self.service(
                "tcp",
                "*",
                """
                  tcp:
                  - match: [{port: 2701}]
                    route: [{destination: {host: far-1, port: {number: 2701}}}]
                """
            )
    }

    private static let gatewayAPI = """
        apiVersion: gateway.networking.k8s.io/v1
        kind: GatewayClass
        metadata: {name: edgemesh}
        spec: {controllerName: kubeedge.io/edgemesh-gateway}
        ---
        apiVersion: gateway.networking.k8s.io/v1
        kind: Gateway
        metadata: {name: api, namespace: default}
        spec:
          gatewayClassName: edgemesh
          listeners:
          - {name: http, port: 8080, protocol: HTTP}
          - {name: tcp, port: 8081, protocol: TCP}
          - {name: udp, port: 8082, protocol: UDP}
        ---
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {name: api, namespace: default}
        spec:
          parentRefs: [{name: api, sectionName: http}]
          hostnames: ['*.api.example']
          rules:
          - matches: [{path: {type: PathPrefix, value: /echo}, method: POST}]
            filters:
            - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
            backendRefs: [{name: tools, port: 9000}]
          - backendRefs: [{name: far-2, port: 80}]

        """ + Self.streamRoute("TCP", port: 2701) + Self.streamRoute("UDP", port: 2702)

    /// From the listener of that name to `far-2`.
    private static func streamRoute(_ transport: String, port: Int) -> String {
        """
        ---
        apiVersion: gateway.networking.k8s.io/v1alpha2
        kind: \(transport)Route
        metadata: {name: api, namespace: default}
        spec:
          parentRefs: [{name: api, sectionName: \(transport.lowercased())}]
          rules: [{backendRefs: [{name: far-2, port: \(port)}]}]

        """
    }
}
