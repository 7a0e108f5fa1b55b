public import KubeModel
import MeshCore

/// How old the catalog's state is, for status and readiness.
public struct CatalogFreshness: Hashable, Sendable {
    public struct Source: Hashable, Sendable {
        public var source: ObjectSource
        public var status: SourceStatus
        /// Since when it is in this state.
        public var age: Duration
        /// How long ago it was known to be in step with its peer; nil if it never was.
        public var sinceSynced: Duration?
    }

    /// `synced` if every source but the store is; `stale` if what is served was good once; `connecting` if there is nothing.
    public var state: SourceStatus.State
    /// In the order of `ObjectSource`.
    public var sources: [Source]
}

/// What each source said last.
struct SourceBook {
    private struct Entry {
        var status: SourceStatus
        var since: MonotonicTime
        var lastSynced: MonotonicTime?
    }

    private var entries: [ObjectSource: Entry] = [:]

    mutating func record(_ status: SourceStatus, of source: ObjectSource, now: MonotonicTime) {
        var entry = self.entries[source] ?? Entry(status: status, since: now)
        if entry.status.state != status.state { entry.since = now }
        // A source that leaves `synced` was in step until now.
        if status.state == .synced || entry.status.state == .synced { entry.lastSynced = now }
        entry.status = status
        self.entries[source] = entry
    }

    mutating func forget(_ source: ObjectSource) {
        self.entries[source] = nil
    }

    func freshness(now: MonotonicTime) -> CatalogFreshness {
        let sources = ObjectSource.allCases.compactMap { source in
            self.entries[source].map { entry in
                CatalogFreshness.Source(
                    source: source,
                    status: entry.status,
                    age: now - entry.since,
                    sinceSynced: entry.status.state == .synced ? .zero : entry.lastSynced.map { now - $0 }
                )
            }
        }
        let live = sources.filter { $0.source != .store }
        let state: SourceStatus.State
        if !live.isEmpty, live.allSatisfy({ $0.status.state == .synced }) {
            state = .synced
        } else if sources.contains(where: { $0.status.state != .connecting }) {
            state = .stale
        } else {
            state = .connecting
        }
        return CatalogFreshness(state: state, sources: sources)
    }
}
