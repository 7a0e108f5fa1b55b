import Documents
import MeshInterfaces
import Testing

@testable import Admin

@Suite struct TextTests {
    @Test func columnsLineUpAndLinesEndWithoutBlanks() {
        var table = TextTable(header: ["NAME", "B", "LAST"])
        table.add(["a", "", "x"])
        table.add(["longer name", "2", ""])
        #expect(table.text == "NAME         B  LAST\na               x\nlonger name  2\n")
    }

    @Test func prometheusGroupsNamesAndEscapes() {
        let text = PrometheusText.render([
            .init(name: "edgemesh_b_total", kind: .counter, help: "", labels: ["k": "a\"b\\c\n"], value: 2),
            .init(name: "edgemesh_a", kind: .gauge, help: "First\nline", value: 1.5),
            .init(name: "edgemesh_b_total", kind: .counter, help: "", labels: ["k": "z", "a": "y"], value: 1e15),
        ])
        #expect(
            text == #"""
                # HELP edgemesh_a First\nline
                # TYPE edgemesh_a gauge
                edgemesh_a 1.5
                # TYPE edgemesh_b_total counter
                edgemesh_b_total{k="a\"b\\c\n"} 2
                edgemesh_b_total{a="y",k="z"} 1000000000000000

                """#
        )
    }

    @Test func countersOfAStatusBecomeMetrics() {
        let status: Document = [
            "counters": ["cacheHits": 3, "queriesTotal": 4, "text": "no"], "gauges": ["openSessions": 7, "rate": 0.5],
            "other": 1,
        ]
        let samples = MetricSample.samples(ofStatus: status, subsystem: "edgeDNS")
        #expect(
            samples.map(\.name) == [
                "edgemesh_dns_cache_hits_total", "edgemesh_dns_queries_total", "edgemesh_dns_open_sessions",
                "edgemesh_dns_rate",
            ]
        )
        #expect(samples.map(\.value) == [3, 4, 7, 0.5])
        #expect(samples.map(\.kind) == [.counter, .counter, .gauge, .gauge])
    }

    @Test(arguments: [
        (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (11_100, "3 h 5 min"), (180_000, "2 d 2 h"),
    ])
    func durations(seconds: Int64, text: String) {
        #expect(StatusText.duration(seconds) == text)
    }

    @Test func listenersAndFindingsOfTheGatewayAreShown() {
        let finding: Document = [
            "severity": "error", "kind": "Gateway", "name": "shop/edge", "field": "spec.listeners[0]",
            "message": "no such",
        ]
        let status: Document = [
            "agent": ["role": "gateway", "version": "v1", "node": "n1"],
            "edgeGateway": [
                "listeners": [
                    ["address": "0.0.0.0:80/tcp", "origins": ["Gateway shop/edge"]],
                    ["address": "0.0.0.0:81/tcp", "problem": "address in use", "origins": []],
                ],
                "findings": .array(Array(repeating: finding, count: 21)), "findingsOmitted": 3,
                "credentialProblems": ["Secret shop/cert: forbidden"],
            ],
        ]
        let text = StatusText.overview(status)
        for words in [
            "Gateway  v1 on n1", "0.0.0.0:80/tcp  open                      Gateway shop/edge",
            "0.0.0.0:81/tcp  not open: address in use  -",
            "error    Gateway shop/edge  spec.listeners[0]  no such", "... and 4 more: `edgemesh analyze` lists all",
            "Warning: edgeGateway does not listen on 0.0.0.0:81/tcp: address in use",
            "Warning: edgeGateway: Secret shop/cert: forbidden",
        ] { #expect(text.contains(words), "\(words)\nin\n\(text)") }
        #expect(StatusText.overview(["edgeGateway": [:]]).contains("The gateway listens nowhere"))
    }

    @Test func statusIsReadLeniently() {
        #expect(StatusText.overview([:]).contains("No services are known"))
        let text = StatusText.overview([
            "agent": [
                "version": "v1", "node": "n1", "uptimeSeconds": 60,
                "sources": [["state": "stale", "message": "refused"]],
                "modules": ["edgeDNS": ["state": "running"]], "warnings": ["edgeTunnel is not served by this build"],
                "config": ["file": "/c.yaml", "error": "line 3", "restartNeeded": ["a.b"]],
            ],
            "services": [
                [
                    "namespace": "default", "name": "web", "addresses": ["10.0.0.1"], "ports": ["80/tcp"],
                    "endpoints": 3,
                    "ready": 2, "path": "kernel",
                ]
            ],
            "servicesOmitted": 4, "rejectedOmitted": 17,
            "rejected": [["kind": "Service", "name": "a/b", "field": "spec", "reason": "bad"]],
            "edgeDNS": [
                "queries": ["overUDP": 12, "byType": ["AAAA": 11]], "forwarding": ["timeouts": 3],
                "notListening": ["udp://169.254.96.16:53": "address in use"], "problems": ["no upstream is known"],
                "upstreams": [
                    ["address": "10.0.0.1:53", "state": "up"],
                    ["address": "10.0.0.2:53", "state": "down", "consecutiveFailures": 7],
                    ["address": "10.0.0.3:53", "state": "looping"],
                ],
            ],
            "edgeProxy": [
                "gauges": ["connectionsOpen": 5], "counters": ["dialsFailed": 6],
                "kernel": ["lastError": "no such table"],
                "conflicts": [["frontend": "10.96.0.1:80/tcp", "served": "a/b", "ignored": "c/d"]],
            ],
        ])
        #expect(!text.contains("10.0.0.1:53"), "what is well needs no warning")
        for words in [
            "v1 on n1, up 60 s", "stale", "(refused)", "edgeDNS", "not in force: line 3", "needed for a.b", "10.0.0.1",
            "2/3", "kernel", "--limit 5", "a/b", "... and 17 more", "edgeTunnel is not served",
            "queries.overUDP      12", "queries.byType.AAAA  11",
            "forwarding.timeouts  3", "connectionsOpen  5", "dialsFailed      6",
            "Warning: edgeDNS does not listen on udp://169.254.96.16:53: address in use",
            "Warning: edgeDNS: no upstream is known", "10.0.0.2:53 does not answer (7 failures",
            "10.0.0.3:53 sends our queries back", "last good ones stay: no such table",
            "two services claim 10.96.0.1:80/tcp: a/b is served, c/d is not",
        ] {
            #expect(text.contains(words), "\(words) is missing in:\n\(text)")
        }
    }
}
