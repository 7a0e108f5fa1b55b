import HashTreeCollections
import KubeModel
import LoadBalancing
import MeshCore
import ServiceCatalog
import Testing

@Suite("Cluster catalog")
struct ClusterCatalogTests {
    private let catalog = ClusterCatalog()

    private func changes(_ events: [SourceEvent], from source: ObjectSource = .api) -> [Set<ObjectName>] {
        let log = UpdateLog()
        let subscription = self.catalog.subscribe { log.record($0) }
        _ = log.take()
        self.catalog.apply(events, from: source)
        subscription.cancel()
        return log.take().map(\.changedServices)
    }

    @Test("a service, its slices and its node come in any order")
    func anyOrder() {
        let objects = [
            service("d/web", clusterIP: ip(1)), slice("d/web-1", of: "web", [ip(1, 2)], node: "n1"),
            slice("d/web-2", of: "web", [ip(2, 2)], node: "n1"), node("n1", zone: "z"),
        ]
        for first in 0..<4 {
            let catalog = ClusterCatalog()
            for object in objects[first...] + objects[..<first] { catalog.apply([object.upsert], from: .api) }
            let snapshot = catalog.snapshot
            #expect(snapshot.addresses("d/web") == [ip(1, 2), ip(2, 2)])
            #expect(snapshot.service("d/web")?.groups.flatMap { $0.endpoints.map(\.zone) } == ["z", "z"])
            #expect(snapshot.servicesByClusterIP[ip(1)] == name("d/web"))
            #expect(snapshot.namespaces.contains("d"))
        }
    }

    @Test("changed services are exact, and nothing is published for nothing")
    func exactChanges() {
        let web = service("d/web", clusterIP: ip(1))
        let endpoints = slice("d/web-1", of: "web", [ip(1, 2)])
        #expect(self.changes([web.upsert, service("d/other").upsert]) == [[name("d/web"), name("d/other")]])
        #expect(self.changes([endpoints.upsert]) == [[name("d/web")]])
        let version = self.catalog.snapshot.version
        #expect(self.changes([endpoints.upsert, web.upsert]) == [])
        #expect(self.changes([slice("d/nobody-1", of: "nobody", [ip(9)]).upsert]) == [])
        // There and back within one batch is no change.
        #expect(self.changes([slice("d/web-1", of: "web", []).upsert, endpoints.upsert]) == [])
        #expect(self.changes([endpoints.deletion, endpoints.upsert]) == [])
        #expect(self.catalog.snapshot.version == version)
        #expect(self.changes([node("n1", zone: "z").upsert]) == [[]])
        #expect(self.changes([node("n1", zone: "z").upsert]) == [])
        #expect(self.changes([web.deletion]) == [[name("d/web")]])
        #expect(self.changes([web.deletion]) == [])
    }

    @Test("slices win over Endpoints, which serve again when the last slice goes")
    func slicesWin() {
        let mirrored = endpointsObject("d/web", [ip(1, 2), ip(2, 2)])
        let one = slice("d/web-1", of: "web", [ip(3, 2)])
        self.catalog.apply([service("d/web").upsert, mirrored.upsert], from: .api)
        #expect(self.catalog.snapshot.addresses("d/web") == [ip(1, 2), ip(2, 2)])
        self.catalog.apply([one.upsert], from: .api)
        #expect(self.catalog.snapshot.addresses("d/web") == [ip(3, 2)])
        self.catalog.apply([one.deletion], from: .api)
        #expect(self.catalog.snapshot.addresses("d/web") == [ip(1, 2), ip(2, 2)])
    }

    @Test("an address in several slices counts once, with its best conditions")
    func duplicates() throws {
        self.catalog.apply(
            [
                service("d/web").upsert,
                slice("d/web-1", of: "web", [ip(1, 2), ip(2, 2)], conditions: [.serving, .terminating]).upsert,
                slice("d/web-2", of: "web", [ip(2, 2), ip(3, 2)]).upsert,
                slice("d/web-3", of: "web", [ip(1, 2)], port: 9090).upsert,
            ],
            from: .api
        )
        let web = try #require(self.catalog.snapshot.service("d/web"))
        #expect(web.groups.map { $0.endpoints.map(\.address) } == [[ip(1, 2), ip(2, 2), ip(3, 2)], [ip(1, 2)]])
        #expect(web.groups[0].endpoints.map { $0.conditions.contains(.ready) } == [false, true, true])
        // Another port is another endpoint.
        let resolved = try web.endpoints(for: #require(web.object.ports.first)).map(\.transportAddress)
        #expect(resolved.count == 4 && Set(resolved).count == 4)
    }

    @Test("a slice that changes its service leaves the old one")
    func sliceMoves() {
        self.catalog.apply([service("d/a").upsert, service("d/b").upsert], from: .api)
        self.catalog.apply([slice("d/s", of: "a", [ip(1, 2)]).upsert], from: .api)
        #expect(self.changes([slice("d/s", of: "b", [ip(1, 2)]).upsert]) == [[name("d/a"), name("d/b")]])
        #expect(self.catalog.snapshot.addresses("d/a") == [])
        #expect(self.catalog.snapshot.addresses("d/b") == [ip(1, 2)])
        #expect(self.changes([.deleted(.endpointSlice, name("d/s"))]) == [[name("d/b")]])
    }

    @Test("a zone comes from the node only where the endpoint has none, and follows the node")
    func zones() {
        self.catalog.apply(
            [
                service("d/web").upsert, endpointsObject("d/web", [ip(1, 2)], node: "n1").upsert,
                service("d/own").upsert, slice("d/own-1", of: "own", [ip(2, 2)], node: "n1", zone: "own").upsert,
            ],
            from: .api
        )
        func zone(_ text: String) -> String? {
            self.catalog.snapshot.service(text)?.groups.first?.endpoints.first?.zone
        }
        #expect(self.changes([node("n1", zone: "a").upsert]) == [[name("d/web")]])
        #expect(zone("d/web") == "a" && zone("d/own") == "own")
        #expect(self.changes([node("n1", zone: "b").upsert]) == [[name("d/web")]])
        #expect(zone("d/web") == "b")
        #expect(self.changes([node("n1", zone: nil).deletion]) == [[name("d/web")]])
        #expect(zone("d/web") == nil)
    }

    @Test("a listing removes what it does not name, of its kind and its source only")
    func resync() {
        self.catalog.apply(
            [
                service("d/a").upsert, service("d/b").upsert, slice("d/a-1", of: "a", [ip(1, 2)]).upsert,
                .rejected(RejectedObject(kind: .service, name: name("d/bad"), field: "", reason: "broken")),
            ],
            from: .api
        )
        self.catalog.apply([service("d/m").upsert], from: .manifests)
        #expect(self.changes([.syncBegan(.service), service("d/a").upsert]) == [])
        #expect(self.changes([.syncEnded(.service)]) == [[name("d/b")]])
        #expect(Set(self.catalog.snapshot.services.keys) == [name("d/a"), name("d/m")])
        #expect(self.catalog.snapshot.rejected.isEmpty)
        // An end without a beginning says nothing.
        #expect(self.changes([.syncEnded(.service)]) == [])
        #expect(self.changes([.syncBegan(.endpointSlice), .syncEnded(.endpointSlice)]) == [[name("d/a")]])
        // A listing that broke off and began anew counts from its new beginning.
        #expect(self.changes([.syncBegan(.service), service("d/a").upsert, .syncBegan(.service)]) == [])
        #expect(self.changes([.syncEnded(.service)]) == [[name("d/a")]])
    }

    @Test("the last good version of a rejected object stays in force, through a listing too")
    func lastGood() {
        let bad = RejectedObject(kind: .service, name: name("d/a"), field: "spec.ports[0].port", reason: "not a port")
        self.catalog.apply([service("d/a", clusterIP: ip(1)).upsert], from: .api)
        #expect(self.changes([.rejected(bad)]) == [[]])
        #expect(self.changes([.rejected(bad)]) == [])
        #expect(self.changes([.syncBegan(.service), .rejected(bad), .syncEnded(.service)]) == [])
        #expect(self.catalog.snapshot.service("d/a")?.object.clusterIPs == [ip(1)])
        #expect(self.catalog.snapshot.rejection(.service, "d/a") == bad)
        self.catalog.apply([service("d/a", clusterIP: ip(2)).upsert], from: .api)
        #expect(self.catalog.snapshot.rejected.isEmpty)
        self.catalog.apply([.rejected(bad), .deleted(.service, name("d/a"))], from: .api)
        #expect(self.catalog.snapshot.rejected.isEmpty && self.catalog.snapshot.services.isEmpty)
    }

    @Test("the list of rejected objects is bounded")
    func rejectedBound() {
        let catalog = ClusterCatalog(settings: CatalogSettings(maximumRejected: 3))
        func bad(_ index: Int) -> SourceEvent {
            .rejected(RejectedObject(kind: .service, name: name("d/s\(index)"), field: "", reason: "broken"))
        }
        catalog.apply((0..<5).map(bad), from: .api)
        #expect(catalog.snapshot.rejected.count == 3 && catalog.snapshot.rejectedOverflow == 2)
        catalog.apply([service("d/s0").upsert, bad(4)], from: .api)
        #expect(catalog.snapshot.rejected.count == 3 && catalog.snapshot.rejectedOverflow == 2)
        #expect(catalog.snapshot.rejection(.service, "d/s4") != nil)
    }

    @Test("the API hides an equal object of the manifests, which comes back when the API deletes its own")
    func hiding() {
        let ofManifest = service("d/web", clusterIP: ip(1))
        let ofAPI = service("d/web", clusterIP: ip(2))
        for order in [[ObjectSource.api, .manifests], [.manifests, .api]] {
            let catalog = ClusterCatalog()
            for source in order { catalog.apply([(source == .api ? ofAPI : ofManifest).upsert], from: source) }
            #expect(catalog.snapshot.service("d/web")?.object.clusterIPs == [ip(2)])
            #expect(catalog.snapshot.servicesByClusterIP[ip(1)] == nil)
            catalog.apply([ofAPI.deletion], from: .api)
            #expect(catalog.snapshot.service("d/web")?.object.clusterIPs == [ip(1)])
            #expect(catalog.snapshot.service("d/web")?.source == .manifests)
            catalog.apply([ofAPI.upsert], from: .api)
            catalog.apply([ofManifest.deletion], from: .manifests)
            catalog.apply([ofAPI.deletion], from: .api)
            #expect(catalog.snapshot.services.isEmpty && catalog.snapshot.namespaces.isEmpty)
        }
    }

    @Test("hidden slices, nodes and rules come back whole")
    func hidingOfOtherKinds() {
        let given = [
            service("d/web"), slice("d/web-1", of: "web", [ip(1, 2)]), node("n", zone: "m"),
            rule("d/web", host: "web", "RANDOM"), endpointsObject("d/old", [ip(3, 2)]), service("d/old"),
        ]
        let hiding = [
            service("d/web"), slice("d/web-1", of: "web", [ip(2, 2)]), node("n", zone: "a"),
            rule("d/web", host: "web", "NONSENSE"), endpointsObject("d/old", []), service("d/old"),
        ]
        self.catalog.apply(given.map(\.upsert), from: .manifests)
        let before = self.catalog.snapshot
        self.catalog.apply(hiding.map(\.upsert), from: .api)
        #expect(self.catalog.snapshot.addresses("d/web") == [ip(2, 2)])
        #expect(self.catalog.snapshot.service("d/web")?.policy == nil)
        self.catalog.apply(hiding.map(\.deletion), from: .api)
        #expect(self.catalog.snapshot.services == before.services)
        #expect(self.catalog.snapshot.nodes == before.nodes)
        #expect(self.catalog.snapshot.rejected.isEmpty)
    }

    @Test("what the store had serves until the API has listed, then only what the API named")
    func storeIsReplaced() {
        self.catalog.apply(
            [
                service("d/a").upsert, service("d/gone").upsert, endpointsObject("d/a", [ip(1, 2)]).upsert,
                node("n", zone: nil).upsert,
            ],
            from: .store
        )
        #expect(self.catalog.snapshot.service("d/a")?.source == .store)
        #expect(self.changes([.syncBegan(.service), service("d/a").upsert]) == [[]])
        #expect(self.catalog.snapshot.service("d/gone") != nil)
        #expect(self.changes([.syncEnded(.service)]) == [[name("d/gone")]])
        #expect(self.catalog.snapshot.service("d/a")?.source == .api)
        // The API has slices; it never lists Endpoints. What the store had of them goes when the API is in step.
        #expect(self.catalog.snapshot.addresses("d/a") == [ip(1, 2)])
        #expect(self.changes([.status(SourceStatus(state: .synced, origin: "api"))]) == [[name("d/a")]])
        #expect(self.catalog.snapshot.addresses("d/a") == [] && self.catalog.snapshot.nodes.isEmpty)
        // Late words of the store change nothing.
        #expect(self.changes([service("d/a", clusterIP: ip(9)).upsert], from: .store) == [])
    }

    @Test("an object of the store that the API sends broken keeps its last good version")
    func storeKeepsLastGood() {
        self.catalog.apply([service("d/a", clusterIP: ip(1)).upsert], from: .store)
        let bad = RejectedObject(kind: .service, name: name("d/a"), field: "", reason: "broken")
        self.catalog.apply([.syncBegan(.service), .rejected(bad), .syncEnded(.service)], from: .api)
        #expect(self.catalog.snapshot.service("d/a")?.source == .api)
        #expect(self.catalog.snapshot.service("d/a")?.object.clusterIPs == [ip(1)])
    }

    @Test(
        "filter mode and labels",
        arguments: [
            ([], true, false), ([.edgeMeshProxyName], false, true), ([.headless], false, false),
            ([.edgeMeshProxyName, .headless], false, false),
        ] as [(ServiceObject.FilterLabels, Bool, Bool)]
    )
    func filterMode(labels: ServiceObject.FilterLabels, ifExists: Bool, ifDoesNotExist: Bool) {
        self.catalog.apply([service("d/a") { $0.filterLabels = labels }.upsert], from: .api)
        #expect(self.catalog.snapshot.service("d/a")?.isProxied == ifExists)
        self.catalog.update(settings: CatalogSettings(filterMode: .filterIfLabelDoesNotExists))
        #expect(self.catalog.snapshot.service("d/a")?.isProxied == ifDoesNotExist)
        let version = self.catalog.snapshot.version
        self.catalog.update(settings: CatalogSettings(filterMode: .filterIfLabelDoesNotExists))
        #expect(self.catalog.snapshot.version == version)
    }

    @Test("an address that two services claim goes to the first by name")
    func contestedClusterIP() {
        let claimants = ["d/b", "d/a", "d/c"].map { service($0, clusterIP: ip(1)) }
        self.catalog.apply(claimants.map(\.upsert), from: .api)
        #expect(self.catalog.snapshot.servicesByClusterIP[ip(1)] == name("d/a"))
        self.catalog.apply([claimants[1].deletion], from: .api)
        #expect(self.catalog.snapshot.servicesByClusterIP[ip(1)] == name("d/b"))
        self.catalog.apply([claimants[0].deletion, claimants[2].deletion], from: .api)
        #expect(self.catalog.snapshot.servicesByClusterIP.isEmpty)
    }

    @Test("subscribers see the present first, then each change in order; a slow one sees several as one")
    func subscriptions() {
        self.catalog.apply([service("d/a").upsert], from: .api)
        let log = UpdateLog()
        var subscription: CatalogSubscription? = self.catalog.subscribe { [catalog] update in
            log.record(update)
            // Called from inside a delivery: what it causes must come after, not within.
            if update.snapshot.version == 1 {
                catalog.apply([service("d/b").upsert], from: .api)
                catalog.apply([service("d/c").upsert], from: .api)
            }
        }
        let updates = log.take()
        #expect(updates.map(\.snapshot.version) == [1, 3])
        #expect(updates.map(\.changedServices) == [[name("d/a")], [name("d/b"), name("d/c")]])
        _ = subscription
        subscription = nil
        self.catalog.apply([service("d/d").upsert], from: .api)
        #expect(log.take().isEmpty)
    }

    @Test("freshness tells what serves and for how long it has been stale")
    func freshness() {
        let clock = ManualClock()
        let catalog = ClusterCatalog(clock: { clock.now })
        #expect(catalog.freshness.state == .connecting)
        catalog.apply([.status(SourceStatus(state: .stale, origin: "disk"))], from: .store)
        catalog.apply([.status(SourceStatus(state: .connecting, origin: "api"))], from: .api)
        #expect(catalog.freshness.state == .stale)
        catalog.apply([.status(SourceStatus(state: .synced, origin: "api"))], from: .api)
        clock.advance(seconds: 100)
        #expect(catalog.freshness.state == .synced)
        #expect(catalog.freshness.sources.first?.sinceSynced == .zero)
        catalog.apply([.status(SourceStatus(state: .stale, origin: "api", message: "reset"))], from: .api)
        clock.advance(seconds: 7)
        let freshness = catalog.freshness
        #expect(freshness.state == .stale)
        #expect(freshness.sources.map(\.source) == [.api], "what the store had was replaced")
        #expect(freshness.sources.first?.age == .seconds(7) && freshness.sources.first?.sinceSynced == .seconds(7))
        #expect(freshness.sources.first?.status.message == "reset")
    }
}
