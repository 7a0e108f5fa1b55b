public import KubeModel
public import LoadBalancing
public import MeshCore

/// Where an object came from. If two sources have the same object, the one that is earlier here is in force.
public enum ObjectSource: UInt8, Hashable, Sendable, Comparable, CaseIterable {
    /// The Kubernetes API or MetaServer.
    case api
    /// A folder of manifests.
    case manifests
    /// The last good state on disk: in force until the API has listed.
    case store

    public static func < (lhs: ObjectSource, rhs: ObjectSource) -> Bool { lhs.rawValue < rhs.rawValue }
}

/// A service with everything that is known of it: its object, its endpoints, its policy. Immutable; a change makes a new one.
public final class Service: Sendable {
    /// The service as the cluster has it (its `selector` is dropped).
    public let object: ServiceObject
    /// Merged from EndpointSlices, Endpoints or manifest pods; every endpoint, ready or not.
    public let groups: [EndpointGroup]
    /// The policy for ports that `portPolicies` does not name; nil if no DestinationRule sets one (the default serves).
    public let policy: LoadBalancingPolicy?
    /// Policies of single service ports.
    public let portPolicies: [UInt16: LoadBalancingPolicy]
    /// The names of the pods in each subset of its DestinationRule, of those that are behind endpoints and whose labels are known;
    /// empty if those of none are, and without `CatalogSettings.keepsPodNames`.
    public let subsets: [String: Set<String>]
    /// The names of the subsets that its DestinationRules define, whether anything is known of their pods or not.
    public let subsetNames: Set<String>
    /// Which endpoints go first by where they are; nil if no DestinationRule says so.
    public let locality: LocalityPreference?
    /// Whether the proxy serves it: the filter labels and `serviceFilterMode` decide. DNS answers for it either way.
    public let isProxied: Bool
    /// Who defined the service object.
    public let source: ObjectSource

    public var name: ObjectName { self.object.name }

    public init(
        object: ServiceObject,
        groups: [EndpointGroup],
        policy: LoadBalancingPolicy?,
        portPolicies: [UInt16: LoadBalancingPolicy],
        locality: LocalityPreference? = nil,
        subsets: [String: Set<String>] = [:],
        subsetNames: Set<String> = [],
        isProxied: Bool,
        source: ObjectSource = .api
    ) {
        self.object = object
        self.groups = groups
        self.policy = policy
        self.portPolicies = portPolicies
        self.locality = locality
        self.subsets = subsets
        self.subsetNames = subsetNames
        self.isProxied = isProxied
        self.source = source
    }

    /// The policy set for a service port, or nil for the default.
    public func policy(for port: ServiceObject.Port) -> LoadBalancingPolicy? {
        self.portPolicies[port.port] ?? self.policy
    }

    /// The endpoints of one service port that are in a subset: all of them for nil, and where nothing is known of the service's
    /// pods; none in a subset that no rule defines.
    public func endpoints(for port: ServiceObject.Port, subset: String?) -> [ResolvedEndpoint] {
        guard let subset else { return self.endpoints(for: port) }
        guard self.subsetNames.contains(subset) else { return [] }
        let all = self.endpoints(for: port)
        guard let pods = self.subsets[subset] else { return all }
        return all.filter { resolved in resolved.endpoint.podName.map { pods.contains($0) } ?? false }
    }

    /// The endpoints of one service port with the port number that they listen on, in a stable order, each address and
    /// number once. Endpoints that are not ready are included: the caller decides by their conditions.
    public func endpoints(for port: ServiceObject.Port) -> [ResolvedEndpoint] {
        var resolved: [ResolvedEndpoint] = []
        var parts = 0
        for group in self.groups {
            for candidate in group.ports where candidate.name == port.name && candidate.transport == port.transport {
                parts += 1
                resolved.reserveCapacity(resolved.count + group.endpoints.count)
                for endpoint in group.endpoints {
                    resolved.append(ResolvedEndpoint(endpoint: endpoint, port: candidate.port))
                }
            }
        }
        // One group holds an address once; groups that share only this port may repeat each other.
        guard parts > 1 else { return resolved }
        var seen = Set<TransportAddress>(minimumCapacity: resolved.count)
        return resolved.filter { seen.insert($0.transportAddress).inserted }
    }
}

extension Service: Equatable {
    /// Whether both serve alike; `source` does not count.
    public static func == (lhs: Service, rhs: Service) -> Bool {
        lhs === rhs
            || lhs.object == rhs.object && lhs.groups == rhs.groups && lhs.policy == rhs.policy
                && lhs.portPolicies == rhs.portPolicies && lhs.locality == rhs.locality && lhs.subsets == rhs.subsets
                && lhs.subsetNames == rhs.subsetNames && lhs.isProxied == rhs.isProxied
    }
}

/// An endpoint together with the number of one of its ports.
public struct ResolvedEndpoint: Hashable, Sendable {
    public var endpoint: Endpoint
    public var port: UInt16

    public init(endpoint: Endpoint, port: UInt16) {
        self.endpoint = endpoint
        self.port = port
    }

    public var transportAddress: TransportAddress { TransportAddress(self.endpoint.address, self.port) }
}
