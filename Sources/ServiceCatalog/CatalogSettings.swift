public import KubeModel
import LoadBalancing

/// Which services the proxy serves, by the label `service.edgemesh.kubeedge.io/service-proxy-name` (its value is irrelevant).
public enum ServiceFilterMode: String, Hashable, Sendable, CaseIterable {
    /// Every service without the label.
    case filterIfLabelExists = "FilterIfLabelExists"
    /// Only services with the label.
    case filterIfLabelDoesNotExists = "FilterIfLabelDoesNotExists"

    /// Whether a service with these labels is proxied. Kubernetes' own headless label always takes it out.
    public func admits(_ labels: ServiceObject.FilterLabels) -> Bool {
        guard !labels.contains(.headless) else { return false }
        switch self {
        case .filterIfLabelExists: return !labels.contains(.edgeMeshProxyName)
        case .filterIfLabelDoesNotExists: return labels.contains(.edgeMeshProxyName)
        }
    }
}

/// What an operator may set of the catalog; all of it can change while it runs.
public struct CatalogSettings: Hashable, Sendable {
    public static let defaultMaximumRejected = 1_024

    public var filterMode: ServiceFilterMode
    /// Without dots at its ends, such as `cluster.local`: the hosts of DestinationRules may end in it.
    public var clusterDomain: String
    /// The most rejected objects that a snapshot lists; more are only counted.
    public var maximumRejected: Int
    /// `loadBalancer.consistentHash.load`: how far above its share of connections a ring endpoint may go; at least 1.
    public var ringLoadFactor: Double
    /// The least size of hash rings whose rule does not say.
    public var ringSize: Int
    /// Endpoints keep the names of their pods, which `Service.subsets` needs. Of endpoints that come later on.
    public var keepsPodNames: Bool

    public init(
        filterMode: ServiceFilterMode = .filterIfLabelExists,
        clusterDomain: String = "cluster.local",
        maximumRejected: Int = Self.defaultMaximumRejected,
        ringLoadFactor: Double? = nil,
        ringSize: Int? = nil,
        keepsPodNames: Bool = false
    ) {
        self.keepsPodNames = keepsPodNames
        self.filterMode = filterMode
        self.clusterDomain = clusterDomain
        self.maximumRejected = maximumRejected
        self.ringLoadFactor = ringLoadFactor ?? ConsistentHashPolicy.defaultLoadFactor
        self.ringSize = ringSize ?? ConsistentHashPolicy.defaultRingSize
    }
}
