import Documents
import FakeKube
import KubeClient
import KubeModel
import NIOPosix
import Testing

@Suite("Annotations of nodes")
struct NodeAnnotatorTests {
    private static let group = MultiThreadedEventLoopGroup.singleton

    private static func with(_ body: (FakeKube, NodeAnnotator) async throws -> Void) async throws {
        let fake = FakeKube()
        try await fake.start()
        let annotator = NodeAnnotator(try .master(fake.url), version: "test", group: Self.group)
        do {
            try await body(fake, annotator)
        } catch {
            await fake.stop()
            throw error
        }
        await fake.stop()
    }

    private static let node: Document = [
        "apiVersion": "v1", "kind": "Node",
        "metadata": ["name": "edge-1", "labels": ["zone": "a"], "annotations": ["other": "stays"]],
        "status": ["addresses": [["type": "InternalIP", "address": "10.0.0.1"]]],
    ]

    @Test("one annotation is set and all else stays; the model reads and keeps it")
    func sets() async throws {
        try await Self.with { fake, annotator in
            fake.apply(Self.node)
            for value in ["12D3KooWfirst", "12D3KooWsecond"] {
                try await annotator.annotate(node: "edge-1", key: NodeObject.peerIDAnnotation, value: value)
                let stored = try Document.parseJSON(try #require(fake.json("nodes", name: "edge-1")))
                let annotations = stored["metadata"]?["annotations"]
                #expect(annotations?[NodeObject.peerIDAnnotation]?.string == value)
                #expect(
                    annotations?["other"]?.string == "stays" && stored["metadata"]?["labels"]?["zone"]?.string == "a"
                )
                let decoded = try #require(try ClusterObject.decode(stored).first)
                guard case .node(let node) = decoded else { return Issue.record("no node") }
                #expect(node.peerID == value)
                #expect(try ClusterObject.decode(decoded.document) == [decoded])
            }
            #expect(fake.requests.allSatisfy { $0.method == "PATCH" && $0.path == "/api/v1/nodes/edge-1" })
        }
    }

    @Test("who may not patch nodes, or patches none, is told so")
    func refused() async throws {
        try await Self.with { fake, annotator in
            var error = await #expect(throws: KubeError.self) {
                try await annotator.annotate(node: "missing", key: "k", value: "v")
            }
            #expect(error?.code == .status(404))
            fake.setForbidden(["nodes"])
            error = await #expect(throws: KubeError.self) {
                try await annotator.annotate(node: "edge-1", key: "k", value: "v")
            }
            #expect(error?.code == .status(403) && error?.message.contains("cannot patch") == true)
        }
    }
}
