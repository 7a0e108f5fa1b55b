import Documents
import KubeModel
import MeshCore
import MeshInterfaces
import ServiceCatalog
import Testing

@testable import Admin

@Suite struct TunnelRoutesTests {
    private struct Reporter: StatusReporting {
        let report: Document
        var statusName: String { "edgeTunnel" }
        func status() async -> Document { self.report }
        func metrics() async -> [MetricSample] { [] }
    }

    private static func endpoints(_ report: Document? = nil, failing code: TunnelError.Code? = nil) -> AdminEndpoints {
        AdminEndpoints(
            catalog: ClusterCatalog(),
            reporters: report.map { [Reporter(report: $0)] } ?? [],
            tunnel: report.map { _ in
                TunnelQueries(
                    ping: { node async throws(TunnelError) in
                        if let code { throw TunnelError(code: code, message: "\(node) is away") }
                        var path = NodePath(state: .up, peer: "12D3", since: MonotonicTime(nanoseconds: 0))
                        path.kind = .punched
                        return (path, .microseconds(1500))
                    },
                    tunnelNode: { _ in nil }
                )
            },
            agent: { [:] },
            readiness: { [] },
            reload: { [:] }
        )
    }

    @Test func withoutATunnelTheMendIsTold() async {
        for request in [
            AdminRequest(path: "/tunnel"), AdminRequest(method: .post, path: "/ping", query: ["node": "n2"]),
        ] {
            let response = await Self.endpoints().respond(to: request)
            #expect(response.status == 404)
            #expect(response.body.contains("modules.edgeTunnel.enable: true"))
        }
        let down = await Self.endpoints(["running": .init(.bool(false))]).respond(to: AdminRequest(path: "/tunnel"))
        #expect(down.status == 503)
        #expect(down.body.contains("not up"))
        let up = await Self.endpoints(["running": .init(.bool(true))]).respond(to: AdminRequest(path: "/tunnel"))
        #expect(up.status == 200)
    }

    @Test(
        arguments: [
            (nil, 200), (.noPath, 504), (.timedOut, 504), (.unknownNode, 404), (.notRunning, 503),
        ] as [(TunnelError.Code?, Int)]
    )
    func aPingIsAnsweredWithItsPathOrTheReason(code: TunnelError.Code?, status: Int) async throws {
        let response = await Self.endpoints([:], failing: code)
            .respond(to: AdminRequest(method: .post, path: "/ping", query: ["node": "n2"]))
        #expect(response.status == status)
        guard code == nil else {
            #expect(response.body == "n2 is away\n")
            return
        }
        let reply = try Document.parseJSON(Array(response.body.utf8))
        #expect(reply["kind"]?.string == "punched")
        #expect(reply["rttMilliseconds"]?.figure == 1.5)
    }

    @Test func thePortOfTheCollectorHasNoneOfThem() async {
        for path in ["/tunnel", "/routes", "/ping"] {
            for method in [AdminRequest.Method.get, .post] {
                let request = AdminRequest(method: method, path: path, query: ["node": "n2"])
                #expect(await Self.endpoints([:]).respondToCollector(request).status == 404)
            }
        }
    }

    @Test(arguments: [
        ("default/web", "default/web"), ("web.default", "default/web"), ("web.default.svc", "default/web"),
        ("web.default.svc.cluster.local.", "default/web"), ("web", nil), ("web.default.pod", nil), ("", nil),
    ])
    func namesOfServices(text: String, name: String?) {
        #expect(AdminEndpoints.objectName(text)?.description == name)
    }

    // MARK: Routes

    private static func endpoint(
        _ address: String,
        _ conditions: EndpointConditions,
        _ node: String?
    ) throws -> Endpoint {
        Endpoint(address: try #require(IPAddress(address)), conditions: conditions, nodeName: node)
    }

    private static func service(_ endpoints: [Endpoint], trafficDistribution: String? = nil) -> Service {
        var object = ServiceObject(name: ObjectName(namespace: "default", name: "web"))
        object.ports = [.init(name: "http", port: 80)]
        object.trafficDistribution = trafficDistribution
        return Service(
            object: object,
            groups: [EndpointGroup(ports: [EndpointPort(name: "http", port: 8080)], endpoints: endpoints)],
            policy: nil,
            portPolicies: [:],
            isProxied: true
        )
    }

    private static func rows(
        _ endpoints: [Endpoint],
        served: String = "user",
        peers: Document?
    ) -> [String] {
        let service = Self.service(endpoints)
        let proxy: Document = [
            "services": [
                [
                    "service": "default/web",
                    "frontends": [["portName": "http", "path": .string(served), "reason": "why"]],
                ]
            ]
        ]
        let place = RouteRows.Place(node: "own", zone: "east")
        let document = RouteRows.document(service, reports: [proxy], peers: peers, place: place) {
            $0.nodeName == "own" ? nil : $0.nodeName
        }
        let lines = RouteRows.text(document).split(separator: "\n").map(String.init)
        #expect(lines.first == "Service   default/web")
        #expect(lines.dropFirst().first == "Served    \(served)  (why)")
        // Cells by single blanks.
        return lines.dropFirst(3).map { line in
            line.split(separator: " ", omittingEmptySubsequences: true).joined(separator: " ")
        }
    }

    @Test func eachEndpointIsServedByItsOwnWay() throws {
        let ready: EndpointConditions = [.ready, .serving]
        let rows = Self.rows(
            [
                try Self.endpoint("10.0.0.1", ready, "own"), try Self.endpoint("10.0.0.2", ready, "n2"),
                try Self.endpoint("10.0.0.3", ready, "n3"), try Self.endpoint("10.0.0.4", ready, "n4"),
                try Self.endpoint("10.0.0.5", [], "own"), try Self.endpoint("10.0.0.6", [.serving, .terminating], nil),
            ],
            peers: [
                "n2": ["state": "up", "kind": "relayed", "relay": "c1", "rttMilliseconds": 40],
                "n3": ["state": "down", "problem": "nobody answers"],
            ]
        )
        #expect(
            rows == [
                "10.0.0.1:8080 http/tcp own this node socket - -",
                "10.0.0.2:8080 http/tcp n2 - tunnel relayed via c1 40.0 ms",
                "10.0.0.3:8080 http/tcp n3 - tunnel down - node n3 is unreachable: nobody answers",
                "10.0.0.4:8080 http/tcp n4 - tunnel idle -",
                "10.0.0.5:8080 http/tcp own this node socket - - not ready",
                "10.0.0.6:8080 http/tcp - - socket - - terminating",
            ]
        )
    }

    @Test func anUnreachableNodeIsKeptIfThereIsNoOther() throws {
        let rows = Self.rows(
            [
                try Self.endpoint("10.0.0.3", [.ready], "n3"),
                try Self.endpoint("10.0.0.4", [.serving, .terminating], nil),
            ],
            peers: ["n3": ["state": "down"]]
        )
        #expect(
            rows == ["10.0.0.3:8080 http/tcp n3 - tunnel down -", "10.0.0.4:8080 http/tcp - - socket - - terminating"]
        )
    }

    @Test func withoutATunnelAllIsKernelOrSocket() throws {
        let endpoints = [try Self.endpoint("10.0.0.2", [.ready], "n2")]
        #expect(Self.rows(endpoints, peers: nil) == ["10.0.0.2:8080 http/tcp n2 - socket - -"])
        #expect(Self.rows(endpoints, served: "kernel", peers: [:]) == ["10.0.0.2:8080 http/tcp n2 - kernel - -"])
    }

    @Test func nearnessStandsBesideEachEndpointAndWhatItDoesToTheChoice() throws {
        let endpoints = try [
            ("10.0.0.1", "own", "east"), ("10.0.0.2", "n2", "east"), ("10.0.0.3", "n3", "east"),
            ("10.0.0.4", "n4", "west"),
        ].map { address, node, zone in
            var endpoint = try Self.endpoint(address, [.ready, .serving], node)
            endpoint.zone = zone
            return endpoint
        }
        let service = Self.service(endpoints, trafficDistribution: "PreferClose")
        func document(used: [String], count: Int) -> Document {
            let frontend: Document = [
                "portName": "http", "path": "user", "endpointCount": .integer(count),
                "endpoints": .array(used.map { ["address": .string("\($0):8080")] }),
            ]
            return RouteRows.document(
                service,
                reports: [["services": [["service": "default/web", "frontends": [frontend]]]]],
                peers: [
                    "n2": ["state": "up", "kind": "direct", "sameNetwork": .init(.bool(true)), "rttMilliseconds": 0.5],
                    "n3": ["state": "up", "kind": "punched", "sameNetwork": .init(.bool(false)), "rttMilliseconds": 9],
                ],
                place: RouteRows.Place(node: "own", zone: "east"),
                tunnelNode: { $0.nodeName == "own" ? nil : $0.nodeName }
            )
        }
        let routes = document(used: ["10.0.0.1", "10.0.0.2", "10.0.0.3"], count: 3)
        let rows = routes["endpoints"]?.array ?? []
        #expect(rows.map { $0["near"]?.string } == ["sameNode", "sameLAN", "sameZone", "elsewhere"])
        #expect(rows.map { $0["zone"]?.string } == ["east", "east", "east", "west"])
        #expect(rows.map { $0["leftOut"]?.string } == [nil, nil, nil, "nearer ones are preferred"])
        let text = RouteRows.text(routes)
        for words in [
            "Prefers   PreferClose, from zone east\n", "n2    same LAN, zone east  tunnel  direct   0.5 ms",
            "n3    same zone east", "n4    zone west            tunnel  idle     -       nearer ones are preferred",
        ] {
            #expect(text.contains(words), "\(words) is missing in:\n\(text)")
        }
        // Where the report lists only a part, nobody is said to be left out.
        let partial = document(used: ["10.0.0.1"], count: 70)
        #expect((partial["endpoints"]?.array ?? []).allSatisfy { $0["leftOut"]?.string == nil })
    }
}
