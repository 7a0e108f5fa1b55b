import HashTreeCollections
import KubeModel
import Logging
import MeshCore
import Testing

@testable import ServiceCatalog

@Suite("Subsets")
struct SubsetTests {
    private let catalog = ClusterCatalog(settings: CatalogSettings(keepsPodNames: true))

    private func pod(_ text: String, _ labels: [String: String]) -> SourceEvent {
        var pod = PodObject(name: name(text))
        pod.labels = labels
        return .upsert(.pod(pod))
    }

    /// A slice with an endpoint for each pod, at 10.1.0.1 and on.
    private func slice(_ pods: String...) -> SourceEvent {
        let endpoints = pods.enumerated().map { Endpoint(address: ip($0.offset + 1), podName: $0.element) }
        let group = EndpointGroup(ports: [EndpointPort(port: 8080)], endpoints: endpoints)
        return .upsert(.endpointSlice(EndpointSliceObject(name: name("d/web-1"), serviceName: "web", group: group)))
    }

    private func subsets(_ subsets: [String: [String: String]]) -> SourceEvent {
        var rule = DestinationRuleObject(name: name("d/web"), host: "web")
        rule.subsets = subsets
        return .upsert(.destinationRule(rule))
    }

    private static let versions = ["v1": ["version": "v1"], "v2": ["version": "v2", "tier": "front"], "all": [:]]

    private func pods(_ subset: String?) -> [String] {
        guard let service = self.catalog.snapshot.service("d/web") else { return [] }
        return service.endpoints(for: ServiceObject.Port(port: 80), subset: subset).compactMap(\.endpoint.podName)
    }

    @Test("endpoints are those of the pods with the labels, in whichever order objects come", arguments: 0..<24)
    func orders(order: Int) {
        let events = [
            service("d/web").upsert, self.slice("a", "b", "c", "d"), self.subsets(Self.versions),
            self.pod("d/a", ["version": "v1"]),
        ]
        var rest = events
        var index = order
        while !rest.isEmpty {
            self.catalog.apply([rest.remove(at: index % rest.count)], from: .api)
            index /= rest.count + 1
        }
        self.catalog.apply(
            [
                self.pod("d/b", ["version": "v2", "tier": "front"]), self.pod("d/c", ["version": "v2"]),
                self.pod("e/d", ["version": "v1"]),
            ],
            from: .api
        )
        #expect(self.pods("v1") == ["a"] && self.pods("v2") == ["b"])
        #expect(self.pods("all") == ["a", "b", "c", "d"] && self.pods(nil) == ["a", "b", "c", "d"])
        #expect(self.pods("v3").isEmpty, "nobody has defined it")
    }

    @Test("labels that change and pods that go are told as changes of the service")
    func changes() {
        self.catalog.apply(
            [
                service("d/web").upsert, service("d/other").upsert, self.slice("a", "b"), self.subsets(Self.versions),
                self.pod("d/a", ["version": "v1"]), self.pod("d/b", ["version": "v1"]),
            ],
            from: .api
        )
        let log = UpdateLog()
        let subscription = self.catalog.subscribe { log.record($0) }
        defer { subscription.cancel() }
        func changed() -> Set<ObjectName> { log.take().reduce(into: []) { $0.formUnion($1.changedServices) } }
        _ = changed()
        #expect(self.pods("v1") == ["a", "b"])
        self.catalog.apply([self.pod("d/a", ["version": "v2", "tier": "front"])], from: .api)
        #expect(self.pods("v1") == ["b"] && self.pods("v2") == ["a"] && changed() == [name("d/web")])
        self.catalog.apply([self.pod("d/stranger", ["version": "v1"])], from: .api)
        #expect(changed().isEmpty)
        self.catalog.apply([.deleted(.pod, name("d/b"))], from: .api)
        #expect(self.pods("v1").isEmpty && self.pods(nil) == ["a", "b"] && changed() == [name("d/web")])
        self.catalog.apply([.deleted(.destinationRule, name("d/web"))], from: .api)
        #expect(self.pods("v2").isEmpty && changed() == [name("d/web")])
    }

    private func rule(_ text: String, host: String, _ subsets: [String: [String: String]]) -> SourceEvent {
        var rule = DestinationRuleObject(name: name(text), host: host)
        rule.subsets = subsets
        return .upsert(.destinationRule(rule))
    }

    @Test(
        "rules for the same host add subsets to those of the one in force; one that is bound to another service does not"
    )
    func splitRules() {
        self.catalog.apply(
            [
                service("d/web").upsert, service("d/other").upsert, self.slice("a", "b"),
                self.pod("d/a", ["version": "v1"]), self.pod("d/b", ["version": "v2"]),
                self.rule("d/web", host: "web", ["v1": ["version": "v1"]]),
                self.rule("d/more", host: "web", ["v1": ["version": "v2"], "v2": ["version": "v2"]]),
                self.rule("d/other", host: "web", ["v3": ["version": "v1"]]),
            ],
            from: .api
        )
        #expect(self.pods("v1") == ["a"] && self.pods("v2") == ["b"] && self.pods("v3").isEmpty)
        let known = self.catalog.snapshot.service("d/web")
        #expect(known?.subsetNames == ["v1", "v2"])
        #expect(self.catalog.snapshot.service("d/other")?.subsetNames == ["v3"])
        self.catalog.apply([.deleted(.destinationRule, name("d/web"))], from: .api)
        #expect(self.pods("v1") == ["b"], "the next one is in force")
    }

    @Test("where the names of pods are not kept, a subset is all endpoints")
    func withoutNames() {
        let catalog = ClusterCatalog()
        catalog.apply(
            [
                service("d/web").upsert, self.slice("a", "b"), self.subsets(Self.versions),
                self.pod("d/a", ["version": "v1"]),
            ],
            from: .api
        )
        let known = catalog.snapshot.service("d/web")
        #expect(known?.endpoints(for: ServiceObject.Port(port: 80), subset: "v1").count == 2)
        #expect(known?.endpoints(for: ServiceObject.Port(port: 80), subset: "v3").isEmpty == true)
    }

    @Test("pods of manifests come back with their labels when the API lets them go")
    func sources() {
        let labels = ["version": "v1"]
        self.catalog.apply(
            [service("d/web").upsert, self.slice("a"), self.subsets(Self.versions), self.pod("d/a", labels)],
            from: .manifests
        )
        self.catalog.apply([self.pod("d/a", [:])], from: .api)
        #expect(self.pods("v1").isEmpty)
        self.catalog.apply([.deleted(.pod, name("d/a"))], from: .api)
        #expect(self.pods("v1") == ["a"])
    }

    @Test("where nothing is known of any pod of a service, its subsets are all of it")
    func unknown() {
        self.catalog.apply([service("d/web").upsert, self.slice("a", "b"), self.subsets(Self.versions)], from: .api)
        #expect(self.pods("v1") == ["a", "b"])
        self.catalog.apply([self.pod("d/stranger", ["version": "v1"])], from: .api)
        #expect(self.pods("v1") == ["a", "b"])
        // A pod without labels is known, too.
        self.catalog.apply([self.pod("d/b", [:])], from: .api)
        #expect(self.pods("v1").isEmpty && self.pods("all") == ["a", "b"])
        self.catalog.apply([.deleted(.pod, name("d/b"))], from: .api)
        #expect(self.pods("v1") == ["a", "b"])
    }

    private static func pods(_ labels: [String: [String: String]]) -> [PodObject] {
        labels.map { key, labels in
            var pod = PodObject(name: name(key))
            pod.labels = labels
            return pod
        }
    }

    @Test("a listing of one namespace's pods says nothing of others, and those of namespaces that nobody follows go")
    func listings() {
        let v1 = ["version": "v1"]
        self.catalog.apply([service("d/web").upsert, self.slice("a", "b"), self.subsets(Self.versions)], from: .api)
        self.catalog.replacePods(Self.pods(["d/a": v1, "d/b": v1]), in: "d")
        self.catalog.replacePods(Self.pods(["e/a": [:]]), in: "e")
        #expect(self.pods("v1") == ["a", "b"])
        self.catalog.replacePods(Self.pods(["d/a": v1]), in: "d")
        #expect(self.pods("v1") == ["a"])
        self.catalog.keepPods(in: ["d"])
        #expect(self.pods("v1") == ["a"] && self.catalog.snapshot.podLabels.count == 1)
        #expect(!self.catalog.snapshot.namespaces.contains("e"))
        self.catalog.keepPods(in: [])
        #expect(self.pods("v1") == ["a", "b"] && self.catalog.snapshot.podLabels.isEmpty)
    }

    @Test(
        "the store keeps labels of pods in subsets, until the namespace's pods are listed, and only where somebody follows them"
    )
    func store() async throws {
        let folder = try TemporaryFolder()
        let store = OfflineStore(directory: folder.path, logger: Logger(label: "test"))
        let labels = ["d/a": ["version": "v1"], "d/b": ["version": "v2"], "d/stranger": ["version": "v1"]]
        let objects = [service("d/web").upsert, self.slice("a", "b"), self.subsets(Self.versions)]
        self.catalog.apply(objects, from: .api)
        self.catalog.replacePods(Self.pods(labels), in: "d")
        await store.save(self.catalog.snapshot)

        let cold = ClusterCatalog(settings: CatalogSettings(keepsPodNames: true))
        await store.load(into: cold)
        func subset() -> Set<String>? { cold.snapshot.service("d/web")?.subsets["v1"] }
        #expect(subset() == ["a"] && cold.snapshot.podLabels.count == 2)
        // The API's listing of all else does not answer for pods.
        cold.apply(objects + [.status(SourceStatus(state: .synced, origin: "api"))], from: .api)
        #expect(subset() == ["a"])
        cold.replacePods(Self.pods(["d/b": ["version": "v1"]]), in: "d")
        #expect(subset() == ["b"] && cold.snapshot.podLabels.count == 1)

        let agent = ClusterCatalog()
        await store.load(into: agent)
        #expect(agent.snapshot.service("d/web")?.groups.isEmpty == false && agent.snapshot.podLabels.isEmpty)
    }
}
