import Glibc
import HashTreeCollections
import KubeModel
import Logging
import MeshCore
import Testing

@testable import ServiceCatalog

private func serviceText(_ name: String, _ clusterIP: String, port: String = "80") -> String {
    """
    apiVersion: v1
    kind: Service
    metadata: {name: \(name), namespace: d}
    spec:
      clusterIP: \(clusterIP)
      selector: {app: \(name)}
      ports: [{port: \(port), targetPort: 8080}]

    """
}

private func podText(_ name: String, app: String, ip: String) -> String {
    """
    apiVersion: v1
    kind: Pod
    metadata: {name: \(name), namespace: d, labels: {app: \(app)}}
    status: {podIP: \(ip)}

    """
}

@Suite("Folder of manifests")
struct ManifestFolderTests {
    private let catalog = ClusterCatalog()

    /// Applies what the folder says now and returns it.
    @discardableResult
    private func apply(_ folder: inout ManifestFolder) -> [SourceEvent] {
        let events = folder.events()
        self.catalog.apply(events, from: .manifests)
        return events
    }

    private func reasons() -> [String] { self.catalog.snapshot.rejected.values.map(\.reason).sorted() }

    @Test("documents of all files become objects, pods become endpoints, other kinds are skipped")
    func objects() {
        var folder = ManifestFolder()
        folder.update(
            "a.yaml",
            bytes: Array(
                """
                ---
                \(serviceText("web", "10.1.0.1"))
                ---
                # nothing
                ---
                apiVersion: apps/v1
                kind: Deployment
                metadata: {name: web}
                ---
                \(podText("web-0", app: "web", ip: "10.2.0.1"))
                """.utf8
            )
        )
        folder.update(
            "b.json",
            bytes: Array(
                """
                {"apiVersion": "v1", "kind": "List", "items": [
                  {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}},
                  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": "d", "labels": {"app": "web"}},
                   "status": {"podIP": "10.2.0.2"}}
                ]}
                """.utf8
            )
        )
        let events = self.apply(&folder)
        #expect(events.first == .syncBegan(.service) && events.contains(.syncEnded(.destinationRule)))
        #expect(self.catalog.snapshot.addresses("d/web") == [ip(1, 2), ip(2, 2)])
        #expect(self.catalog.snapshot.namespaces == ["d", "n"])
        #expect(self.reasons() == [])
        #expect(self.apply(&folder) == [])
    }

    @Test(
        "files for a cluster with Istio's kinds: what the mesh does not use is skipped, a rule's host may be a Deployment"
    )
    func clusterFiles() {
        var folder = ManifestFolder()
        folder.update(
            "app.yaml",
            bytes: Array(
                """
                apiVersion: apps/v1
                kind: Deployment
                metadata: {name: names-deployment}
                spec:
                  replicas: 3
                  template:
                    spec:
                      affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}
                      containers: [{name: names, ports: [{containerPort: 9376, hostPort: 9376}]}]
                ---
                apiVersion: v1
                kind: Service
                metadata: {name: names}
                spec:
                  selector: {app: names}
                  ports: [{name: http-0, port: 12345, protocol: TCP, targetPort: 9376}]
                ---
                apiVersion: networking.istio.io/v1alpha3
                kind: DestinationRule
                metadata: {name: names}
                spec:
                  host: names-deployment
                  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: User-Agent}}}
                ---
                apiVersion: networking.istio.io/v1alpha3
                kind: Gateway
                metadata: {name: gw}
                spec: {selector: {kubeedge: edgemesh-gateway}, servers: [{port: {number: 23333, name: http-0, protocol: HTTP}, hosts: ["*"]}]}
                ---
                apiVersion: networking.istio.io/v1alpha3
                kind: VirtualService
                metadata: {name: vs}
                spec: {hosts: ["*"], gateways: [gw], http: [{match: [{uri: {prefix: /}}], route: [{destination: {host: names, port: {number: 12345}}}]}]}
                ---
                apiVersion: v1
                kind: ConfigMap
                metadata: {name: conf}
                data: {a.conf: "server { listen 443 ssl; }"}
                """.utf8
            )
        )
        let events = self.apply(&folder)
        #expect(self.reasons() == [] && events.contains(.syncEnded(.service)))
        #expect(self.catalog.snapshot.service("default/names")?.policy != nil)
    }

    @Test("a file's objects replace its former ones; given endpoints end synthesis")
    func replacement() {
        var folder = ManifestFolder()
        folder.update(
            "a.yaml",
            bytes: Array("\(serviceText("web", "10.1.0.1"))---\n\(podText("p", app: "web", ip: "10.2.0.1"))".utf8)
        )
        self.apply(&folder)
        #expect(self.catalog.snapshot.addresses("d/web") == [ip(1, 2)])
        folder.update(
            "b.yaml",
            bytes: Array(
                """
                apiVersion: v1
                kind: Endpoints
                metadata: {name: web, namespace: d}
                subsets: [{addresses: [{ip: 10.2.0.9}], ports: [{port: 8080}]}]
                """.utf8
            )
        )
        self.apply(&folder)
        #expect(self.catalog.snapshot.addresses("d/web") == [ip(9, 2)])
        folder.remove("b.yaml")
        folder.update("a.yaml", bytes: Array(serviceText("api", "10.1.0.2").utf8))
        self.apply(&folder)
        #expect(Set(self.catalog.snapshot.services.keys) == [name("d/api")])
        #expect(self.catalog.snapshot.servicesByClusterIP[ip(1)] == nil)
        folder.remove("a.yaml")
        self.apply(&folder)
        #expect(self.catalog.snapshot.services.isEmpty && self.catalog.snapshot.namespaces.isEmpty)
    }

    @Test("a broken document keeps its last good object; the others of its file change")
    func brokenDocument() {
        var folder = ManifestFolder()
        func write(_ web: String, _ api: String) {
            folder.update("a.yaml", bytes: Array("\(web)---\n\(api)".utf8))
            self.apply(&folder)
        }
        write(serviceText("web", "10.1.0.1"), serviceText("api", "10.1.0.2"))
        write(serviceText("web", "10.1.0.1", port: "99999"), serviceText("api", "10.1.0.3"))
        #expect(self.catalog.snapshot.service("d/web")?.object.clusterIPs == [ip(1)])
        #expect(self.catalog.snapshot.service("d/api")?.object.clusterIPs == [ip(3)])
        #expect(
            self.catalog.snapshot.rejection(.service, "d/web")?.reason.hasPrefix("a.yaml:7:") == true,
            "\(self.reasons())"
        )
        // The same error at another line is told anew; mended to what it was, the rejection goes.
        write(serviceText("web", "10.1.0.1"), serviceText("api", "10.1.0.3"))
        #expect(self.reasons() == [])
        // Broken from its first version on, and then gone.
        folder.update("b.yaml", bytes: Array(serviceText("bad", "10.1.0.9", port: "0").utf8))
        self.apply(&folder)
        #expect(
            self.catalog.snapshot.rejection(.service, "d/bad") != nil && self.catalog.snapshot.service("d/bad") == nil
        )
        folder.remove("b.yaml")
        self.apply(&folder)
        #expect(self.reasons() == [])
    }

    @Test(
        "a file that cannot be understood keeps all its last good objects and says where it is broken",
        arguments: [
            "kind: [", "a: b: c", "\u{1}", "apiVersion: v1\nkind: Service\nspec: {}\n", "just text", "kind: Service\n",
        ]
    )
    func brokenFile(text: String) {
        var folder = ManifestFolder()
        folder.update("a.yaml", bytes: Array(serviceText("web", "10.1.0.1").utf8))
        self.apply(&folder)
        folder.update("a.yaml", bytes: Array(text.utf8))
        self.apply(&folder)
        #expect(self.catalog.snapshot.service("d/web")?.object.clusterIPs == [ip(1)])
        #expect(self.reasons().count == 1 && self.reasons().allSatisfy { $0.hasPrefix("a.yaml:") }, "\(self.reasons())")
        folder.update("a.yaml", bytes: Array(serviceText("web", "10.1.0.1").utf8))
        self.apply(&folder)
        #expect(self.reasons() == [])
        folder.update("a.yaml", bytes: [])
        self.apply(&folder)
        #expect(self.catalog.snapshot.services.isEmpty)
    }

    @Test("of two equal objects the first by file name counts, whichever came first")
    func duplicates() {
        for order in [["a.yaml", "b.yaml"], ["b.yaml", "a.yaml"]] {
            let catalog = ClusterCatalog()
            var folder = ManifestFolder()
            for file in order {
                folder.update(file, bytes: Array(serviceText("web", file == "a.yaml" ? "10.1.0.1" : "10.1.0.2").utf8))
                catalog.apply(folder.events(), from: .manifests)
            }
            #expect(catalog.snapshot.service("d/web")?.object.clusterIPs == [ip(1)])
            let reasons = catalog.snapshot.rejected.values.map(\.reason)
            #expect(reasons == ["b.yaml:1: Service d/web is already in a.yaml, which counts"])
            folder.remove("a.yaml")
            catalog.apply(folder.events(), from: .manifests)
            #expect(catalog.snapshot.service("d/web")?.object.clusterIPs == [ip(2)])
            #expect(catalog.snapshot.rejected.isEmpty)
        }
    }
}

@Suite("Manifest source")
struct ManifestSourceTests {
    private let folder: TemporaryFolder

    init() throws {
        self.folder = try TemporaryFolder()
    }

    @Test("only what has changed is read; unreadable files keep their objects; other names are ignored")
    func scanning() {
        let catalog = ClusterCatalog()
        var scanner = ManifestScanner(folder: self.folder.path, logger: Logger(label: "test"))
        func scan() -> Int {
            let events = scanner.scan()
            catalog.apply(events, from: .manifests)
            return events.count
        }
        self.folder.write("a.yaml", serviceText("web", "10.1.0.1"))
        for ignored in [".hidden.yaml", "a.yaml~", "notes.txt"] {
            self.folder.write(ignored, serviceText("no", "10.1.0.9"))
        }
        #expect(scan() > 0 && catalog.freshness.state == .synced)
        #expect(Set(catalog.snapshot.services.keys) == [name("d/web")])
        #expect(scan() == 0)
        // Replaced by renaming, as editors do.
        self.folder.write("a.tmp", serviceText("web", "10.1.0.2"))
        rename(self.folder.path + "/a.tmp", self.folder.path + "/a.yaml")
        #expect(scan() == 1)
        #expect(catalog.snapshot.service("d/web")?.object.clusterIPs == [ip(2)])
        // A link that leads nowhere is a file that is gone; a folder is no manifest.
        symlink("nowhere", self.folder.path + "/link.yaml")
        mkdir(self.folder.path + "/dir.yaml", 0o700)
        #expect(scan() == 0)
        rmdir(self.folder.path + "/dir.yaml")
        truncate(self.folder.path + "/a.yaml", ManifestScanner.maximumFileSize + 1)
        #expect(scan() == 1)
        #expect(
            catalog.snapshot.service("d/web") != nil && catalog.snapshot.rejected.values.map(\.name.name) == ["a.yaml"]
        )
        unlink(self.folder.path + "/a.yaml")
        #expect(scan() == 2)
        #expect(catalog.snapshot.services.isEmpty && catalog.snapshot.rejected.isEmpty)
    }

    @Test("a folder that is not there is said, and its objects stay once they were read")
    func missingFolder() {
        let path = self.folder.path + "/manifests"
        let catalog = ClusterCatalog()
        var scanner = ManifestScanner(folder: path, logger: Logger(label: "test"))
        func scan() { catalog.apply(scanner.scan(), from: .manifests) }
        scan()
        #expect(catalog.freshness.state == .connecting)
        #expect(
            catalog.freshness.sources.first?.status.message?
                .hasPrefix("cannot read the folder: No such file or directory; ") == true
        )
        mkdir(path, 0o700)
        self.folder.write("manifests/a.yaml", serviceText("web", "10.1.0.1"))
        scan()
        #expect(catalog.freshness.state == .synced && catalog.snapshot.services.count == 1)
        rename(path, path + "-away")
        scan()
        #expect(catalog.freshness.state == .stale && catalog.snapshot.services.count == 1)
        unlink(path + "-away/a.yaml")
        rmdir(path + "-away")
    }

    /// The kubelet's atomic writer: files are links into `..data`, itself a link that is swapped by rename.
    private func publish(_ revision: Int, clusterIP: String) {
        let path = self.folder.path
        mkdir("\(path)/..rev\(revision)", 0o700)
        self.folder.write("..rev\(revision)/web.yaml", serviceText("web", clusterIP))
        symlink("..rev\(revision)", "\(path)/..data_tmp")
        rename("\(path)/..data_tmp", "\(path)/..data")
        symlink("..data/web.yaml", "\(path)/web.yaml")
    }

    @Test("changes are seen by watching: writes, renames, the swap of a ConfigMap", .timeLimit(.minutes(1)))
    func watching() async throws {
        let catalog = ClusterCatalog()
        let (versions, continuation) = AsyncStream.makeStream(of: CatalogSnapshot.self)
        let subscription = catalog.subscribe { continuation.yield($0.snapshot) }
        // No rescan within the test: only the watch can see changes.
        let source = ManifestSource(
            folder: self.folder.path,
            logger: Logger(label: "test"),
            rescanInterval: .seconds(3_600)
        )
        self.publish(1, clusterIP: "10.1.0.1")
        let task = Task { try await source.run { catalog.apply($0, from: .manifests) } }
        func wait(until isReached: (CatalogSnapshot) -> Bool) async {
            for await snapshot in versions where isReached(snapshot) { return }
        }
        await wait { $0.service("d/web")?.object.clusterIPs == [ip(1)] }
        self.publish(2, clusterIP: "10.1.0.2")
        await wait { $0.service("d/web")?.object.clusterIPs == [ip(2)] }
        self.folder.write("api.yaml", serviceText("api", "10.1.0.3"))
        await wait { $0.service("d/api") != nil }
        rename(self.folder.path + "/api.yaml", self.folder.path + "/api.off")
        await wait { $0.service("d/api") == nil }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
        subscription.cancel()
        for revision in 1...2 {
            unlink("\(self.folder.path)/..rev\(revision)/web.yaml")
            rmdir("\(self.folder.path)/..rev\(revision)")
        }
    }
}
