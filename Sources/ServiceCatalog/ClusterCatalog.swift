import HashTreeCollections
public import KubeModel
public import MeshCore
import Synchronization

/// The state of the cluster: takes the events of all sources, builds snapshots from them, tells subscribers what changed.
///
/// Thread-safe. Work is done on the caller's thread: what an event touches is rebuilt, all else is shared with the
/// snapshot before. Subscribers that are slow see several changes as one, so nothing queues up without bound.
public final class ClusterCatalog: Sendable {
    private let working: Mutex<CatalogState>
    /// Apart from the working state, so that readers never wait for a large listing to be taken in.
    private let published = Mutex(CatalogSnapshot())
    private let subscribers = Mutex(SubscriberList())
    private let clock: @Sendable () -> MonotonicTime

    /// The source whose listing is the whole truth: once it is in step, nothing that the store had from it counts any more.
    public let authority: ObjectSource

    /// - Parameters:
    ///   - authority: The API where one is followed, else the manifests.
    ///   - followsManifests: A folder of manifests is followed: what the store has from it stays until the folder has been
    ///     read whole, however soon the API lists.
    public init(
        settings: CatalogSettings = CatalogSettings(),
        authority: ObjectSource = .api,
        followsManifests: Bool = true,
        clock: @escaping @Sendable () -> MonotonicTime = { MonotonicTime.now() }
    ) {
        self.working = Mutex(
            CatalogState(settings: settings, authority: authority, followsManifests: followsManifests)
        )
        self.authority = authority
        self.clock = clock
    }

    /// The snapshot in force. Any thread; a short lock.
    public var snapshot: CatalogSnapshot { self.published.withLock { $0 } }

    /// Takes in a batch and publishes at most one snapshot; none if nothing is different.
    public func apply(_ events: [SourceEvent], from source: ObjectSource) {
        self.apply(events, from: source, origin: source)
    }

    /// - Parameter origin: for the store, the source that it had the objects from.
    func apply(_ events: [SourceEvent], from source: ObjectSource, origin: ObjectSource) {
        let now = self.clock()
        self.change { $0.apply(events, from: source, origin: origin, now: now) }
    }

    /// Takes in all pods of a namespace of the cluster: those that are not among them are gone. Later changes come by `apply`.
    public func replacePods(_ pods: [PodObject], in namespace: String) {
        self.change { $0.replacePods(pods, in: namespace) }
    }

    /// Forgets the cluster's pods of all other namespaces: nobody follows them.
    public func keepPods(in namespaces: Set<String>) {
        self.change { $0.keepPods(in: namespaces) }
    }

    public func update(settings: CatalogSettings) {
        self.change { $0.update(settings: settings) }
    }

    /// How fresh the catalog is, and each of its sources.
    public var freshness: CatalogFreshness {
        let now = self.clock()
        return self.working.withLock { $0.freshness(now: now) }
    }

    /// Calls `receive` with the present snapshot (every service counted as changed) and then with each update, in order,
    /// never concurrently, until the returned token is released or cancelled. `receive` must not block; it may call back
    /// into the catalog. An update that is being delivered while the subscription ends may still arrive.
    public func subscribe(_ receive: @escaping @Sendable (CatalogUpdate) -> Void) -> CatalogSubscription {
        let subscriber = self.working.withLock { _ in
            // Under the lock of the working state no snapshot can be published between the two.
            let snapshot = self.snapshot
            let first = CatalogUpdate(snapshot: snapshot, changedServices: Set(snapshot.services.keys))
            return self.subscribers.withLock { $0.add(receive, first: first) }
        }
        self.deliver()
        return CatalogSubscription { [weak self] in
            self?.subscribers.withLock { $0.remove(subscriber) }
        }
    }

    private func change(_ body: (inout CatalogState) -> Set<ObjectName>?) {
        self.working.withLock { state in
            guard let changed = body(&state) else { return }
            let update = CatalogUpdate(snapshot: state.snapshot, changedServices: changed)
            self.published.withLock { $0 = state.snapshot }
            self.subscribers.withLock { $0.post(update) }
        }
        self.deliver()
    }

    /// One thread at a time hands out what is pending; others leave it to that one.
    private func deliver() {
        guard self.subscribers.withLock({ $0.beginDelivery() }) else { return }
        while let delivery = self.subscribers.withLock({ $0.nextDelivery() }) {
            delivery.receive(delivery.update)
        }
    }
}

/// Who wants updates and what each has not been told yet.
private struct SubscriberList {
    struct Subscriber {
        var receive: @Sendable (CatalogUpdate) -> Void
        var pending: CatalogUpdate?
    }

    private var subscribers: [UInt64: Subscriber] = [:]
    private var nextIdentifier: UInt64 = 0
    private var isDelivering = false

    mutating func add(_ receive: @escaping @Sendable (CatalogUpdate) -> Void, first: CatalogUpdate) -> UInt64 {
        defer { self.nextIdentifier += 1 }
        self.subscribers[self.nextIdentifier] = Subscriber(receive: receive, pending: first)
        return self.nextIdentifier
    }

    mutating func remove(_ identifier: UInt64) {
        self.subscribers[identifier] = nil
    }

    mutating func post(_ update: CatalogUpdate) {
        for identifier in self.subscribers.keys {
            let missed = self.subscribers[identifier]?.pending?.changedServices
            self.subscribers[identifier]?.pending = CatalogUpdate(
                snapshot: update.snapshot,
                changedServices: missed.map { $0.union(update.changedServices) } ?? update.changedServices
            )
        }
    }

    mutating func beginDelivery() -> Bool {
        guard !self.isDelivering else { return false }
        self.isDelivering = true
        return true
    }

    /// Nil ends the delivery that was begun.
    mutating func nextDelivery() -> (receive: @Sendable (CatalogUpdate) -> Void, update: CatalogUpdate)? {
        for (identifier, subscriber) in self.subscribers {
            guard let update = subscriber.pending else { continue }
            self.subscribers[identifier]?.pending = nil
            return (subscriber.receive, update)
        }
        self.isDelivering = false
        return nil
    }
}
