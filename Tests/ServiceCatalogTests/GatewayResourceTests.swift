import Documents
import HashTreeCollections
import KubeModel
import Logging
import MeshCore
import Testing

@testable import ServiceCatalog

@Suite("Objects of the edge gateway in the catalog")
struct GatewayResourceTests {
    private static func objects(_ path: String) throws -> [ClusterObject] {
        let text = """
            apiVersion: networking.istio.io/v1
            kind: Gateway
            metadata: {name: web, namespace: shop, generation: 3}
            spec: {servers: [{port: {number: 80, protocol: HTTP}, hosts: ["*"]}]}
            ---
            apiVersion: gateway.networking.k8s.io/v1
            kind: Gateway
            metadata: {name: web, namespace: shop}
            spec: {gatewayClassName: edge}
            ---
            apiVersion: gateway.networking.k8s.io/v1
            kind: HTTPRoute
            metadata: {name: web, namespace: shop}
            spec: {parentRefs: [{name: web}], rules: [{matches: [{path: {value: \(path)}}]}]}
            ---
            apiVersion: v1
            kind: Namespace
            metadata: {name: shop, labels: {team: a}}
            """
        return try Document.parseYAML(Array(text.utf8)).flatMap { try ClusterObject.decode($0) }
    }

    private static func key(_ kind: ObjectKind) -> CatalogSnapshot.RejectedKey {
        CatalogSnapshot.RejectedKey(kind: kind, name: ObjectName(namespace: "shop", name: "web"))
    }

    @Test("Kept by kind, changed, taken away")
    func lifecycle() throws {
        let catalog = ClusterCatalog(followsManifests: false)
        catalog.apply(try Self.objects("/a").map { .upsert($0) }, from: .api)
        #expect(Set(catalog.snapshot.gatewayResources.keys.map(\.kind)) == [.istioGateway, .gateway, .httpRoute])
        #expect(catalog.snapshot.namespaceLabels["shop"] == ["team": "a"])
        let version = catalog.snapshot.version
        catalog.apply(try Self.objects("/a").map { .upsert($0) }, from: .api)
        #expect(catalog.snapshot.version == version)
        catalog.apply(try Self.objects("/b").map { .upsert($0) }, from: .api)
        #expect(catalog.snapshot.version == version + 1)
        catalog.apply([.deleted(.gateway, Self.key(.gateway).name)], from: .api)
        #expect(Set(catalog.snapshot.gatewayResources.keys.map(\.kind)) == [.istioGateway, .httpRoute])
        catalog.apply([.syncBegan(.httpRoute), .syncEnded(.httpRoute)], from: .api)
        #expect(catalog.snapshot.gatewayResources[Self.key(.httpRoute)] == nil)
    }

    @Test("The last good state on disk has them")
    func stored() async throws {
        let folder = try TemporaryFolder()
        let store = OfflineStore(directory: folder.path, logger: Logger(label: "test"))
        let catalog = ClusterCatalog(followsManifests: false)
        catalog.apply(try Self.objects("/a").map { .upsert($0) }, from: .api)
        await store.save(catalog.snapshot)
        let restored = ClusterCatalog(followsManifests: false)
        await store.load(into: restored)
        #expect(restored.snapshot.gatewayResources == catalog.snapshot.gatewayResources)
        #expect(restored.snapshot.gatewayResources.count == 3)
        #expect(restored.snapshot.namespaceLabels["shop"] == ["team": "a"])
    }

    @Test("What manifests say gives way to the API and comes back")
    func manifests() throws {
        let catalog = ClusterCatalog()
        catalog.apply(try Self.objects("/folder").map { .upsert($0) }, from: .manifests)
        let own = catalog.snapshot.gatewayResources[Self.key(.httpRoute)]
        catalog.apply(try Self.objects("/api").map { .upsert($0) }, from: .api)
        #expect(catalog.snapshot.gatewayResources[Self.key(.httpRoute)] != own)
        catalog.apply([.deleted(.httpRoute, Self.key(.httpRoute).name)], from: .api)
        #expect(catalog.snapshot.gatewayResources[Self.key(.httpRoute)] == own)
    }
}
