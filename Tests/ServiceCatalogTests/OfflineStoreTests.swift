import Glibc
import HashTreeCollections
import KubeModel
import Logging
import MeshCore
import Testing

@testable import ServiceCatalog

/// A folder that is removed with its files when it is released.
final class TemporaryFolder {
    let path: String

    init() throws {
        var template = Array("/tmp/edgemesh-catalog-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw OfflineStoreError.system("cannot create", "a folder in /tmp") }
        self.path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        for name in self.names { unlink(self.path + "/" + name) }
        rmdir(self.path)
    }

    var names: [String] {
        guard let directory = opendir(self.path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    func write(_ name: String, _ bytes: some Sequence<UInt8>) {
        let descriptor = open(self.path + "/" + name, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
        defer { close(descriptor) }
        let bytes = Array(bytes)
        #expect(Glibc.write(descriptor, bytes, bytes.count) == bytes.count)
    }

    func write(_ name: String, _ text: String) { self.write(name, text.utf8) }

    func read(_ name: String) -> [UInt8] {
        let descriptor = open(self.path + "/" + name, O_RDONLY)
        guard descriptor >= 0 else { return [] }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        let count = Glibc.read(descriptor, &bytes, bytes.count)
        return Array(bytes.prefix(max(count, 0)))
    }
}

@Suite("Offline store")
struct OfflineStoreTests {
    private static let fileName = "catalog.v1.jsonl"
    private let folder: TemporaryFolder
    private let store: OfflineStore

    init() throws {
        self.folder = try TemporaryFolder()
        self.store = OfflineStore(directory: self.folder.path, logger: Logger(label: "test"))
    }

    private func filledCatalog() -> ClusterCatalog {
        let catalog = ClusterCatalog()
        let objects = [
            service("d/web", clusterIP: ip(1)) {
                $0.ports = [ServiceObject.Port(name: "http", port: 80, nodePort: 30_080)]
                $0.clientIPAffinitySeconds = 10_800
                $0.filterLabels = [.edgeMeshProxyName]
            },
            slice("d/web-x", of: "web", [ip(1, 2), ip(2, 2)], node: "n1", zone: "z"),
            slice("d/web-y", of: "web", [ip(3, 2)], port: 9090, conditions: [.serving, .terminating]),
            service("d/db") { $0.isHeadless = true }, endpointsObject("d/db", [ip(4, 2)], node: "n1"),
            node("n1", zone: "z"), rule("d/web", host: "web"), .namespace(NamespaceObject(name: "empty")),
        ]
        catalog.apply(objects.map(\.upsert) + [.status(SourceStatus(state: .synced, origin: "api"))], from: .api)
        catalog.apply([service("m/local").upsert], from: .manifests)
        return catalog
    }

    @Test("what is saved is loaded: services, endpoints, rules, nodes, namespaces, of whatever source")
    func roundTrip() async throws {
        let catalog = self.filledCatalog()
        await self.store.save(catalog.snapshot)
        #expect(self.folder.names == [Self.fileName])
        var status = stat()
        #expect(stat(self.folder.path + "/" + Self.fileName, &status) == 0 && status.st_mode & 0o777 == 0o600)

        let loaded = ClusterCatalog()
        await OfflineStore(directory: self.folder.path, logger: Logger(label: "test")).load(into: loaded)
        #expect(catalog.snapshot.services[name("m/local")]?.source == .manifests)
        #expect(loaded.snapshot.services == catalog.snapshot.services)
        #expect(loaded.snapshot.services.values.allSatisfy { $0.source == .store })
        #expect(loaded.snapshot.nodes == catalog.snapshot.nodes)
        #expect(loaded.snapshot.destinationRules == catalog.snapshot.destinationRules)
        #expect(loaded.snapshot.namespaces.isSuperset(of: ["d", "empty", "m"]))
        #expect(loaded.snapshot.rejected.isEmpty)
        #expect(loaded.freshness.state == .stale)
        #expect(loaded.freshness.sources.first?.status.origin.hasSuffix(Self.fileName) == true)
    }

    @Test("no file is no failure")
    func missing() async {
        let catalog = ClusterCatalog()
        await self.store.load(into: catalog)
        #expect(catalog.freshness.state == .connecting && self.store.status.failure == nil)
    }

    @Test("a file that is cut off anywhere is set aside, and nothing of it is served")
    func truncation() async throws {
        await self.store.save(self.filledCatalog().snapshot)
        let whole = self.folder.read(Self.fileName)
        #expect(whole.count > 500)
        for count in 0..<whole.count {
            self.folder.write(Self.fileName, whole[..<count])
            var events = 0
            #expect(throws: OfflineStoreError.self, "cut at \(count)") {
                _ = try StoreFile.read(self.folder.path + "/" + Self.fileName) { batch, _ in events += batch.count }
            }
            #expect(events == 0, "cut at \(count)")
        }
    }

    @Test("a file with a changed byte is never served as if it were whole", arguments: [41, 42] as [UInt64])
    func mutation(seed: UInt64) async throws {
        await self.store.save(self.filledCatalog().snapshot)
        let whole = self.folder.read(Self.fileName)
        var generator = SeededGenerator(seed: seed)
        for round in 0..<200 {
            var bytes = whole
            let position = Int.random(in: bytes.indices, using: &generator)
            switch Int.random(in: 0..<3, using: &generator) {
            case 0: bytes[position] ^= UInt8.random(in: 1...255, using: &generator)
            case 1: bytes.remove(at: position)
            default: bytes.insert(UInt8.random(in: 0...255, using: &generator), at: position)
            }
            guard bytes != whole else { continue }
            self.folder.write(Self.fileName, bytes)
            var events = 0
            #expect(throws: OfflineStoreError.self, "seed \(seed) round \(round)") {
                _ = try StoreFile.read(self.folder.path + "/" + Self.fileName) { batch, _ in events += batch.count }
            }
            #expect(events == 0, "seed \(seed) round \(round)")
        }
    }

    @Test(
        "files of others",
        arguments: [
            ("", .foreign), ("\n", .foreign), ("{}\n", .foreign), ("hello\n", .foreign),
            ("{\"format\":\"edgemesh-catalog\",\"version\":2,\"savedAt\":1}\n", .foreign),
            ("{\"format\":\"edgemesh-catalog\",\"version\":1,\"savedAt\":1}\n", .corrupt),
            (
                "{\"format\":\"edgemesh-catalog\",\"version\":1,\"savedAt\":1}\n{\"objects\":0,\"checksum\":\"0\"}\n",
                .corrupt
            ),
        ] as [(String, OfflineStoreError.Code)]
    )
    func foreign(text: String, code: OfflineStoreError.Code) async {
        self.folder.write(Self.fileName, text)
        let catalog = ClusterCatalog()
        await self.store.load(into: catalog)
        #expect(self.store.status.failure?.code == code)
        #expect(self.folder.names == [Self.fileName + ".corrupt-1"])
        #expect(catalog.snapshot.version == 0)
    }

    @Test("a bounded number of damaged files is kept, the newest as 1")
    func setAsideBound() async {
        for round in 1...5 {
            self.folder.write(Self.fileName, "damage \(round)\n")
            await self.store.load(into: ClusterCatalog())
        }
        #expect(self.folder.names == (1...OfflineStore.maximumSetAside).map { "\(Self.fileName).corrupt-\($0)" })
        #expect(self.folder.read(Self.fileName + ".corrupt-1") == Array("damage 5\n".utf8))
        #expect(self.folder.read(Self.fileName + ".corrupt-3") == Array("damage 3\n".utf8))
    }

    @Test("an object that this version cannot read is rejected; the others serve")
    func unreadableObject() throws {
        let lines = [
            "{\"format\":\"edgemesh-catalog\",\"version\":1,\"savedAt\":1}",
            "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"bad\",\"namespace\":\"d\"},\"spec\":{\"ports\":7}}",
            "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"d\"}}",
            "{\"apiVersion\":\"v9\",\"kind\":\"Future\"}",
        ]
        let checksum = lines.reduce(0 as UInt64) { XXHash64.hash($1, seed: $0) }
        var digits = String(checksum, radix: 16)
        digits = String(repeating: "0", count: 16 - digits.count) + digits
        self.folder.write(
            Self.fileName,
            lines.joined(separator: "\n") + "\n{\"objects\":3,\"checksum\":\"\(digits)\"}\n"
        )
        var events: [SourceEvent] = []
        let summary = try StoreFile.read(self.folder.path + "/" + Self.fileName) { batch, _ in events += batch }
        #expect(summary?.objects == 3)
        #expect(events.count == 2 && events.contains(.upsert(.namespace(NamespaceObject(name: "d")))))
        #expect(events.contains { if case .rejected(let object) = $0 { object.name == name("d/bad") } else { false } })
    }

    @Test("a write that fails is reported, leaves nothing behind, and is retried")
    func failingWrites() async throws {
        // A file where the folder should be: neither root nor a full disk is needed for that to fail.
        self.folder.write("occupied", "")
        let path = self.folder.path + "/occupied"
        let store = OfflineStore(directory: path, logger: Logger(label: "test"))
        let snapshot = self.filledCatalog().snapshot
        await store.save(snapshot)
        await store.save(snapshot)
        #expect(store.status.failedSaves == 2 && store.status.failure?.code == .system)
        #expect(store.status.failure?.errorNumber == ENOTDIR)
        unlink(path)
        await store.save(snapshot)
        #expect(store.status.failure == nil && store.status.savedObjects == 11)
        unlink(path + "/" + Self.fileName)
        rmdir(path)
    }

    @Test("a failed write leaves the old file whole")
    func oldFileSurvives() async throws {
        await self.store.save(self.filledCatalog().snapshot)
        let old = self.folder.read(Self.fileName)
        mkdir(self.folder.path + "/" + Self.fileName + ".new", 0o700)
        await self.store.save(CatalogSnapshot())
        #expect(self.store.status.failure != nil)
        #expect(self.folder.read(Self.fileName) == old)
        rmdir(self.folder.path + "/" + Self.fileName + ".new")
    }

    @Test(
        "the running store writes what is pending when it ends, but never before the authority has listed",
        .timeLimit(.minutes(1)),
        arguments: [ObjectSource.api, .manifests],
        [nil, ObjectSource.api, .manifests]
    )
    func running(authority: ObjectSource, synced: ObjectSource?) async {
        let catalog = ClusterCatalog(authority: authority)
        catalog.apply([service("d/web").upsert], from: .api)
        catalog.apply([service("m/local").upsert], from: .manifests)
        if let synced { catalog.apply([.status(SourceStatus(state: .synced, origin: "test"))], from: synced) }
        let task = Task { [store] in await store.run(catalog: catalog) }
        task.cancel()
        await task.value
        #expect(self.folder.names.isEmpty == (synced != authority))
        #expect(self.store.status.savedObjects == (synced == authority ? 4 : nil))
    }

    /// The state of a folder with two services, as the next start finds it.
    private func reloaded(authority: ObjectSource) async -> ClusterCatalog {
        let catalog = ClusterCatalog(authority: .manifests)
        catalog.apply(
            [
                service("d/web", clusterIP: ip(1)), slice("d/web-x", of: "web", [ip(1, 2), ip(2, 2)]),
                service("d/old", clusterIP: ip(2)), slice("d/old-x", of: "old", [ip(3, 2)]),
            ].map(\.upsert),
            from: .manifests
        )
        await self.store.save(catalog.snapshot)
        let loaded = ClusterCatalog(authority: authority)
        await OfflineStore(directory: self.folder.path, logger: Logger(label: "test")).load(into: loaded)
        #expect(loaded.snapshot.services == catalog.snapshot.services)
        return loaded
    }

    private static let webYAML = """
        apiVersion: v1
        kind: Service
        metadata: {name: web, namespace: d}
        spec: {clusterIP: 10.1.0.1, ports: [{port: 80}]}
        ---
        apiVersion: v1
        kind: Endpoints
        metadata: {name: web, namespace: d}
        subsets: [{addresses: [{ip: 10.2.0.1}], ports: [{port: 8080}]}]

        """

    @Test("what left the folder while the agent was down goes with the folder's first listing")
    func manifestsAlone() async throws {
        let catalog = await self.reloaded(authority: .manifests)
        let manifests = try TemporaryFolder()
        manifests.write("web.yaml", Self.webYAML)
        var scanner = ManifestScanner(folder: manifests.path, logger: Logger(label: "test"))
        catalog.apply(scanner.scan(), from: .manifests)
        #expect(Set(catalog.snapshot.services.keys) == [name("d/web")])
        #expect(catalog.snapshot.addresses("d/web") == [ip(1, 2)])
        #expect(catalog.freshness.state == .synced)
        #expect(catalog.freshness.sources.map(\.source) == [.manifests], "the store has no say any more")
    }

    @Test("a folder that cannot be read at the start: the last good state serves, stale, and is told so")
    func missingFolder() async throws {
        let catalog = await self.reloaded(authority: .manifests)
        var scanner = ManifestScanner(folder: self.folder.path + "/gone", logger: Logger(label: "test"))
        catalog.apply(scanner.scan(), from: .manifests)
        #expect(Set(catalog.snapshot.services.keys) == [name("d/web"), name("d/old")])
        #expect(catalog.freshness.state == .stale)
        let status = try #require(catalog.freshness.sources.first { $0.source == .manifests }?.status)
        #expect(status.message?.hasPrefix("cannot read the folder: No such file or directory; ") == true)
    }

    @Test("beside an API, manifests replace what the store has of their folder")
    func manifestsBesideAPI() async throws {
        let catalog = await self.reloaded(authority: .api)
        let manifests = try TemporaryFolder()
        manifests.write("web.yaml", Self.webYAML)
        var scanner = ManifestScanner(folder: manifests.path, logger: Logger(label: "test"))
        catalog.apply(scanner.scan(), from: .manifests)
        #expect(catalog.snapshot.services[name("d/web")]?.source == .manifests)
        #expect(catalog.snapshot.addresses("d/web") == [ip(1, 2)])
        #expect(Set(catalog.snapshot.services.keys) == [name("d/web")], "what left the folder went with its listing")
        catalog.apply([.status(SourceStatus(state: .synced, origin: "api"))], from: .api)
        #expect(Set(catalog.snapshot.services.keys) == [name("d/web")] && catalog.freshness.state == .synced)
    }

    @Test("an API that lists does not take away what the store has of a folder that cannot be read yet")
    func unreadableFolderBesideAPI() async throws {
        let catalog = await self.reloaded(authority: .api)
        let folder = self.folder.path + "/manifests"
        var scanner = ManifestScanner(folder: folder, logger: Logger(label: "test"))
        catalog.apply(scanner.scan(), from: .manifests)
        let listing = ObjectKind.allCases.flatMap { [SourceEvent.syncBegan($0), .syncEnded($0)] }
        catalog.apply(listing + [.status(SourceStatus(state: .synced, origin: "api"))], from: .api)
        #expect(Set(catalog.snapshot.services.keys) == [name("d/web"), name("d/old")])
        #expect(catalog.snapshot.addresses("d/web") == [ip(1, 2), ip(2, 2)])
        #expect(catalog.freshness.state == .stale)
        // Written meanwhile, they are still the folder's.
        await self.store.save(catalog.snapshot)
        let again = ClusterCatalog(authority: .api)
        await OfflineStore(directory: self.folder.path, logger: Logger(label: "test")).load(into: again)
        again.apply(listing + [.status(SourceStatus(state: .synced, origin: "api"))], from: .api)
        #expect(again.snapshot.services == catalog.snapshot.services)

        mkdir(folder, 0o700)
        self.folder.write("manifests/web.yaml", Self.webYAML)
        catalog.apply(scanner.scan(), from: .manifests)
        #expect(Set(catalog.snapshot.services.keys) == [name("d/web")] && catalog.freshness.state == .synced)
        unlink(folder + "/web.yaml")
        rmdir(folder)
    }

    @Test("where no folder is followed any more, the API answers for what came from one")
    func folderNoLongerFollowed() async {
        _ = await self.reloaded(authority: .api)
        let catalog = ClusterCatalog(authority: .api, followsManifests: false)
        await OfflineStore(directory: self.folder.path, logger: Logger(label: "test")).load(into: catalog)
        #expect(catalog.snapshot.services.count == 2)
        catalog.apply([.status(SourceStatus(state: .synced, origin: "api"))], from: .api)
        #expect(catalog.snapshot.services.isEmpty && catalog.freshness.state == .synced)
    }

    @Test(
        "a file that is broken at the start: what the store has of the folder stays, stale, until it is mended or gone",
        arguments: [ObjectSource.manifests, .api],
        [
            "kind: [", "kind: Service\n",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: old-0, namespace: d}\nstatus: {podIP: nowhere}\n",
        ]
    )
    func brokenFileAtStart(authority: ObjectSource, text: String) async throws {
        for isMended in [true, false] {
            let catalog = await self.reloaded(authority: authority)
            catalog.apply([.status(SourceStatus(state: .synced, origin: "api"))], from: .api)
            let manifests = try TemporaryFolder()
            manifests.write("old.yaml", text)
            manifests.write("web.yaml", Self.webYAML)
            var scanner = ManifestScanner(folder: manifests.path, logger: Logger(label: "test"))
            catalog.apply(scanner.scan(), from: .manifests)
            #expect(catalog.snapshot.services[name("d/old")]?.source == .store)
            #expect(catalog.snapshot.addresses("d/old") == [ip(3, 2)])
            #expect(catalog.snapshot.services[name("d/web")]?.source == .manifests)
            #expect(catalog.snapshot.addresses("d/web") == [ip(1, 2)], "what is known is not mixed with what was")
            #expect(catalog.freshness.state == .stale)
            let status = catalog.freshness.sources.first { $0.source == .manifests }?.status
            #expect(status?.message?.hasPrefix("old.yaml cannot be understood: ") == true)
            #expect(catalog.snapshot.rejected.values.contains { $0.reason.hasPrefix("old.yaml:") })

            // Nothing is lost if the agent is restarted now: it may write what it has.
            if authority == .manifests {
                let store = OfflineStore(directory: self.folder.path, logger: Logger(label: "test"))
                let task = Task { await store.run(catalog: catalog) }
                task.cancel()
                await task.value
                #expect(store.status.savedObjects == 5)
            }
            if isMended {
                manifests.write("old.yaml", Self.webYAML.replacing("web", with: "new"))
            } else {
                unlink(manifests.path + "/old.yaml")
            }
            catalog.apply(scanner.scan(), from: .manifests)
            #expect(Set(catalog.snapshot.services.keys) == Set([name("d/web")] + (isMended ? [name("d/new")] : [])))
            #expect(catalog.freshness.state == .synced && catalog.snapshot.rejected.isEmpty)
            // A file that breaks later keeps its own objects, and nothing else is in doubt.
            manifests.write("web.yaml", text)
            catalog.apply(scanner.scan(), from: .manifests)
            #expect(catalog.freshness.state == .synced)
        }
    }

    @Test("what was loaded is not written back")
    func loadedIsNotWritten() async {
        await self.store.save(self.filledCatalog().snapshot)
        let catalog = ClusterCatalog()
        let store = OfflineStore(directory: self.folder.path, logger: Logger(label: "test"))
        await store.load(into: catalog)
        catalog.apply([.status(SourceStatus(state: .synced, origin: "api"))], from: .manifests)
        let task = Task { await store.run(catalog: catalog) }
        task.cancel()
        await task.value
        #expect(store.status.lastSaved == nil && store.status.loadedObjects == 11)
    }
}

@Suite("Save schedule")
struct SaveScheduleTests {
    private func time(_ seconds: Int) -> MonotonicTime {
        MonotonicTime(nanoseconds: 1_000_000_000_000) + .seconds(seconds)
    }

    @Test("after the last change, but not put off for ever")
    func debounce() {
        var schedule = SaveSchedule(quiet: .seconds(2), atMost: .seconds(10))
        #expect(schedule.deadline == nil)
        schedule.changed(now: self.time(0))
        #expect(schedule.deadline == self.time(2))
        schedule.changed(now: self.time(1))
        #expect(schedule.deadline == self.time(3))
        for second in 2...9 { schedule.changed(now: self.time(second)) }
        #expect(schedule.deadline == self.time(10))
        schedule.began()
        #expect(schedule.deadline == nil)
        schedule.changed(now: self.time(11))
        schedule.succeeded(now: self.time(11), bytes: 1_000)
        #expect(schedule.deadline == self.time(21))
        schedule.began()
        schedule.succeeded(now: self.time(30), bytes: 40 * SaveSchedule.maximumWriteRate)
        schedule.changed(now: self.time(31))
        #expect(schedule.deadline == self.time(70))
    }

    @Test("failures are retried later and later, up to a bound")
    func backoff() throws {
        var generator = SeededGenerator(seed: 1)
        var schedule = SaveSchedule(quiet: .seconds(2), atMost: .seconds(10))
        var delays: [Duration] = []
        for _ in 0..<12 {
            schedule.began()
            schedule.failed(now: self.time(0), using: &generator)
            delays.append(try #require(schedule.deadline) - self.time(0))
        }
        #expect(delays.allSatisfy { $0 >= .seconds(2) && $0 <= .seconds(300) })
        #expect(delays[11] >= .seconds(150))
        schedule.began()
        schedule.succeeded(now: self.time(0), bytes: 0)
        schedule.changed(now: self.time(20))
        #expect(schedule.deadline == self.time(22))
    }
}
