import Documents
import FakeKube
import Glibc
import KubeModel
import MeshCore
import MeshTesting
import Testing

@testable import KubeClient

/// Lists and watches against the fake API server over loopback.
@Suite struct ReflectorTests {
    @Test func followsAllKinds() async throws {
        try await withFake { fake in
            fake.apply(service("web"))
            fake.apply(FakeObjects.endpointSlice(service: "web", addresses: ["10.244.0.5"]))
            fake.apply(FakeObjects.node("n1", internalIP: "192.168.1.1", podCIDR: "10.244.0.0/24"))
            fake.apply(FakeObjects.namespace("default"))
            fake.apply(FakeObjects.destinationRule(name: "web", policy: "RANDOM"))
            try await following(fake) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/web"])
                #expect(await follower.names(.endpointSlice) == ["default/web-abcde"])
                #expect(await follower.names(.node) == ["n1"])
                #expect(await follower.names(.namespace) == ["default"])
                #expect(await follower.names(.destinationRule) == ["default/web"])
                #expect(await follower.rejected == [])
                fake.apply(service("web", port: 81))
                try await eventually("the change") { await follower.service("web")?.ports.first?.port == 81 }
                fake.delete("services", namespace: "default", name: "web")
                try await eventually("the deletion") { await follower.names(.service) == [] }
            }
            let first = fake.requests.first { $0.plural == "services" }
            #expect(first?.query == ["limit": "500", "resourceVersion": "0"])
            #expect(first?.userAgent == "edgemesh/1.2.3" && first?.acceptEncoding == "gzip")
            let watch = fake.requests.first { $0.plural == "services" && $0.isWatch }
            #expect(watch?.query["allowWatchBookmarks"] == "true")
            #expect((300...600).contains(watch?.query["timeoutSeconds"].flatMap { Int($0) } ?? 0))
            // List and watch of a resource share a connection.
            #expect(Set(fake.requests.filter { $0.plural == "services" }.map(\.connection)).count == 1)
        }
    }

    @Test func listsInPages() async throws {
        try await withFake { fake in
            for number in 0..<1234 { fake.apply(service("svc-\(number)")) }
            try await following(fake) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service).count == 1234)
                #expect(await follower.syncs[.service] == 1)
                #expect(await follower.largestBatch <= Reflector.batchSize)
            }
            #expect(fake.requests.filter { $0.plural == "services" && !$0.isWatch }.count == 3)
        }
    }

    @Test func followsAFullCluster() async throws {
        try await withFake { fake in
            fake.fill(services: 600, endpoints: 10)
            try await following(fake) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service).count == 600)
                #expect(await follower.names(.endpointSlice).count == 600)
                #expect(await follower.rejected == [])
            }
        }
    }

    @Test func anExpiredContinueTokenListsAnew() async throws {
        try await withFake { fake in
            for number in 0..<1234 { fake.apply(service("svc-\(number)")) }
            // The second page is refused as expired.
            fake.inject(FakeKubeFault(.drip(bytes: 200_000, pause: .milliseconds(1)), on: .list, of: "services"))
            fake.inject(FakeKubeFault(.status(410), on: .list, of: "services"))
            try await following(fake) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service).count == 1234)
            }
            let lists = fake.requests.filter { $0.plural == "services" && !$0.isWatch }.map(\.query)
            #expect(lists.last == [:], "the third list asks for all at once: \(lists)")
        }
    }

    @Test func resumesADroppedWatchWithoutListing() async throws {
        try await withFake { fake in
            fake.apply(service("a"))
            try await following(fake) { follower in
                try await synced(follower, fake)
                fake.apply(service("b"))
                try await eventually("b") { await follower.service("b") != nil }
                fake.dropWatches()
                fake.apply(service("c"))
                fake.delete("services", namespace: "default", name: "a")
                try await eventually("c, and a gone") {
                    await follower.names(.service) == ["default/b", "default/c"]
                }
                try await synced(follower, fake)
                #expect(await follower.syncs[.service] == 1)
            }
            #expect(fake.requests.filter { $0.plural == "services" && !$0.isWatch }.count == 1)
        }
    }

    @Test func bookmarksMoveTheVersion() async throws {
        try await withFake { fake in
            fake.apply(service("a"))
            try await following(fake) { follower in
                try await synced(follower, fake)
                // Other kinds change, so that services fall behind the server's version.
                for number in 0..<5 { fake.apply(FakeObjects.namespace("n\(number)")) }
                fake.sendBookmarks()
                try await eventually("bookmarks") { !fake.hasPendingOrders }
                fake.dropWatches(of: "services")
                try await eventually("a second watch") {
                    fake.requests.filter { $0.plural == "services" && $0.isWatch }.count == 2
                }
                let versions = fake.requests.filter { $0.plural == "services" && $0.isWatch }
                    .compactMap { $0.query["resourceVersion"].flatMap { Int($0) } }
                #expect(versions.count == 2 && versions[0] + 5 <= versions[1], "\(versions)")
            }
        }
    }

    @Test(arguments: [true, false])
    func goneListsAnewAndDropsWhatWasDeleted(inMidWatch: Bool) async throws {
        try await withFake { fake in
            fake.apply(service("a"))
            fake.apply(service("b"))
            try await following(fake) { follower in
                try await synced(follower, fake)
                if inMidWatch {
                    fake.compactHistory()
                } else {
                    // What happens while the client is away and is then forgotten can only be learnt from a list.
                    await fake.stop()
                    fake.delete("services", namespace: "default", name: "a")
                    fake.compactHistory()
                    try await fake.start()
                }
                try await eventually("a second list") { await follower.syncs[.service] == 2 }
                try await synced(follower, fake)
                #expect(await follower.names(.service) == (inMidWatch ? ["default/a", "default/b"] : ["default/b"]))
            }
        }
    }

    @Test(arguments: [429, 500, 503])
    func refusalsAreRetried(code: Int) async throws {
        try await withFake { fake in
            fake.apply(service("a"))
            fake.inject(FakeKubeFault(.status(code), on: .any, times: 12))
            try await following(fake) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/a"])
                #expect(await follower.statuses.contains { $0.message?.contains("\(code)") ?? false })
            }
        }
    }

    @Test func retryAfterIsWaitedFor() async throws {
        try await withFake { fake in
            fake.inject(FakeKubeFault(.status(429, retryAfter: 1), on: .list, of: "services"))
            let began = MonotonicTime.now()
            try await following(fake) { follower in try await synced(follower, fake) }
            #expect(MonotonicTime.now() - began >= .seconds(1))
        }
    }

    @Test(
        arguments: [
            FakeKubeFault.Effect.disconnect, .truncate(bytes: 0), .truncate(bytes: 40), .truncate(bytes: 700),
            .body(Array("<html>no</html>".utf8)), .body([]), .body([0xFF, 0xFE, 0]), .body(Array("[]".utf8)),
            .body(Array(#"{"items":[1,2]}"#.utf8)), .body(Array(#"{"type":"NEW","object":{}}"#.utf8 + [0x0A])),
            .body(Array(String(repeating: "{", count: 100_000).utf8)), .drip(bytes: 1, pause: .zero),
        ]
    )
    func brokenAnswersAreGotOver(effect: FakeKubeFault.Effect) async throws {
        try await withFake { fake in
            fake.apply(service("a"))
            fake.apply(service("b"))
            fake.inject(FakeKubeFault(effect, on: .list, of: "services", times: 2))
            fake.inject(FakeKubeFault(effect, on: .watch, of: "services", times: 4))
            try await following(fake) { follower in
                try await eventually("the first list") { await follower.names(.service).count == 2 }
                fake.apply(service("c"))
                try await eventually("c") { await follower.service("c") != nil }
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/a", "default/b", "default/c"])
            }
        }
    }

    @Test func aBadObjectIsRejectedAndTheRestServed() async throws {
        try await withFake { fake in
            fake.apply(service("good"))
            var bad = service("bad")
            bad = Self.with(bad, "spec", ["ports": [["port": 70_000]]])
            fake.apply(bad)
            try await following(fake) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/good"])
                #expect(await follower.rejected.map(\.name.name) == ["bad"])
                #expect(await follower.rejected.first?.field.contains("port") ?? false)
                // A good object that turns bad keeps its last good version.
                fake.apply(Self.with(service("good"), "spec", ["ports": "none"]))
                try await eventually("a second rejection") { await follower.rejected.count == 2 }
                #expect(await follower.service("good") != nil)
                #expect(await follower.state == .synced)
            }
        }
    }

    @Test func aHugeObjectIsRefusedByName() async throws {
        try await withFake { fake in
            fake.apply(service("small"))
            let filler = String(repeating: "x", count: ListScanner.itemLimit)
            let huge = #"{"metadata":{"name":"huge","namespace":"default"},"spec":{"x":"\#(filler)"}}"#
            fake.applyRaw(Array(huge.utf8), plural: "services", namespace: "default", name: "huge")
            try await following(fake) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/small"])
                #expect(await follower.rejected.map(\.name.description) == ["default/huge"])
                fake.applyRaw(Array(huge.utf8), plural: "services", namespace: "default", name: "huge")
                try await eventually("refused on the watch") { await follower.rejected.count == 2 }
                fake.apply(service("later"))
                try await eventually("later") { await follower.service("later") != nil }
            }
        }
    }

    @Test func endpointsServeWhereThereAreNoSlices() async throws {
        try await withFake { fake in
            fake.setAbsent(["endpointslices"])
            fake.apply(FakeObjects.endpoints(name: "web", addresses: ["10.244.0.5"]))
            try await following(fake) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.endpoints) == ["default/web"])
            }
        }
    }

    @Test func olderIstioVersionsAndNoneAtAll() async throws {
        try await withFake { fake in
            fake.setAbsent(["v1/destinationrules", "v1beta1/destinationrules"])
            fake.apply(FakeObjects.destinationRule(name: "web", policy: "RANDOM"))
            try await following(fake) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.destinationRule) == ["default/web"])
            }
            fake.setAbsent(["destinationrules"])
            try await following(fake) { follower in
                try await synced(follower, fake, watches: 4)
                #expect(await follower.names(.destinationRule) == [])
                // The CRD is installed later.
                fake.setAbsent([])
                try await eventually("the rule") { await follower.names(.destinationRule) == ["default/web"] }
            }
        }
    }

    @Test func aMissingPermissionIsNamedAndItsGrantIsSeen() async throws {
        try await withFake { fake in
            fake.setForbidden(["services"])
            fake.apply(service("a"))
            try await following(fake) { follower in
                try await eventually("the message") { await follower.message.contains("permit to list services") }
                #expect(await follower.state == .connecting)
                fake.setForbidden([])
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/a"])
                #expect(await follower.message == "")
            }
        }
    }

    /// The ClusterRole of v1.17 grants pods, services, endpoints, namespaces and Istio.
    @Test func theOriginalsClusterRoleIsEnough() async throws {
        try await withFake { fake in
            fake.setForbidden(["endpointslices", "nodes"])
            fake.apply(FakeObjects.endpoints(name: "web", addresses: ["10.244.0.5"]))
            try await following(fake) { follower in
                try await synced(follower, fake, watches: 4)
                #expect(await follower.names(.endpoints) == ["default/web"])
                try await eventually("the message") {
                    await follower.message.contains("list endpointslices.discovery.k8s.io")
                }
                #expect(await follower.state == .synced)
            }
        }
    }

    @Test func anAbsentServerMakesTheStateStale() async throws {
        try await withFake { fake in
            fake.apply(service("a"))
            try await following(fake) { follower in
                try await synced(follower, fake)
                await fake.stop()
                try await eventually("stale") { await follower.state == .stale }
                #expect(await follower.message.contains(fake.url))
                #expect(await follower.service("a") != nil)
                fake.apply(service("b"))
                try await fake.start()
                try await synced(follower, fake)
                try await eventually("b") { await follower.service("b") != nil }
            }
        }
    }

    @Test func aColdMetaServerDoesNotEmptyTheCatalog() async throws {
        try await withFake { fake in
            fake.apply(service("a"))
            fake.apply(FakeObjects.endpoints(name: "a", addresses: ["10.244.0.5"]))
            fake.setHidden(["services"])
            var configuration = try KubeConfiguration.master(fake.url)
            configuration.isMetaServer = true
            var options = KubernetesSource.Options.quick
            options.knownObjects = [.service: 1]
            try await following(fake, as: configuration, options: options) { follower in
                try await eventually("doubt") { await follower.message.contains("lists no services") }
                #expect(await follower.state == .stale)
                #expect(await follower.syncs[.service] == nil)
                fake.setHidden([])
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/a"])
                #expect(await follower.names(.endpoints) == ["default/a"])
            }
            #expect(!fake.requests.contains { $0.plural == "endpointslices" })
        }
    }

    @Test(arguments: 0..<6 as Range<UInt64>)
    func noEventIsLostOverDropsAndFaults(seed: UInt64) async throws {
        var generator = SeededGenerator(seed: seed)
        try await withFake { fake in
            try await following(fake) { follower in
                try await synced(follower, fake)
                for _ in 0..<300 {
                    let name = "svc-\(Int.random(in: 0..<20, using: &generator))"
                    switch Int.random(in: 0..<12, using: &generator) {
                    case 0...6: fake.apply(service(name, port: Int.random(in: 1...65_535, using: &generator)))
                    case 7, 8: fake.delete("services", namespace: "default", name: name)
                    case 9: fake.dropWatches()
                    case 10:
                        fake.inject(
                            FakeKubeFault(.truncate(bytes: Int.random(in: 0...900, using: &generator)), on: .watch)
                        )
                    default: try await Task.sleep(for: .milliseconds(1))
                    }
                    if Int.random(in: 0..<60, using: &generator) == 0 { fake.compactHistory() }
                }
                try await eventually("the same services as the server, seed \(seed)") {
                    await follower.names(.service) == fake.keys(of: "services")
                }
                for key in fake.keys(of: "services") {
                    let name = String(key.dropFirst("default/".count))
                    let port = try Document.parseJSON(fake.json("services", namespace: "default", name: name) ?? [])[
                        "spec"
                    ]?["ports"]?.array?.first?["port"]
                    try await eventually("the port of \(name), seed \(seed)") {
                        await follower.service(name)?.ports.first.map { Int64($0.port) } == port?.integer
                    }
                }
            }
        }
    }

    @Test func theRequestRateIsBounded() async throws {
        try await withFake { fake in
            fake.inject(FakeKubeFault(.status(500), on: .list, times: 1000))
            var options = KubernetesSource.Options.quick
            options.retryDelays = .milliseconds(1) ... .milliseconds(1)
            options.requestsPerSecond = 20
            options.burst = 5
            try await following(fake, options: options) { _ in
                let began = MonotonicTime.now()
                try await eventually("15 requests") { fake.requests.count >= 15 }
                #expect(MonotonicTime.now() - began >= .milliseconds(450))
            }
        }
    }

    private static func with(_ document: Document, _ key: String, _ value: Document) -> Document {
        .object((document.members ?? []).map { $0.key == key ? .init(key, value) : $0 })
    }
}
