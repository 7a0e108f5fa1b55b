import KubeModel
import MeshCore
import ServiceCatalog
import Testing

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
        #expect(self.pods("v3").isEmpty)
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
        #expect(self.pods("v2").isEmpty)
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
}
