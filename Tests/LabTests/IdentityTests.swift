import Documents
import FakeKube
import Glibc
import MeshCore
import Testing

@testable import NetLab

/// Nodes of both identities in one cluster, behind an API server that they write their records to.
///
/// `old` stands for all that know a node by the key of its name alone: an agent of v1.17 if EDGEMESH_ORIGINAL_AGENT names its program,
/// else one of ours that the cluster has not told yet.
struct MixedCluster {
    static let original = getenv("EDGEMESH_ORIGINAL_AGENT").map { String(cString: $0) }
    static let nodeIdentity = "identity: node"

    let world: World
    let kube: FakeKube

    /// Builds the world and its API server; agents start one by one.
    static func run(name: String, _ body: (MixedCluster) async throws -> Void) async throws {
        var options = FakeKube.Options()
        options.host = "\(World.apiServerAddress)"
        options.port = Int(World.apiServerPort)
        let kube = FakeKube(options: options)
        try await withWorld(Self.scenario, name: name) {
            $0.apiServer = World.apiServerURL
        } _: { world in
            for object in try world.objects() { kube.apply(object) }
            let socket = try LabSocket(world.lab, on: World.apiServerHost, .tcp)
            try socket.bind("\(World.apiServerAddress)", World.apiServerPort)
            try await kube.start(on: socket.release())
            do {
                try await body(MixedCluster(world: world, kube: kube))
            } catch {
                await kube.stop()
                throw error
            }
            await kube.stop()
        }
    }

    private static var scenario: Scenario {
        Scenario(
            name: "mixed",
            lans: [
                .init(name: "cloud", nat: .open, nodes: [.init(name: "hub", isRelay: true)]),
                .init(
                    name: "plant",
                    nat: .masquerade,
                    nodes: ["old", "derived", "fresh"].map { .init(name: $0) }
                ),
                .init(name: "away", nat: .masquerade, nodes: [.init(name: "far")]),
            ]
        )
    }

    /// Starts all agents and waits until those of ours serve.
    func start() async throws {
        let ours = self.world.nodes.map(\.name).filter { $0 != "old" || Self.original == nil }
        for node in ours { try self.world.startAgent(of: node) }
        for node in ours { try await self.world.waitUntilServing(node, within: .seconds(90)) }
    }

    /// Starts the agent of `old`, if that is one of v1.17; ours runs already.
    func startOld() throws -> LabProcess {
        if let original = Self.original { return try self.world.startOriginal(original, on: "old") }
        return try self.world.startAgent(of: "old")
    }

    /// Calls of one node's pod to another's, all of which succeed or fail.
    func call(from node: String, to other: String, over mode: String, requests: Int = 8) async throws -> CallReport {
        let options = ["--requests", "\(requests)", "--timeout", "3000"]
        return try await self.world.call(from: node, to: other, over: mode, options)
    }

    /// Waits until a call is answered.
    /// - Returns: how long that took.
    @discardableResult
    func waitForCall(
        from node: String,
        to other: String,
        within deadline: Duration = .seconds(60)
    ) async throws -> Duration {
        let began = ContinuousClock.now
        try await self.world.lab.wait(for: "a call from \(node) to \(other)", within: deadline) {
            try await self.call(from: node, to: other, over: "tcp", requests: 1).succeeded == 1
        }
        return ContinuousClock.now - began
    }

    /// Each of `nodes` calls each other, by TCP and UDP.
    func expectCalls(from nodes: [String], to others: [String]) async throws {
        for node in nodes {
            for other in others where node != other {
                let time = try await self.waitForCall(from: node, to: other)
                print("\(node) reaches \(other) after \(time)")
                for mode in ["tcp", "udp"] {
                    let calls = try await self.call(from: node, to: other, over: mode)
                    #expect(calls.succeeded == 8 && calls.lost == 0, "\(node) to \(other), \(mode): \(calls)")
                }
            }
        }
    }

    func record(of node: String) -> String? {
        let object = self.kube.json("nodes", name: node).flatMap { try? Document.parseJSON($0) }
        return object?["metadata"]?["annotations"]?["edgemesh.kubeedge.io/peer-id"]?.string
    }
}

extension EndToEnd {
    /// A cluster on its way from keys that follow from names to keys that nodes have made.
    @Suite(.serialized, .timeLimit(.minutes(6))) struct IdentityTests {
        @Test func nodesOfBothIdentitiesReachEachOther() async throws {
            try await MixedCluster.run(name: "mixed") { cluster in
                // Nobody may write records yet.
                cluster.kube.inject(FakeKubeFault(.status(403), on: .patch, of: "nodes", times: .max))
                cluster.world.setTunnelSettings([MixedCluster.nodeIdentity], of: "fresh")
                try await cluster.start()
                let old = try cluster.startOld()
                let others = ["old", "derived", "hub", "far"]
                // Who has a key of its own finds those whose keys follow from their names. Not the other way round.
                try await cluster.expectCalls(from: ["fresh"], to: others)
                let early = try await cluster.call(from: "derived", to: "fresh", over: "tcp", requests: 2)
                #expect(early.succeeded == 0 && cluster.record(of: "fresh") == nil, "\(early)")

                cluster.kube.heal()
                try await cluster.expectCalls(from: others, to: ["fresh"])
                #expect(cluster.record(of: "fresh") != nil)
                try await cluster.expectCalls(from: ["old", "derived"], to: others)
                try await cluster.expectCalls(from: ["hub", "far"], to: ["old"])

                // It has forgotten whom it has met.
                try await old.kill()
                _ = try cluster.startOld()
                try await cluster.expectCalls(from: ["old"], to: ["fresh", "far"])
            }
        }

        /// The agent of a node is started again with a key of its own while others call the node.
        @Test func aNodeChangesItsIdentityWhileItIsCalled() async throws {
            try await MixedCluster.run(name: "rollout") { cluster in
                let world = cluster.world
                try await cluster.start()
                _ = try cluster.startOld()
                try await cluster.expectCalls(from: ["derived", "far", "old"], to: ["fresh"])
                var lasted = Duration.zero
                let calls = try await world.callThroughout(from: "derived", to: "fresh") {
                    let began = ContinuousClock.now
                    try await world.stopAgent(of: "fresh")
                    world.setTunnelSettings([MixedCluster.nodeIdentity], of: "fresh")
                    try world.startAgent(of: "fresh")
                    try await world.waitUntilServing("fresh", within: .seconds(60))
                    lasted = ContinuousClock.now - began
                    for node in ["far", "old"] {
                        let time = try await cluster.waitForCall(from: node, to: "fresh")
                        print("\(node) reaches the new fresh after \(time)")
                    }
                }
                // A pause of two seconds between dials, and one for handshakes. However long the start took, it is not answered for.
                let bound = CallBound(fault: lasted / .seconds(1), recovery: 3, patience: 0, callers: 10)
                print(
                    "a new identity, \(lasted): \(calls.lost) of 1,000 calls lost, gap \(calls.longestGap) (\(bound.gap))"
                )
                #expect(calls.succeeded + calls.lost == 1000 && calls.longestGap <= bound.gap, "\(calls)")
                try await cluster.expectCalls(from: ["derived", "far", "old", "hub"], to: ["fresh"])
                try await cluster.expectCalls(from: ["fresh"], to: ["derived", "far", "old", "hub"])
            }
        }
    }
}
