public import HashTreeCollections
public import KubeModel
public import MeshCore

/// The state of the cluster as this node knows it at one version. Immutable, cheap to copy (its trees share structure).
public struct CatalogSnapshot: Sendable {
    /// Grows by one with every published change.
    public internal(set) var version: UInt64 = 0
    public internal(set) var services: TreeDictionary<ObjectName, Service> = [:]
    /// Namespaces that exist, by their objects or because a service or pod lies in them.
    public internal(set) var namespaces: TreeSet<String> = []
    /// The labels of namespaces that have some, for listeners that choose namespaces by label.
    public internal(set) var namespaceLabels: TreeDictionary<String, [String: String]> = [:]
    /// Objects of the edge gateway, which are followed only where it is enabled. No Secret is among them.
    public internal(set) var gatewayResources: TreeDictionary<RejectedKey, GatewayResource> = [:]
    public internal(set) var nodes: TreeDictionary<String, NodeObject> = [:]
    /// Of these, those that only the last good state on disk tells of: they may be older than what an earlier run of the agent knew.
    public internal(set) var nodesFromStore: TreeSet<String> = []
    /// DestinationRules whose policy is supported, whether or not a service matches.
    public internal(set) var destinationRules: TreeDictionary<ObjectName, DestinationRuleObject> = [:]
    /// Cluster IPs of services, for PTR answers. If several services claim an address, the first by name has it.
    public internal(set) var servicesByClusterIP: TreeDictionary<IPAddress, ObjectName> = [:]
    /// Addresses of endpoints of headless services, for PTR answers: the services that hold them, in order of name.
    public internal(set) var headlessServicesByEndpoint: TreeDictionary<IPAddress, [ObjectName]> = [:]
    /// Objects that were refused, by kind and name; at most `CatalogSettings.maximumRejected`.
    public internal(set) var rejected: TreeDictionary<RejectedKey, RejectedObject> = [:]
    /// How many refusals were left out of `rejected` because it was full, since the start.
    public internal(set) var rejectedOverflow: UInt64 = 0
    /// Objects that are in force, but probably not as their author meant: what an operator should know.
    public internal(set) var warnings: TreeDictionary<RejectedKey, String> = [:]
    /// The labels of all pods that are known, for subsets; read from manifests, and of the cluster only what `replacePods` tells.
    var podLabels: TreeDictionary<ObjectName, [String: String]> = [:]
    /// Services, nodes, rules and objects of the gateway that came from manifests, for the store: their folder answers for them at the next start.
    var fromManifests: TreeSet<RejectedKey> = []

    public struct RejectedKey: Hashable, Sendable {
        public var kind: ObjectKind
        public var name: ObjectName

        public init(kind: ObjectKind, name: ObjectName) {
            self.kind = kind
            self.name = name
        }
    }

    public init() {}
}

/// A new snapshot and what is different in it.
public struct CatalogUpdate: Sendable {
    public var snapshot: CatalogSnapshot
    /// Services that are new, changed or gone since the snapshot that the subscriber saw last.
    public var changedServices: Set<ObjectName>

    public init(snapshot: CatalogSnapshot, changedServices: Set<ObjectName>) {
        self.snapshot = snapshot
        self.changedServices = changedServices
    }
}
