import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

extension World {
    /// Whether a ping from a pod or node is answered.
    func isAnswered(from host: String, _ address: String, size: Int = 56) async throws -> Bool {
        try await self.lab.run(
            on: host,
            ["busybox", "ping", "-c", "1", "-W", "2", "-s", "\(size)", address],
            deadline: .seconds(20)
        ).status.isSuccess
    }

    func waitForPing(from host: String, _ address: String, size: Int = 56) async throws {
        try await self.lab.wait(for: "a ping of \(size) bytes from \(host) to \(address)", within: .seconds(60)) {
            try await self.isAnswered(from: host, address, size: size)
        }
    }

    /// The first pod of a node that answers.
    func app(of node: String) throws -> NodeLab.Pod { try #require(self.node(node).apps.first) }

    /// Lets a pod tell everybody as whom it sees them, on a port.
    func startMirror(on pod: String, port: UInt16 = 7777) async throws {
        let mirror = try self.lab.start(
            on: pod,
            ["socat", "TCP-LISTEN:\(port),fork,reuseaddr", "SYSTEM:echo $SOCAT_PEERADDR"],
            log: "\(pod)-mirror"
        )
        try await self.lab.waitForListener(mirror, .tcp, port: port)
    }

    /// As whom a mirror sees a host.
    func seen(from host: String, by address: String) async throws -> String {
        try await self.lab.output(
            on: host,
            ["socat", "-", "TCP:\(address):7777,connect-timeout=20"],
            deadline: .seconds(40)
        )
    }

    /// Sends bytes by TCP from one pod to another.
    /// - Returns: how many have come when the stream has ended.
    func carry(_ bytes: Int, from pod: NodeLab.Pod, to other: NodeLab.Pod) async throws -> Int? {
        let deadline = Duration.seconds(100)
        async let counted = self.lab.output(
            on: other.name,
            ["sh", "-c", "socat -u TCP-LISTEN:5300,reuseaddr - | wc -c"],
            deadline: deadline
        )
        try await self.lab.output(
            on: pod.name,
            ["sh", "-c", "head -c \(bytes) /dev/zero | socat -u - TCP:\(other.address):5300,retry=600,interval=0.1"],
            deadline: deadline
        )
        return Int(try await counted.trimmed)
    }

    /// Loads a pod with datagrams for two seconds.
    /// - Returns: how many were sent, and how many were lost.
    func flood(from pod: NodeLab.Pod, to other: NodeLab.Pod) async throws -> (sent: Int64, lost: Int64) {
        let server = try self.lab.start(
            on: other.name,
            ["iperf3", "-s", "-1", "-p", "5300"],
            log: "\(other.name)-iperf"
        )
        try await self.lab.waitForListener(server, .tcp, port: 5300)
        let text = try await self.lab.output(
            on: pod.name,
            ["iperf3", "-c", "\(other.address)", "-p", "5300", "-J", "-u", "-b", "5M", "-t", "2"],
            deadline: .seconds(60)
        )
        let sum = try Document.parseJSON(Array(text.utf8), limits: .default)["end"]?["sum"]
        return (sum?["packets"]?.integer ?? 0, sum?["lost_packets"]?.integer ?? 0)
    }

    func counter(_ name: String, of node: String) async throws -> Int64 {
        try await self.status(of: node)["edgeCNI"]?["counters"]?[name]?.integer ?? 0
    }
}

/// A world of three networks whose pods reach each other, while `body` runs.
/// - Parameters:
///   - nat: of the two that are not the cloud; nil: the example's.
///   - datagrams: when packets go by them; nil: as by default.
///   - change: of the example.
func withPodNetwork(
    name: String,
    nat: NATKind? = nil,
    datagrams: String? = nil,
    change: (inout Scenario) -> Void = { _ in },
    _ body: (World) async throws -> Void
) async throws {
    var scenario = try example("pod-network").scenario
    for index in scenario.lans.indices.dropFirst() { scenario.lans[index].nat = nat ?? scenario.lans[index].nat }
    change(&scenario)
    try await withWorld(
        scenario,
        name: name,
        configure: { $0.tunnelSettings = datagrams.map { ["packetDatagrams: \($0)"] } ?? [] },
        body
    )
}

extension EndToEnd {
    /// Pods of different nodes by their own addresses.
    @Suite(.serialized, .timeLimit(.minutes(4))) struct PodNetworkTests {
        @Test func podsReachEachOtherOverAnyProtocol() async throws {
            try await withPodNetwork(name: "pods") { world in
                try await world.startAgents(within: .seconds(90))
                for (from, to) in [("north-1", "south-1"), ("cloud-1", "north-1"), ("south-1", "cloud-1")] {
                    let (client, app) = (try world.node(from).client, try world.app(of: to))
                    let address6 = try #require(app.address6)
                    try await world.waitForPing(from: client.name, "\(app.address)")
                    try await world.waitForPing(from: client.name, "\(address6)")
                    // In parts, as their device takes 1,500 bytes; up to the longest packet that there is.
                    for size in [1472, 1473, 9000, 65_000] {
                        try await world.waitForPing(from: client.name, "\(app.address)", size: size)
                    }
                    try await world.waitForPing(from: client.name, "\(address6)", size: 9000)
                    // Who calls is seen as who it is; the node itself, too.
                    try await world.startMirror(on: app.name)
                    #expect(try await world.seen(from: client.name, by: "\(app.address)") == "\(client.address)\n")
                    let number = try world.node(from).number
                    #expect(try await world.seen(from: from, by: "\(app.address)") == "10.244.\(number).1\n")

                    let datagrams = try LabSocket(world.lab, on: client.name, .udp)
                    try datagrams.connect("\(app.address)", 2702)
                    for size in [1, 1472, 4097, 32_000] {
                        let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
                        try await world.lab.wait(for: "an echo of \(size) bytes", within: .seconds(60)) {
                            try datagrams.send(bytes)
                            return (try? datagrams.receive()) == bytes
                        }
                    }
                }
                let status = try await world.status(of: "north-1")
                #expect(status["agent"]?["modules"]?["edgeCNI"]?["state"]?.string == "running", "\(status.jsonText())")
                #expect(status["edgeCNI"]?["problems"]?.array == [], "\(status["edgeCNI"]?.jsonText() ?? "")")
                #expect(try await world.counter("droppedSpoofed", of: "north-1") == 0)
            }
        }

        @Test func loadAndManyFlowsAreCarried() async throws {
            try await withPodNetwork(name: "podload") { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "cloud-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                #expect(try await world.carry(8 << 20, from: client, to: app) == 8 << 20)
                #expect(try await world.carry(8 << 20, from: app, to: client) == 8 << 20)
                let datagrams = try await world.flood(from: client, to: app)
                #expect(datagrams.lost < datagrams.sent, "\(datagrams)")

                let held = try await world.runClient(
                    on: "north-1",
                    [
                        "idle", "--target", "\(app.address):2701", "--connections", "1000", "--seconds", "2",
                        "--timeout", "60000",
                    ]
                )
                #expect(CallReport(document: held).succeeded == 1000, "\(held.jsonText())")
            }
        }

        /// A pod with large packets, a line with small ones, and the device of the tunnel between them.
        @Test func sizesOfPacketsMayDiffer() async throws {
            try await withPodNetwork(name: "podmtu") { world in
                let (client, app) = (try world.node("north-1").client, try world.app(of: "cloud-1"))
                try await world.lab.configure("north-1", ["link set dev eth0 mtu 1280"])
                for (host, device) in [(client.name, "eth0"), ("north-1", "cni0")] {
                    try await world.lab.configure(host, ["link set dev \(device) mtu 9000"])
                }
                let ports = try await world.lab.output(on: "north-1", ["ls", "/sys/class/net/cni0/brif"])
                try await world.lab.configure(
                    "north-1",
                    ports.split(whereSeparator: \.isWhitespace).map { "link set dev \($0) mtu 9000" }
                )
                try await world.startAgents(within: .seconds(90))
                try await world.waitForPing(from: client.name, "\(app.address)", size: 8900)
                #expect(try await world.carry(4 << 20, from: client, to: app) == 4 << 20)
                #expect(try await world.carry(4 << 20, from: app, to: client) == 4 << 20)
            }
        }

        enum Firewall: String, CaseIterable {
            case flannel, docker, legacy

            /// Rules that translate the sources of pods, and forward nothing that they do not know.
            var commands: [[String]] {
                switch self {
                case .flannel:
                    [
                        ["nft", "add", "table", "ip", "flannel"],
                        [
                            "nft", "add", "chain", "ip", "flannel", "post",
                            "{ type nat hook postrouting priority srcnat; }",
                        ],
                        ["nft", "add", "rule", "ip", "flannel", "post", "ip", "saddr", "10.244.1.0/24", "masquerade"],
                        ["nft", "add", "rule", "ip", "flannel", "post", "ip", "daddr", "10.244.1.0/24", "masquerade"],
                    ]
                case .docker, .legacy:
                    [
                        [self.tool, "-t", "nat", "-A", "POSTROUTING", "-s", "10.244.1.0/24", "-j", "MASQUERADE"],
                        [self.tool, "-t", "nat", "-A", "POSTROUTING", "-d", "10.244.1.0/24", "-j", "MASQUERADE"],
                        [self.tool, "-A", "FORWARD", "-i", "cni0", "-o", "cni0", "-j", "ACCEPT"],
                        [self.tool, "-P", "FORWARD", "DROP"],
                    ]
                }
            }

            private var tool: String { self == .docker ? "iptables-nft" : "iptables-legacy" }
        }

        @Test(arguments: Firewall.allCases)
        func podsKeepTheirAddressesWhateverTheHostTranslates(firewall: Firewall) async throws {
            try await withPodNetwork(name: "pod\(firewall)") { world in
                for command in firewall.commands { try await world.lab.output(on: "cloud-1", command) }
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("cloud-1").client, try world.app(of: "north-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                try await world.startMirror(on: app.name)
                #expect(try await world.seen(from: client.name, by: "\(app.address)") == "\(client.address)\n")
                // And in the other direction: flows to a pod behind the firewall.
                let (caller, called) = (try world.node("south-1").client, try world.app(of: "cloud-1"))
                try await world.waitForPing(from: caller.name, "\(called.address)")
                try await world.startMirror(on: called.name)
                #expect(try await world.seen(from: caller.name, by: "\(called.address)") == "\(caller.address)\n")
            }
        }

        @Test func onlyPodsOfTheMeshAreCapturedAndCarried() async throws {
            try await withPodNetwork(name: "podlocal") { world in
                // Another plugin's way to the pods of one node.
                try await world.lab.configure(
                    "north-1",
                    [
                        "link add flannel.1 type veth peer name other0", "link set dev flannel.1 up",
                        "route add 10.244.3.0/24 dev flannel.1",
                    ]
                )
                try await world.startAgents(within: .seconds(90))
                let cloud = try world.app(of: "cloud-1")
                try await world.waitForPing(from: "north-1-client", "\(cloud.address)")
                func route(to address: String) async throws -> String {
                    try await world.lab.output(on: "north-1", ["ip", "route", "get", address])
                }
                #expect(try await route(to: "10.244.3.10").contains("dev flannel.1"))
                #expect(try await route(to: "10.244.2.10").contains("dev cni0"))
                #expect(try await route(to: "1.1.1.2").contains("dev eth0"))
                let captured = try await route(to: "\(cloud.address)")
                #expect(captured.contains("dev edge_tun0") && captured.contains("src 10.244.2.1"), "\(captured)")

                // A source that is another node's is refused where it is sent.
                let pod = "north-1-client"
                try await world.lab.configure(pod, ["addr add 10.244.3.77/32 dev lo"])
                let answer = try await world.lab.run(
                    on: pod,
                    ["busybox", "ping", "-c", "1", "-W", "1", "-I", "10.244.3.77", "\(cloud.address)"]
                )
                #expect(!answer.status.isSuccess)
                #expect(try await world.counter("droppedForeignSource", of: "north-1") > 0)
                // To an address that no node has there is an answer: curl's exit code 7, not its 28 for a time-out.
                let nobody = try await world.lab.run(
                    on: pod,
                    ["curl", "-sS", "--max-time", "20", "http://10.244.99.9/"],
                    deadline: .seconds(40)
                )
                #expect(nobody.status == .exited(7), "\(nobody)")
            }
        }

        @Test func agentsStopAndStartAndLeaveNothing() async throws {
            try await withPodNetwork(name: "podlife") { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "south-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                func traces() async throws -> [String] {
                    let links = try await world.lab.output(on: "north-1", ["ip", "-o", "link"])
                    let tables = try await world.lab.output(on: "north-1", ["nft", "list", "tables"])
                    return ["edge_tun0", "edgemesh-cni"].filter { (links + tables).contains($0) }
                }
                #expect(try await traces() == ["edge_tun0", "edgemesh-cni"])
                try await world.waitForCarrier(from: "north-1", to: "south-1", "datagrams")
                try await world.killAgent(of: "north-1")
                #expect(try await traces() == ["edgemesh-cni"], "the device goes with its agent")
                try world.startAgent(of: "north-1")
                try await world.waitForPing(from: client.name, "\(app.address)")
                try await world.waitForCarrier(from: "north-1", to: "south-1", "datagrams")
                // The other side, whose channel has died under it.
                try await world.waitForPing(from: "south-1-client", "\(try world.app(of: "north-1").address)")

                #expect(try await world.stopAgent(of: "north-1") == .exited(0))
                #expect(try await traces().isEmpty)
                try world.startAgent(of: "north-1")
                try await world.waitForPing(from: client.name, "\(app.address)")
                try await world.killAgent(of: "north-1")
                let cleaned = try await world.runTool(on: "north-1", ["edgemesh", "cleanup"])
                #expect(cleaned.contains("edgemesh-cni"), "\(cleaned)")
                #expect(try await traces().isEmpty)
            }
        }

        /// A connection between two pods outlives a change of its node's address.
        @Test func connectionsRoam() async throws {
            try await withPodNetwork(name: "podroam") { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "south-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                let connection = try LabSocket(world.lab, on: client.name, .tcp)
                try connection.connect("\(app.address)", 2701)
                // Its first line is who answers.
                _ = try connection.receive()
                try await world.waitForCarrier(from: "north-1", to: "south-1", "datagrams")
                try await world.renumber("north-1")
                try connection.send("after\n".utf8)
                var echo = ""
                try await world.lab.wait(for: "the echo of a connection that roamed", within: .seconds(90)) {
                    if let bytes = try? connection.receive() { echo += String(decoding: bytes, as: UTF8.self) }
                    return echo.hasSuffix("after\n")
                }
            }
        }

        @Test func relaysCarryPackets() async throws {
            // No path between these can be punched.
            try await withPodNetwork(name: "podrelay", nat: .fullyRandom) { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "south-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                try await world.waitForPath(from: "north-1", to: "south-1", ["relayed"])
                // Nor can one for datagrams.
                try await world.waitForCarrier(from: "north-1", to: "south-1", "stream noWay")
                #expect(try await world.carry(4 << 20, from: client, to: app) == 4 << 20)
            }
        }
    }
}
