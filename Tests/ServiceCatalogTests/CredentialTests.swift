import HashTreeCollections
import KubeModel
import MeshCore
import Testing

@testable import ServiceCatalog

/// Secrets of a folder are told to those who ask for them, and are kept by no catalog.
@Suite struct CredentialTests {
    private static let yaml = """
        {apiVersion: v1, kind: Secret, metadata: {name: good}, data: {tls.crt: Yw==, tls.key: aw==}}
        ---
        {apiVersion: v1, kind: Secret, metadata: {name: broken}, data: {tls.crt: '%'}}
        ---
        {apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {a: b}}
        """

    private static func events(readsCredentials: Bool) -> [SourceEvent] {
        var folder = ManifestFolder()
        folder.readsCredentials = readsCredentials
        folder.update("all.yaml", bytes: Array(Self.yaml.utf8))
        return folder.events().filter { event in
            switch event {
            case .upsert, .rejected: true
            default: false
            }
        }
    }

    @Test func theyAreToldOnlyWhenAskedFor() {
        #expect(Self.events(readsCredentials: false).isEmpty)
        let events = Self.events(readsCredentials: true)
        let names = events.compactMap { event -> String? in
            if case .upsert(.credentials(let object)) = event { return "\(object)" }
            return nil
        }
        #expect(names.sorted() == ["ConfigMap default/settings", "Secret default/good"])
        #expect(events.contains { if case .rejected(let object) = $0 { object.name.name == "broken" } else { false } })
    }

    @Test func theCatalogKeepsNone() {
        let catalog = ClusterCatalog(authority: .manifests)
        let before = catalog.snapshot.version
        catalog.apply(
            Self.events(readsCredentials: true).filter { if case .upsert = $0 { true } else { false } },
            from: .manifests
        )
        #expect(catalog.snapshot.version == before)
        #expect(catalog.snapshot.gatewayResources.isEmpty && catalog.snapshot.namespaces.isEmpty)
    }
}
