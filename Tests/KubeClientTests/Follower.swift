import Documents
import FakeKube
import KubeModel
import Logging
import MeshCore
import MeshTesting
import NIOPosix

@testable import KubeClient

/// A catalog in small: applies events as the real one does, and remembers what it was told.
actor Follower {
    private(set) var objects: [ObjectKind: [ObjectName: ClusterObject]] = [:]
    private(set) var rejected: [RejectedObject] = []
    private(set) var statuses: [SourceStatus] = []
    private(set) var syncs: [ObjectKind: Int] = [:]
    private(set) var largestBatch = 0
    private var listing: [ObjectKind: Set<ObjectName>] = [:]

    func take(_ events: [SourceEvent]) {
        self.largestBatch = max(self.largestBatch, events.count)
        for event in events {
            switch event {
            case .syncBegan(let kind):
                self.listing[kind] = []
            case .upsert(let object):
                self.objects[object.kind, default: [:]][object.name] = object
                self.listing[object.kind]?.insert(object.name)
            case .deleted(let kind, let name):
                self.objects[kind]?[name] = nil
            case .rejected(let object):
                self.rejected.append(object)
                self.listing[object.kind]?.insert(object.name)
            case .syncEnded(let kind):
                let named = self.listing.removeValue(forKey: kind) ?? []
                self.objects[kind] = self.objects[kind]?.filter { named.contains($0.key) }
                self.syncs[kind, default: 0] += 1
            case .status(let status):
                self.statuses.append(status)
            }
        }
    }

    var state: SourceStatus.State? { self.statuses.last?.state }
    var message: String { self.statuses.last?.message ?? "" }

    func names(_ kind: ObjectKind) -> [String] { (self.objects[kind] ?? [:]).keys.map(\.description).sorted() }

    func service(_ name: String) -> ServiceObject? {
        guard case .service(let service) = self.objects[.service]?[ObjectName(namespace: "default", name: name)] else {
            return nil
        }
        return service
    }
}

extension KubernetesSource.Options {
    /// Delays in milliseconds, so that tests of retries end soon.
    static var quick: Self {
        var options = Self()
        options.retryDelays = .milliseconds(2) ... .milliseconds(50)
        options.forbiddenRetry = .milliseconds(50)
        options.absentRetry = .milliseconds(100)
        options.requestsPerSecond = 10_000
        options.burst = 10_000
        options.version = "1.2.3"
        return options
    }
}

let quietLogger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

/// Runs a started fake server for `body` and stops it.
func withFake(
    _ options: FakeKube.Options = FakeKube.Options(),
    _ body: (FakeKube) async throws -> Void
) async throws {
    let fake = FakeKube(options: options)
    try await fake.start()
    do {
        try await body(fake)
    } catch {
        await fake.stop()
        throw error
    }
    await fake.stop()
}

/// Follows `fake` for `body`.
func following(
    _ fake: FakeKube,
    as configuration: KubeConfiguration? = nil,
    options: KubernetesSource.Options = .quick,
    _ body: (Follower) async throws -> Void
) async throws {
    let follower = Follower()
    let source = KubernetesSource(
        try configuration ?? .master(fake.url),
        options: options,
        group: MultiThreadedEventLoopGroup.singleton,
        logger: quietLogger
    )
    let task = Task { try await source.run { await follower.take($0) } }
    defer { task.cancel() }
    try await body(follower)
    task.cancel()
    _ = await task.result
}

/// Waits for `synced` and for all five watches to stand.
func synced(_ follower: Follower, _ fake: FakeKube, watches: Int = 5) async throws {
    try await eventually("synced") { await follower.state == .synced }
    try await eventually("\(watches) watches") { fake.openWatches == watches }
}

func service(_ name: String, port: Int = 80) -> Document {
    FakeObjects.service(name: name, clusterIP: "10.96.0.1", port: port)
}
