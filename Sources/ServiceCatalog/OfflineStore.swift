import Dispatch
import Glibc
import KubeModel
public import Logging
public import MeshCore
import Synchronization

/// The last good state of the cluster on disk, whatever sources it came from, so that a cold start without them serves
/// at once.
///
/// File work runs on a queue of its own: a slow disk stalls neither the catalog nor a loop.
public final class OfflineStore: Sendable {
    /// How the store is doing, for status.
    public struct Status: Sendable, Hashable {
        public var path: String
        public var loadedObjects: Int?
        public var savedObjects: Int?
        public var savedBytes: Int?
        public var lastSaved: MonotonicTime?
        public var failedSaves: UInt64 = 0
        /// The last failure; nil once a write has succeeded after it.
        public var failure: OfflineStoreError?
    }

    /// How many damaged files are kept for inspection.
    public static let maximumSetAside = 3
    public static let defaultQuiet = Duration.seconds(2)
    public static let defaultAtMost = Duration.seconds(10)

    private struct State {
        var schedule: SaveSchedule
        var latest: CatalogSnapshot?
        /// The catalog's version that equals the file.
        var writtenVersion: UInt64 = 0
        var status: Status
    }

    private let directory: String
    private let path: String
    private let logger: Logger
    private let state: Mutex<State>
    private let queue = DispatchQueue(label: "edgemesh.offline-store")

    /// - Parameters:
    ///   - directory: Created, with mode 0700, if it is missing; its parent must exist.
    ///   - quiet: How long after the last change the state is written.
    ///   - atMost: How long constant change can put that off, and the least time between two writes.
    public init(
        directory: String,
        logger: Logger,
        quiet: Duration = OfflineStore.defaultQuiet,
        atMost: Duration = OfflineStore.defaultAtMost
    ) {
        self.directory = directory
        self.path = directory + "/catalog.v\(StoreFile.version).jsonl"
        self.logger = logger
        self.state = Mutex(
            State(schedule: SaveSchedule(quiet: quiet, atMost: atMost), status: Status(path: self.path))
        )
    }

    public var status: Status { self.state.withLock { $0.status } }

    /// Gives the last good state to the catalog. To be called before any source runs. A damaged file is set aside, said and
    /// otherwise as if there were none.
    public func load(into catalog: ClusterCatalog) async {
        let result = await self.onQueue { [path] () throws(OfflineStoreError) in
            try StoreFile.read(path) { catalog.apply($0, from: .store, origin: $1) }
        }
        switch result {
        case .success(nil):
            self.logger.info("no last good state on disk yet", metadata: ["path": "\(self.path)"])
        case .success(.some(let summary)):
            let age = max(0, Int64(time(nil)) - summary.savedAt)
            let status = SourceStatus(state: .stale, origin: self.path, message: "written \(age) s before this start")
            catalog.apply([.status(status)], from: .store)
            let version = catalog.snapshot.version
            self.state.withLock {
                $0.status.loadedObjects = summary.objects
                $0.writtenVersion = version
            }
            self.logger.info(
                "serving the last good state until the source has listed",
                metadata: [
                    "source": "\(catalog.authority)", "path": "\(self.path)", "objects": "\(summary.objects)",
                    "age-seconds": "\(age)",
                ]
            )
        case .failure(let error):
            self.state.withLock { $0.status.failure = error }
            self.logger.error("cannot use the last good state", metadata: ["error": "\(error)"])
            if error.code != .system { await self.setAside() }
        }
    }

    /// Writes the catalog's state after changes, until cancelled; what is not written by then is written at the end.
    public func run(catalog: ClusterCatalog) async {
        let (changes, continuation) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let subscription = catalog.subscribe { [weak self] update in
            self?.state.withLock {
                // What was loaded need not be written back.
                guard update.snapshot.version != $0.writtenVersion else { return }
                $0.latest = update.snapshot
                $0.schedule.changed(now: .now())
            }
            continuation.yield()
        }
        for await _ in changes {
            while !Task.isCancelled, let deadline = self.state.withLock({ $0.schedule.deadline }) {
                let wait = deadline - .now()
                if wait > .zero {
                    // More changes may move the deadline meanwhile; cancellation ends the loop.
                    try? await Task.sleep(for: wait)
                } else {
                    await self.saveIfReady(catalog)
                }
            }
        }
        subscription.cancel()
        if self.state.withLock({ $0.schedule.deadline }) != nil { await self.saveIfReady(catalog) }
    }

    /// Until the authority has listed once in this process, the catalog may hold less than the file. A folder of which some
    /// file is not understood yet keeps what the store had of it.
    private func saveIfReady(_ catalog: ClusterCatalog) async {
        let wasSynced = catalog.freshness.sources.contains {
            $0.source == catalog.authority
                && ($0.sinceSynced != nil || $0.source == .manifests && $0.status.state == .stale)
        }
        let snapshot = self.state.withLock { state -> CatalogSnapshot? in
            guard wasSynced else {
                state.schedule.postponed(now: .now())
                return nil
            }
            state.schedule.began()
            return state.latest
        }
        if let snapshot { await self.save(snapshot) }
    }

    /// Writes a snapshot now. A failure is recorded and the write is due again later.
    func save(_ snapshot: CatalogSnapshot) async {
        let result = await self.onQueue { [path, directory] () throws(OfflineStoreError) in
            if mkdir(directory, 0o700) != 0, errno != EEXIST { throw .system("cannot create", directory) }
            return try StoreFile.write(snapshot, to: path, in: directory, savedAt: Int64(time(nil)))
        }
        let now = MonotonicTime.now()
        switch result {
        case .success(let summary):
            let former = self.state.withLock { state -> OfflineStoreError? in
                defer { state.status.failure = nil }
                state.schedule.succeeded(now: now, bytes: summary.bytes)
                state.status.savedObjects = summary.objects
                state.status.savedBytes = summary.bytes
                state.status.lastSaved = now
                return state.status.failure
            }
            if former != nil { self.logger.notice("the last good state can be written again") }
        case .failure(let error):
            let former = self.state.withLock { state -> OfflineStoreError? in
                defer { state.status.failure = error }
                var generator = SystemRandomNumberGenerator()
                state.schedule.failed(now: now, using: &generator)
                state.status.failedSaves += 1
                return state.status.failure
            }
            // Said once, not with every retry.
            if former != error {
                self.logger.error(
                    "cannot write the last good state: a cold start without its source will serve an older one",
                    metadata: ["error": "\(error)"]
                )
            }
        }
    }

    /// Keeps a damaged file for inspection: `.corrupt-1` is the newest.
    private func setAside() async {
        let result = await self.onQueue { [path] () throws(OfflineStoreError) in
            for number in stride(from: Self.maximumSetAside - 1, to: 0, by: -1) {
                rename("\(path).corrupt-\(number)", "\(path).corrupt-\(number + 1)")
            }
            guard rename(path, path + ".corrupt-1") == 0 else { throw .system("cannot rename", path) }
        }
        if case .failure(let error) = result {
            self.logger.warning("cannot set a damaged file aside", metadata: ["error": "\(error)"])
        }
    }

    private func onQueue<Value: Sendable>(
        _ work: @escaping @Sendable () throws(OfflineStoreError) -> Value
    ) async -> Result<Value, OfflineStoreError> {
        await withCheckedContinuation { continuation in
            self.queue.async { continuation.resume(returning: Result(catching: work)) }
        }
    }
}
