import Documents
import FakeKube
import HashTreeCollections
import KubeModel
import MeshCore
import MeshTesting
import ServiceCatalog
import Testing

@testable import MeshApp

/// Routes to subsets of DestinationRules, on a cluster: which pods they go to, and what is read of pods for it.
@Suite(.serialized, .timeLimit(.minutes(4))) struct SubsetTests {
    /// The pod `live` is the backend; at `dead` nobody listens. The route leads to the subset `v2`.
    private static func fill(_ rig: GatewayRig, live: String, dead: String) throws {
        rig.kube.apply(FakeObjects.service(namespace: "shop", name: "web", clusterIP: "10.96.0.10"))
        rig.kube.apply(
            FakeObjects.endpointSlice(
                namespace: "shop",
                service: "web",
                addresses: ["127.0.0.1", rig.address],
                port: rig.backendPort,
                node: "n1",
                pods: ["live", "dead"]
            )
        )
        Self.label(rig, "live", live)
        Self.label(rig, "dead", dead)
        rig.kube.apply(FakeObjects.pod(namespace: "other", name: "live", labels: ["version": "v3"]))
        try rig.apply(rig.istio(port: 8080).replacing("{host: web,", with: "{host: web, subset: v2,"))
        try rig.apply(
            """
            apiVersion: networking.istio.io/v1
            kind: DestinationRule
            metadata: {name: web, namespace: shop}
            spec: {host: web, subsets: [{name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]}
            """
        )
    }

    private static func label(_ rig: GatewayRig, _ pod: String, _ version: String) {
        rig.kube.apply(FakeObjects.pod(namespace: "shop", name: pod, labels: ["version": version]))
    }

    private static let web = ObjectName(namespace: "shop", name: "web")

    private static func subset(_ name: String, _ catalog: ClusterCatalog) -> Set<String>? {
        catalog.snapshot.services[self.web]?.subsets[name]
    }

    private static func waitForSubset(_ rig: GatewayRig, _ pods: Set<String>?) async throws {
        try await eventually("the subset is \(pods.map { $0.sorted().description } ?? "unknown")") {
            Self.subset("v2", rig.parts.catalog) == pods
        }
    }

    private static func code(_ rig: GatewayRig) throws -> String {
        try rig.curl("/", port: 8080, "-o /dev/null -w '%{http_code}'")
    }

    @Test func aRouteGoesToThePodsThatHaveTheLabelsNow() async throws {
        try await GatewayRig.with(31) { rig in
            try Self.fill(rig, live: "v2", dead: "v1")
            try await rig.waitForListener(8080)
            try await Self.waitForSubset(rig, ["live"])
            try await eventually("the pod of the subset serves") { try Self.code(rig) == "200" }
            Self.label(rig, "live", "v1")
            try await eventually("no pod is in the subset") { try Self.code(rig) == "503" }
            Self.label(rig, "live", "v2")
            try await eventually("it is again") { try Self.code(rig) == "200" }
            rig.kube.delete("pods", namespace: "shop", name: "live")
            try await Self.waitForSubset(rig, [])

            // Of pods nothing is read but names and labels, and only where a route goes to a subset.
            let asked = rig.kube.requests.filter { $0.plural == "pods" }
            #expect(asked.allSatisfy { $0.path == "/api/v1/namespaces/shop/pods" && $0.asksForMetadata })
            #expect(asked.contains { $0.isWatch })
        }
    }

    /// Without the right to follow pods a route to a subset goes to all endpoints, as in EdgeMesh 1.17, and it is told.
    @Test func whereLabelsMayNotBeReadAllEndpointsServe() async throws {
        try await GatewayRig.with(32) { rig in
            rig.kube.setForbidden(["pods"])
            try Self.fill(rig, live: "v1", dead: "v1")
            try await rig.waitForListener(8080)
            try await eventually("it is told") {
                await rig.status["subsetProblems"]?.array?.contains {
                    $0.string?.hasPrefix("pods of shop, whose labels subsets need: ") == true
                } == true
            }
            let service = try #require(rig.parts.catalog.snapshot.services[Self.web])
            #expect(service.endpoints(for: service.object.ports[0], subset: "v2").count == 2)
        }
    }

    @Test func aStartWithoutTheAPIKnowsTheLabels() async throws {
        try await GatewayRig.with(33) { rig in
            try Self.fill(rig, live: "v2", dead: "v1")
            try await rig.waitForListener(8080)
            try await Self.waitForSubset(rig, ["live"])
            try await eventually("the state is on disk") {
                try shell("cat \(rig.parts.store.status.path)", allowFailure: true).contains(#""version":"v2""#)
            }
            await rig.kube.stop()
            let cold = ClusterCatalog(settings: rig.configuration.catalogSettings)
            await rig.parts.store.load(into: cold)
            #expect(cold.snapshot.services[Self.web]?.subsets == ["v2": ["live"], "v3": []])
        }
    }
}
