import Documents
import MeshCore
import MeshInterfaces
import Testing

@testable import Admin

@Suite struct TunnelTextTests {
    @Test func aNodeIsALineThatSaysHowItIsReachedAndWhatIsWrong() {
        let text = TunnelText.peers([
            "peers": [
                "cloud-1": [
                    "state": "up", "kind": "direct", "relay": nil, "rttMilliseconds": 0.421, "loss": 0.0,
                    "forSeconds": 7300, "flows": 3, "agent": "edgemesh", "problem": nil,
                    "packets": ["by": "datagrams", "reason": nil],
                ],
                "north-2": [
                    "state": "up", "kind": "relayed", "relay": "cloud-1", "rttMilliseconds": 40.26, "loss": 0.004,
                    "forSeconds": 5, "flows": 0, "agent": "original", "problem": nil,
                    "packets": ["by": "stream", "reason": "original"],
                ],
                "south-1": ["state": "down", "loss": 1.0, "problem": "dial timed out"],
            ]
        ])
        #expect(
            text == """
                NODE     STATE  PATH                 RTT      LOSS   FOR        FLOWS  PACKETS            AGENT     PROBLEM
                cloud-1  up     direct               0.42 ms  0 %    2 h 1 min  3      datagrams          edgemesh
                north-2  up     relayed via cloud-1  40.3 ms  <1 %   5 s        0      stream (original)  original
                south-1  down   -                    -        100 %  -          -      -                  -         dial timed out

                """
        )
        #expect(TunnelText.peers([:]).contains("No other node was met yet"))
    }

    @Test(arguments: [(0, "0 %"), (0.001, "<1 %"), (0.25, "25 %"), (1, "100 %"), (7, "100 %")])
    func shares(share: Double, text: String) { #expect(TunnelText.percent(share) == text) }

    // MARK: Ping

    private static func reply(_ kind: NodePath.Kind, _ relay: String?, milliseconds: Int) -> Document {
        var path = NodePath(state: .up, peer: "12D3", since: MonotonicTime(nanoseconds: 0))
        path.kind = kind
        path.relay = relay
        return PingReport.reply(from: "n2", path, .milliseconds(milliseconds))
    }

    @Test func pingTellsTheMomentAtWhichThePathTurnsDirect() {
        var report = PingReport(node: "n2")
        let first = report.answered(Self.reply(.relayed, "c1", milliseconds: 40), after: 0)
        #expect(first.map(\.text) == ["n2: reply 1 in 40.0 ms, relayed via c1"])
        let lost = report.unanswered("there is no path")
        #expect(lost.text == "n2: no reply to 2: there is no path")
        let third = report.answered(Self.reply(.punched, nil, milliseconds: 10), after: 2.04)
        #expect(
            third.map(\.text) == [
                "n2: the path turned direct (punched) after 2.0 s; it was relayed via c1",
                "n2: reply 3 in 10.0 ms, punched",
            ]
        )
        #expect(third.map { $0.document["event"]?.string } == ["turnedDirect", "reply"])
        let fourth = report.answered(Self.reply(.relayed, "c2", milliseconds: 70), after: 3)
        #expect(fourth.first?.text == "n2: the path is relayed via c2 now after 3.0 s; it was punched")
        #expect(
            report.summary.text
                == "n2: 4 sent, 3 answered, 25 % lost; round trip 10.0 ms, 40.0 ms, 70.0 ms (least, mean, most); by path: relayed via c1 1, punched 1, relayed via c2 1"
        )
        #expect(report.summary.document["meanMilliseconds"]?.figure == 40)
    }

    @Test func pingWithoutAnAnswerSaysSo() {
        var report = PingReport(node: "n2")
        #expect(report.summary.text == "n2: 0 sent, 0 answered, 0 % lost")
        _ = report.unanswered("x")
        #expect(report.summary.text == "n2: 1 sent, 0 answered, 100 % lost")
    }

    // MARK: Netcheck

    /// What the peers 192.0.2.101, 192.0.2.102 and so on have seen.
    private static func sightings(_ seen: [String], local: String = "/ip4/10.0.0.2/tcp/10006") -> [Document] {
        zip(101..., seen).map { number, seen in
            ["seen": .string(seen), "local": .string(local), "by": .string("192.0.2.\(number)")]
        }
    }

    @Test(arguments: [
        ([], false, "unknown"), ([], true, "none"), (["/ip4/192.0.2.1/tcp/10006"], false, "portPreserving"),
        (["/ip4/192.0.2.1/tcp/4001"], false, "unknown"),
        (["/ip4/192.0.2.1/tcp/10006", "/ip4/192.0.2.1/tcp/10006"], false, "endpointIndependent"),
        (["/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/tcp/4001"], true, "endpointIndependent"),
        (["/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/tcp/4002"], false, "endpointDependent"),
        // Two ways to the internet.
        (["/ip4/192.0.2.1/tcp/10006", "/ip4/198.51.100.1/tcp/10006"], false, "portPreserving"),
        // Within its network a node is seen as it is; IPv6 is not translated.
        (["/ip4/10.0.0.2/tcp/4001"], true, "none"), (["/ip6/2001:db8::1/tcp/7"], false, "unknown"),
        (["nonsense"], false, "unknown"),
    ])
    func theKindOfNATFollowsFromWhatPeersSaw(seen: [String], isPublic: Bool, kind: String) {
        let sightings = Self.sightings(seen).compactMap { Netcheck.NATKind.Sighting($0) }
        #expect(Netcheck.NATKind(sightings, isPublic: isPublic).rawValue == kind)
    }

    @Test func addressesOfItsOwnAreTold() {
        let check = Netcheck.document(["public": ["/ip4/192.0.2.9/tcp/1"], "transport": "tcp"])
        #expect(check["nat"]?.string == "none" && check["publicIPv6"]?.bool == false)
        #expect(Netcheck.text(check).contains("IPv6      no public address\nTransport tcp, TCP alone"))
        let second = Netcheck.document(["public": ["/ip6/2001:db8::1/tcp/1"]])
        #expect(second["nat"]?.string == "unknown" && Netcheck.text(second).contains("IPv6      public addresses"))
    }

    private static func report(_ members: [Document.Member], forSeconds: Int = 300) -> Document {
        .object(
            members + [
                .init("listening", ["/ip4/10.0.0.2/tcp/10006"]),
                .init(
                    "peers",
                    [
                        "n2": [
                            "kind": "relayed", "relay": "c1", "rttMilliseconds": 40,
                            "forSeconds": .integer(forSeconds),
                        ], "n3": ["kind": "direct"],
                    ]
                ),
            ]
        )
    }

    @Test(
        "what keeps a path from being direct",
        arguments: [
            ([.init("reachability", "private")], 5, "relayed for 5 s only", "edgemesh ping n2"),
            (
                [.init("reachability", "public"), .init("advertised", ["/ip4/192.0.2.9/tcp/10006"])], 300,
                "n2 does not dial it", "pass connections to /ip4/192.0.2.9/tcp/10006"
            ),
            ([.init("holePunching", .init(.bool(false)))], 300, "hole punching is off", "holePunching: true"),
            (
                // What is certain is told at once.
                [.init("sightings", .array(sightings(["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/2"])))], 5,
                "another port for each destination", "portMapping"
            ),
            ([.init("reachability", "private")], 300, "nothing is found on this side", "netcheck` on n2"),
        ] as [([Document.Member], Int, String, String)]
    )
    func blocks(members: [Document.Member], seconds: Int, problem: String, advice: String) {
        let text = Netcheck.text(Netcheck.document(Self.report(members, forSeconds: seconds)))
        #expect(text.contains("n2, via c1, 40.0 ms\n  ! "))
        #expect(text.contains(problem) && text.contains(advice), "\(text)")
        #expect(!text.contains("n3"), "a direct path is not blocked")
    }

    @Test func relaysAreShownWithWhatTheyLack() {
        let text = Netcheck.text(
            Netcheck.document([
                "reachability": "private",
                "relays": [
                    [
                        "node": "c1", "origin": "configured", "connected": true, "rttMilliseconds": 20.0,
                        "reservedUntil": 1_900_000_000,
                    ],
                    ["node": "c2", "origin": "volunteer", "connected": true],
                    ["node": "c3", "connected": false, "addresses": ["/ip4/192.0.2.3/tcp/10006"]],
                ],
            ])
        )
        for words in [
            "peers cannot dial this node", "c1     reserved                   20.0 ms  configured",
            "c2     connected, no reservation  -        volunteer",
            "! c3 is not connected\n  -> let this node connect to /ip4/192.0.2.3",
        ] {
            #expect(text.contains(words), "\(words) is missing in:\n\(text)")
        }
        #expect(!text.contains("no relay is known"))
        #expect(Netcheck.text(Netcheck.document([:])).contains("relayNodes"))
    }
}
