public import MeshCore

/// networking.istio.io DestinationRule (v1alpha3, v1beta1, v1): the load-balancing part and what the edge gateway uses, as written.
/// Whether a policy is supported is decided by the catalog, which says so in the list of rejected objects.
public struct DestinationRuleObject: Hashable, Sendable {
    public enum LoadBalancer: Hashable, Sendable {
        /// `simple: NAME`, in upper case as the API has it; not validated.
        case simple(String)
        case consistentHash(ConsistentHash)
    }

    public struct ConsistentHash: Hashable, Sendable {
        public enum Key: Hashable, Sendable {
            case sourceIP
            case httpHeader(String)
            /// `ttl` in seconds; nil if the cookie is not to be generated.
            case httpCookie(name: String, path: String?, ttl: Double?)
            case httpQueryParameter(String)
        }

        public enum Algorithm: Hashable, Sendable {
            /// `ringHash` or the older `minimumRingSize`; nil for the default size.
            case ring(minimumSize: UInt64?)
            /// `maglev`; nil for the default table size.
            case maglev(tableSize: UInt64?)
        }

        public var key: Key
        public var algorithm: Algorithm

        public init(key: Key, algorithm: Algorithm) {
            self.key = key
            self.algorithm = algorithm
        }
    }

    /// `trafficPolicy.tls`: how the edge gateway speaks to the service.
    public struct TLS: Hashable, Sendable {
        /// As written: `DISABLE`, `SIMPLE`, `MUTUAL` or `ISTIO_MUTUAL`.
        public var mode: String
        public var sni: String?
        public var subjectAltNames: [String]
        /// The Secret with the authority.
        public var credentialName: String?

        public init(mode: String) {
            self.mode = mode
            self.subjectAltNames = []
        }
    }

    public var name: ObjectName
    /// As written: a short name, a name with namespace, a full domain name, or a wildcard.
    public var host: String
    /// `trafficPolicy.loadBalancer`; nil if there is none.
    public var loadBalancer: LoadBalancer?
    /// `trafficPolicy.portLevelSettings[].loadBalancer`, by service port number.
    public var portLoadBalancers: [UInt16: LoadBalancer] = [:]
    public var tls: TLS?
    /// `trafficPolicy.portLevelSettings[].tls`, by service port number.
    public var portTLS: [UInt16: TLS] = [:]
    /// The labels of the pods of each subset, by its name.
    public var subsets: [String: [String: String]] = [:]

    /// `trafficPolicy.loadBalancer.localityLbSetting`; nil if there is none.
    public var locality: LocalitySetting?

    public init(name: ObjectName, host: String) {
        self.name = name
        self.host = host
    }
}
