import HashTreeCollections
import KubeModel
import MeshCore

typealias ObjectKey = CatalogSnapshot.RejectedKey

extension ObjectKey {
    init(_ object: ClusterObject) {
        self.init(kind: object.kind, name: object.name)
    }
}

/// The working state behind the snapshots: what each source has said, and what this batch has touched.
///
/// Every object in force has one owner. Objects of the API hide equal ones of manifests, which come back when the API
/// deletes its own. Objects of the store give way to anything, and go when the source that they came from has listed.
struct CatalogState {
    struct Ownership {
        var source: ObjectSource
        /// The source itself; for objects of the store, the source that they came from.
        var origin: ObjectSource
        /// The number of the listing that named it last.
        var listing: UInt32
        /// EndpointSlices: the service that it belongs to.
        var serviceName = ""
    }

    struct ServiceRecord {
        /// In order of their names, so that a service looks the same in whichever order slices came.
        var slices: [(name: String, groups: EndpointGroups)] = []
        var endpoints: EndpointGroups?
    }

    private struct Listing: Hashable {
        var source: ObjectSource
        var kind: ObjectKind
    }

    var snapshot = CatalogSnapshot()
    var settings: CatalogSettings
    private let authority: ObjectSource
    private let followsManifests: Bool
    private var sourceBook = SourceBook()

    private(set) var owners: [ObjectKey: Ownership] = [:]
    /// Objects of manifests that the API has too.
    private var hidden: [ObjectKey: (object: ClusterObject, listing: UInt32)] = [:]
    private var rejectedOwners: [ObjectKey: Ownership] = [:]
    private var listings: [Listing: UInt32] = [:]
    private var openListings: Set<Listing> = []
    /// Where those objects came from that the store has given and no source has answered for yet.
    private var storedOrigins: Set<ObjectSource> = []

    var records: [ObjectName: ServiceRecord] = [:]
    /// Services with endpoints that name a node, but no zone.
    var servicesNeedingZones: Set<ObjectName> = []
    var rules: [ObjectName: ValidatedRule] = [:]
    /// Rules in force whose policy is not supported: they set nothing.
    var refusedRules: [ObjectName: DestinationRuleObject] = [:]
    /// Names of rules by the one service that their host means, in order.
    var rulesByHost: [ObjectName: [ObjectName]] = [:]
    var wildcardRules: Set<ObjectName> = []
    /// Services whose rule has subsets.
    var servicesWithSubsets: Set<ObjectName> = []
    /// Cluster IPs that several services claim.
    var contestedClusterIPs: [IPAddress: Set<ObjectName>] = [:]
    private var namespaceReferences: [String: Int] = [:]
    var interner = StringInterner()

    // What this batch has touched; empty between batches.
    /// Service objects that came (or went: nil).
    var pendingObjects: [ObjectName: ServiceObject?] = [:]
    var touchedServices: Set<ObjectName> = []
    var touchedRules: Set<ObjectName> = []
    var touchedZones: Set<String> = []
    /// Whether anything but services is different.
    var isChanged = false

    init(settings: CatalogSettings, authority: ObjectSource, followsManifests: Bool) {
        self.settings = settings
        self.authority = authority
        self.followsManifests = followsManifests
    }

    func freshness(now: MonotonicTime) -> CatalogFreshness {
        self.sourceBook.freshness(now: now)
    }

    /// Returns the services that changed, or nil if the snapshot is as it was.
    mutating func apply(
        _ events: [SourceEvent],
        from source: ObjectSource,
        origin: ObjectSource,
        now: MonotonicTime
    ) -> Set<ObjectName>? {
        for event in events {
            switch event {
            case .syncBegan(let kind):
                let listing = Listing(source: source, kind: kind)
                self.listings[listing, default: 0] &+= 1
                self.openListings.insert(listing)
            case .upsert(.credentials): break
            case .upsert(let object):
                let listing = self.listing(source, object.kind)
                self.upsert(object, by: Ownership(source: source, origin: origin, listing: listing))
            case .deleted(let kind, let name):
                self.delete(ObjectKey(kind: kind, name: name), by: source)
            case .rejected(let rejection):
                self.reject(rejection, by: source, origin: origin)
            case .syncEnded(let kind):
                if self.openListings.remove(Listing(source: source, kind: kind)) != nil {
                    self.sweep(kind, of: source)
                }
            case .status(let status):
                self.sourceBook.record(status, of: source, now: now)
                if status.state == .synced { self.sweepStore(for: source) }
            }
        }
        return self.commit()
    }

    private func listing(_ source: ObjectSource, _ kind: ObjectKind) -> UInt32 {
        self.listings[Listing(source: source, kind: kind)] ?? 0
    }

    // MARK: Ownership

    /// Whether `source` knows best what has become of an object: its own, or one that the store had from it. What came from
    /// manifests is the API's to answer for only where no folder is followed.
    private func answers(_ source: ObjectSource, for owner: Ownership) -> Bool {
        guard owner.source == .store else { return owner.source == source }
        return source == (owner.origin == .manifests && self.followsManifests ? .manifests : self.authority)
    }

    private mutating func own(_ key: ObjectKey, _ ownership: Ownership) {
        self.owners[key] = ownership
        if key.kind == .node { self.noteStored(key.name.name, ownership.source == .store) }
        switch key.kind {
        // The store writes these with their service.
        case .endpoints, .endpointSlice, .namespace, .pod, .manifest: return
        default: break
        }
        if ownership.origin == .manifests {
            self.snapshot.fromManifests.insert(key)
        } else {
            self.snapshot.fromManifests.remove(key)
        }
    }

    private mutating func noteStored(_ node: String, _ isStored: Bool) {
        guard self.snapshot.nodesFromStore.contains(node) != isStored else { return }
        if isStored { self.snapshot.nodesFromStore.insert(node) } else { self.snapshot.nodesFromStore.remove(node) }
        self.isChanged = true
    }

    private mutating func upsert(_ object: ClusterObject, by owner: Ownership) {
        let key = ObjectKey(object)
        let source = owner.source
        // Where nobody follows pods, nobody would take away what the store had of them.
        if source == .store, key.kind == .pod, !self.settings.keepsPodNames { return }
        let former = self.owners[key]
        if let former, former.source < source {
            if source == .manifests { self.hidden[key] = (object, owner.listing) }
            return
        }
        if let former, former.source == .manifests, source == .api, let object = self.objectInForce(key) {
            self.hidden[key] = (object, former.listing)
        }
        if former == nil { self.countNamespace(of: key, by: 1) }
        if source == .store { self.storedOrigins.insert(owner.origin) }
        self.clearRejection(key)
        self.own(key, owner)
        self.owners[key]?.serviceName = former?.serviceName ?? ""
        if let serviceName = self.put(object, formerServiceName: former?.serviceName) {
            self.owners[key]?.serviceName = serviceName
        }
        if source == .manifests, self.storedOrigins.contains(.manifests) { self.replaceStoredSlices(by: object) }
    }

    /// A folder with a file that cannot be understood does not end its listing, but what it gives for a service is newer
    /// than the store's slices of it.
    private mutating func replaceStoredSlices(by object: ClusterObject) {
        let service: ObjectName
        switch object {
        case .endpoints(let endpoints) where endpoints.groups.contains { !$0.endpoints.isEmpty }:
            service = endpoints.name
        case .endpointSlice(let slice) where !slice.group.endpoints.isEmpty:
            service = ObjectName(namespace: slice.name.namespace, name: slice.serviceName)
        default: return
        }
        for slice in self.records[service]?.slices ?? [] {
            let name = ObjectName(namespace: service.namespace, name: slice.name)
            let key = ObjectKey(kind: .endpointSlice, name: name)
            if let owner = self.owners[key], owner.source == .store, owner.origin == .manifests { self.remove(key) }
        }
    }

    private mutating func delete(_ key: ObjectKey, by source: ObjectSource) {
        if let owner = self.rejectedOwners[key], owner.source == source || owner.source == .store {
            self.clearRejection(key)
        }
        guard let owner = self.owners[key] else { return }
        if self.answers(source, for: owner) {
            self.remove(key)
        } else if source == .manifests {
            self.hidden[key] = nil
        }
    }

    private mutating func remove(_ key: ObjectKey) {
        guard let owner = self.owners.removeValue(forKey: key) else { return }
        self.snapshot.fromManifests.remove(key)
        if key.kind == .node { self.noteStored(key.name.name, false) }
        self.countNamespace(of: key, by: -1)
        self.clearRejection(key)
        self.take(key, serviceName: owner.serviceName)
        if let (object, listing) = self.hidden.removeValue(forKey: key) {
            self.upsert(object, by: Ownership(source: .manifests, origin: .manifests, listing: listing))
        }
    }

    /// Ends a listing: what it did not name is gone, and what the store had of this kind is replaced.
    private mutating func sweep(_ kind: ObjectKind, of source: ObjectSource) {
        let listing = self.listing(source, kind)
        func isGone(_ key: ObjectKey, _ owner: Ownership) -> Bool {
            guard key.kind == kind else { return false }
            guard owner.source == .store else { return owner.source == source && owner.listing != listing }
            return self.answers(source, for: owner)
                || kind == .endpointSlice && self.owns(source, serviceOf: key, owner)
        }
        if source == .manifests {
            self.hidden = self.hidden.filter { $0.key.kind != kind || $0.value.listing == listing }
        }
        for key in self.owners.filter({ isGone($0.key, $0.value) }).keys { self.remove(key) }
        for key in self.rejectedOwners.filter({ isGone($0.key, $0.value) }).keys { self.clearRejection(key) }
    }

    // MARK: Pods

    /// Takes in all pods of a namespace of the cluster, as a listing of them alone.
    mutating func replacePods(_ pods: [PodObject], in namespace: String) -> Set<ObjectName>? {
        for pod in pods where pod.name.namespace == namespace {
            let listing = self.listing(.api, .pod)
            self.upsert(.pod(pod), by: Ownership(source: .api, origin: .api, listing: listing))
        }
        let names = Set(pods.map(\.name))
        self.removePods { $0.namespace == namespace && !names.contains($0) }
        return self.commit()
    }

    /// Forgets the cluster's pods of all other namespaces.
    mutating func keepPods(in namespaces: Set<String>) -> Set<ObjectName>? {
        self.removePods { !namespaces.contains($0.namespace) }
        return self.commit()
    }

    private mutating func removePods(where isGone: (ObjectName) -> Bool) {
        let gone = self.owners.filter { key, owner in
            key.kind == .pod && isGone(key.name) && self.answers(.api, for: owner)
        }
        for key in gone.keys { self.remove(key) }
    }

    /// The store names slices by itself: beside those that a source lists for its services they would never go.
    private func owns(_ source: ObjectSource, serviceOf slice: ObjectKey, _ owner: Ownership) -> Bool {
        let service = ObjectName(namespace: slice.name.namespace, name: owner.serviceName)
        return self.owners[ObjectKey(kind: .service, name: service)]?.source == source
    }

    /// Once a source is in step, nothing that the store had from it counts any more, of kinds that it did not list included.
    private mutating func sweepStore(for source: ObjectSource) {
        func isAnswered(_ origin: ObjectSource) -> Bool {
            self.answers(source, for: Ownership(source: .store, origin: origin, listing: 0))
        }
        if self.storedOrigins.contains(where: isAnswered) {
            self.storedOrigins = self.storedOrigins.filter { !isAnswered($0) }
            func isGone(_ owner: Ownership) -> Bool { owner.source == .store && isAnswered(owner.origin) }
            // The cluster's pods are not listed by its source: `replacePods` and `keepPods` answer for them.
            func isFollowedApart(_ key: ObjectKey) -> Bool { key.kind == .pod && source == .api }
            for key in self.owners.filter({ isGone($0.value) && !isFollowedApart($0.key) }).keys { self.remove(key) }
            for key in self.rejectedOwners.filter({ isGone($0.value) }).keys { self.clearRejection(key) }
        }
        if source == self.authority, self.storedOrigins.isEmpty { self.sourceBook.forget(.store) }
    }

    // MARK: Rejected objects

    private mutating func reject(_ rejection: RejectedObject, by source: ObjectSource, origin: ObjectSource) {
        let key = ObjectKey(kind: rejection.kind, name: rejection.name)
        let ownership = Ownership(source: source, origin: origin, listing: self.listing(source, rejection.kind))
        // The object still exists: its last good version stays in force, also when the store had it.
        if let owner = self.owners[key], self.answers(source, for: owner) {
            let serviceName = owner.serviceName
            self.own(key, ownership)
            self.owners[key]?.serviceName = serviceName
            if rejection.kind == .service { self.touchedServices.insert(rejection.name) }
        } else if source == .manifests {
            self.hidden[key]?.listing = ownership.listing
        }
        self.setRejection(rejection, ownership)
    }

    mutating func setRejection(_ rejection: RejectedObject, _ ownership: Ownership) {
        let key = ObjectKey(kind: rejection.kind, name: rejection.name)
        guard self.snapshot.rejected[key] != nil || self.snapshot.rejected.count < self.settings.maximumRejected else {
            self.snapshot.rejectedOverflow += 1
            self.isChanged = true
            return
        }
        self.rejectedOwners[key] = ownership
        guard self.snapshot.rejected[key] != rejection else { return }
        self.snapshot.rejected[key] = rejection
        self.isChanged = true
    }

    private mutating func clearRejection(_ key: ObjectKey) {
        guard self.rejectedOwners.removeValue(forKey: key) != nil else { return }
        self.snapshot.rejected[key] = nil
        self.isChanged = true
    }

    // MARK: Namespaces

    private mutating func countNamespace(of key: ObjectKey, by change: Int) {
        let namespace: String
        switch key.kind {
        case .service, .pod: namespace = key.name.namespace
        case .namespace: namespace = key.name.name
        default: return
        }
        guard !namespace.isEmpty else { return }
        let count = (self.namespaceReferences[namespace] ?? 0) + change
        if count > 0 {
            self.namespaceReferences[namespace] = count
            if self.snapshot.namespaces.insert(namespace).inserted { self.isChanged = true }
        } else {
            self.namespaceReferences[namespace] = nil
            self.snapshot.namespaces.remove(namespace)
            self.isChanged = true
        }
    }
}
