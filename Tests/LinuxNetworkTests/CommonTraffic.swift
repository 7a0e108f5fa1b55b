import MeshCore
import Testing

@testable import LinuxNetwork

/// What both programs are asked to do, each kind of rule once.
func commonRules() throws -> [KernelFrontend: KernelRule] {
    let nodePort = KernelFrontend(match: .nodePort(.v4), transport: .tcp, port: 30080)
    var ranged = balance(.random)
    ranged.sourceRanges = try [#require(CIDR("10.8.0.0/24"))]
    let v6Backends = try (1...3).map { try #require(TransportAddress("[fd09::\(10 + $0)]:8080")) }
    return try [
        frontend("10.96.0.1:80"): balance(.roundRobin), frontend("10.96.0.2:80"): balance(.random),
        frontend("10.96.0.3:80"): balance(.sourceHash), frontend("10.96.0.5:80"): KernelRule(action: .reject),
        frontend("10.96.0.5:80", .udp): KernelRule(action: .reject),
        frontend("10.96.0.6:80"): KernelRule(action: .drop), frontend("10.96.0.7:80"): balance(.random, 1...1),
        frontend("10.96.0.8:80"): ranged, frontend("10.96.0.9:80"): KernelRule(action: .proxy),
        frontend("10.96.0.1:53", .udp): balance(.roundRobin),
        nodePort: balance(.random, masquerade: true),
        frontend("[fd96::1]:80"): KernelRule(
            action: .balance(KernelBalancing(policy: .roundRobin, backends: v6Backends))
        ),
    ]
}

/// Calls by every policy and action of `commonRules`, but not to the proxy.
func expectCommonTraffic(_ node: LabNode) throws {
    for place in ["", "out", "p1"] {
        #expect(
            try node.call(place, 30, "10.96.0.1", 80) == ["p1": 10, "p2": 10, "p3": 10],
            "round robin from \(place)"
        )
    }
    let random = try node.call("out", 300, "10.96.0.2", 80)
    #expect(random.count == 3 && random.values.allSatisfy { (60...140).contains($0) }, "\(random)")
    #expect(try node.call("out", 20, "10.96.0.3", 80).count == 1)
    #expect(try node.call("out", 9, "10.96.0.1", 53, "udp") == ["p1": 3, "p2": 3, "p3": 3])
    // The first packets to a neighbour that is not known yet may be sent twice, and count twice.
    _ = try node.call("out", 3, "fd96::1", 80)
    #expect(try node.call("out", 9, "fd96::1", 80) == ["p1": 3, "p2": 3, "p3": 3])
    #expect(try node.call("p1", 3, "10.96.0.7", 80) == ["p1": 3], "hairpin")
    #expect(try node.call("out", 30, "10.8.0.1", 30080).keys.sorted() == ["p1", "p2", "p3"])
    #expect(
        try node.run("out", "python3 /tmp/edgemesh-test-client.py 1 10.8.0.1 30080").contains("10.9.0.1"),
        "masqueraded"
    )
    #expect(
        try node.run("out", "python3 /tmp/edgemesh-test-client.py 1 10.96.0.2 80").contains("10.8.0.2"),
        "source kept"
    )
    for place in ["", "out", "p2"] {
        #expect(try node.call(place, 1, "10.96.0.5", 80) == ["ECONNREFUSED": 1], "reject from \(place)")
        // A packet refused on its way out fails the send itself.
        let udp = place.isEmpty ? "EPERM" : "ECONNREFUSED"
        #expect(try node.call(place, 1, "10.96.0.5", 80, "udp") == [udp: 1], "reject UDP from \(place)")
    }
    #expect(try node.call("out", 1, "10.96.0.6", 80) == ["TIMEOUT": 1])
    #expect(try node.call("out", 3, "10.96.0.8", 80).values.reduce(0, +) == 3)
    #expect(try node.call("p1", 1, "10.96.0.8", 80) == ["TIMEOUT": 1], "outside the source ranges")
}

/// Something of ours that listens on the bridge for what is handed to the proxy.
func startProxy(_ node: LabNode) throws {
    try node.run(
        "",
        "sh -c 'setsid socat TCP4-LISTEN:7001,bind=169.254.96.16,fork,reuseaddr SYSTEM:\"echo proxied\" >/dev/null 2>&1 & sleep 0.5'"
    )
}
