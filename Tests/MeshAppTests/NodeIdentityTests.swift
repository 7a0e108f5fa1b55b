import Admin
import Configuration
import Documents
import FakeKube
import Glibc
import LibP2P
import MeshInterfaces
import MeshTesting
import Multiformats
import Testing

@testable import EdgeTunnel
@testable import MeshApp

/// `identity: node` from end to end: an agent writes its peer ID into the cluster's record of its node, and others dial by it.
@Suite(.serialized, .timeLimit(.minutes(4))) struct NodeIdentityTests {
    private static func with(_ name: String, _ body: (ClusterAgents) async throws -> Void) async throws {
        let agents = ClusterAgents(name)
        try await agents.kube.start()
        for node in ["edge-1", "edge-2"] { agents.addNode(node) }
        do {
            try await body(agents)
        } catch {
            await agents.remove()
            throw error
        }
        await agents.remove()
    }

    private static func identity(_ configuration: inout AgentConfiguration) {
        configuration.modules.edgeTunnel.identity = .node
    }

    /// A ping proves the key: the connection is made to the peer of the record and to no other.
    private static func waitForPing(
        _ agent: ClusterAgents.Agent,
        _ other: ClusterAgents.Agent,
        _ node: String
    ) async throws {
        let peer = try other.mesh.host.peerID
        try await eventually("a ping to \(node) as \(peer)") {
            guard try agent.mesh.directory.peer(of: node) == peer else { return false }
            try ClusterAgents.introduce(other, to: agent)
            guard let path = try? await agent.tunnel.ping(node: node).path else { return false }
            return path.peer == peer.description
        }
    }

    @Test func theRecordIsWrittenReadDialledByAndRotated() async throws {
        try await Self.with("identity") { agents in
            let (one, two) = (
                try await agents.start("edge-1", Self.identity), try await agents.start("edge-2", Self.identity)
            )
            let former = try two.mesh.host.peerID
            try await eventually("both records name their peers") {
                let records = try [agents.record(of: "edge-1"), agents.record(of: "edge-2")]
                return records == [try one.mesh.host.peerID.description, former.description]
            }
            try await Self.waitForPing(one, two, "edge-2")
            try await Self.waitForPing(two, one, "edge-1")

            // Rotation: the file is removed, and the agent started again.
            await two.stop()
            #expect(unlink("\(agents.stateFolder(of: "edge-2"))/tunnel.key") == 0)
            let renewed = try await agents.start("edge-2", Self.identity)
            let present = try renewed.mesh.host.peerID
            #expect(present != former)
            try await eventually("the record names the new peer") {
                try agents.record(of: "edge-2") == present.description
            }
            try await Self.waitForPing(one, renewed, "edge-2")
            #expect(try one.mesh.directory.isRevoked(former))
            // An agent writes its own record, and no more often than it changes.
            let written = agents.kube.requests.filter { $0.method != "GET" }
            #expect(written.allSatisfy { $0.method == "PATCH" })
            #expect(written.map(\.path).sorted() == ["edge-1", "edge-2", "edge-2"].map { "/api/v1/nodes/\($0)" })
            await renewed.stop()
            await one.stop()
        }
    }

    /// MetaServer hands patches on to the cloud. Where it does not, or the cloud is away, the agent serves all the same, and the
    /// record may be written by hand.
    @Test func behindAMetaServerThatTakesNoPatchesTheRecordIsWrittenByHand() async throws {
        try await Self.with("metaserver") { agents in
            func edge(_ configuration: inout AgentConfiguration) {
                Self.identity(&configuration)
                configuration.kubeAPIConfig.master = ""
                configuration.kubeAPIConfig.mode = .edge
                configuration.kubeAPIConfig.metaServer.server = agents.kube.url
            }
            let one = try await agents.start("edge-1", edge)
            try await eventually("the record is written through it") {
                try agents.record(of: "edge-1") == one.mesh.host.peerID.description
            }
            agents.kube.inject(FakeKubeFault(.status(405), on: .patch, times: .max))
            let two = try await agents.start("edge-2", edge)
            try await eventually("a second try of the second agent") {
                agents.kube.requests.count { $0.method == "PATCH" && $0.path.hasSuffix("/edge-2") } >= 2
            }
            #expect(try agents.record(of: "edge-2") == nil)
            // It knows others meanwhile, and reaches them.
            try await Self.waitForPing(two, one, "edge-1")
            let peer = try two.mesh.host.peerID.description
            agents.kube.apply([
                "apiVersion": "v1", "kind": "Node",
                "metadata": ["name": "edge-2", "annotations": ["edgemesh.kubeedge.io/peer-id": .string(peer)]],
            ])
            try await Self.waitForPing(one, two, "edge-2")
            await two.stop()
            await one.stop()
        }
    }

    /// What `deploy/manifests` allows is what an agent asks for: nothing is missing, and nothing is too much.
    @Test(arguments: [AgentConfiguration.TunnelIdentity.derived, .node])
    func rightsAreThoseThatAnAgentUses(identity: AgentConfiguration.TunnelIdentity) async throws {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let files = ["01-rbac"] + (identity == .node ? ["04-node-identity"] : [])
        var allowed: Set<String> = []
        for file in files {
            let text = try shell("cat /\(root)/deploy/manifests/\(file).yaml")
            for role in try Document.parseYAML(Array(text.utf8)) where role["kind"]?.string == "ClusterRole" {
                for rule in role["rules"]?.array ?? [] {
                    let texts = { (key: String) in (rule[key]?.array ?? []).compactMap(\.string) }
                    for resource in texts("resources") {
                        allowed.formUnion(texts("verbs").map { "\($0) \(texts("apiGroups").joined())/\(resource)" })
                    }
                }
            }
        }
        try await Self.with("rights-\(identity.rawValue)") { agents in
            // Where the cluster has no EndpointSlices, Endpoints serve.
            for absent in [[], ["endpointslices"]] as [Set<String>] {
                agents.kube.setAbsent(absent)
                let agent = try await agents.start("edge-1") { $0.modules.edgeTunnel.identity = identity }
                let wanted = allowed.filter { $0.hasSuffix("endpoints") == !absent.isEmpty || !$0.contains("endpoint") }
                try await eventually("it follows all that it may") {
                    Set(agents.kube.requests.compactMap(\.right)).isSuperset(of: wanted)
                }
                await agent.stop()
            }
            #expect(Set(agents.kube.requests.compactMap(\.right)) == allowed)
        }
    }

    @Test func checkTellsOfRelaysThatOriginalsCannotUse() {
        var configuration = AgentConfiguration()
        configuration.commonConfig.nodeName = "cloud-1"
        configuration.modules.edgeTunnel.enable = true
        #expect(NodeCheck.identity(of: configuration).isEmpty)
        configuration.modules.edgeTunnel.identity = .node
        configuration.modules.edgeTunnel.relayNodes = [.init(nodeName: "cloud-2")]
        #expect(NodeCheck.identity(of: configuration).map { $0.found.contains("relay") } == [false])
        configuration.modules.edgeTunnel.relayNodes.append(.init(nodeName: "cloud-1"))
        #expect(NodeCheck.identity(of: configuration).map { $0.found.contains("relay") } == [true])
    }
}

extension FakeKubeRequest {
    /// As RBAC names it: verb, group and resource; nil for what is about no resource.
    fileprivate var right: String? {
        var parts = self.path.split(separator: "/").map(String.init)[...]
        let group: String
        switch parts.popFirst() {
        case "api": group = ""
        case "apis": group = parts.popFirst() ?? ""
        default: return nil
        }
        _ = parts.popFirst()
        guard let resource = parts.popFirst() else { return nil }
        let verb =
            self.method == "GET" ? (self.isWatch ? "watch" : parts.isEmpty ? "list" : "get") : self.method.lowercased()
        return "\(verb) \(group)/\(resource)"
    }
}
