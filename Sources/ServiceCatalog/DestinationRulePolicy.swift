import KubeModel
import LoadBalancing
import MeshCore

/// A DestinationRule whose policies are supported.
struct ValidatedRule: Equatable {
    var object: DestinationRuleObject
    var host: DestinationRuleHost
    var policy: LoadBalancingPolicy?
    var portPolicies: [UInt16: LoadBalancingPolicy]
    var locality: LocalityPreference?

    init(_ object: DestinationRuleObject, settings: CatalogSettings) throws(RuleRefusal) {
        self.object = object
        self.host = DestinationRuleHost(
            object.host,
            ruleNamespace: object.name.namespace,
            clusterDomain: settings.clusterDomain
        )
        self.policy = nil
        self.portPolicies = [:]
        if let balancer = object.loadBalancer {
            self.policy = try LoadBalancingPolicy(
                balancer,
                field: "spec.trafficPolicy.loadBalancer",
                settings: settings
            )
        }
        if let setting = object.locality {
            self.locality = try LocalityPreference(
                setting,
                field: "spec.trafficPolicy.loadBalancer.localityLbSetting"
            )
        }
        for (port, balancer) in object.portLoadBalancers.sorted(by: { $0.key < $1.key }) {
            let field = "spec.trafficPolicy.portLevelSettings[port \(port)].loadBalancer"
            self.portPolicies[port] = try LoadBalancingPolicy(balancer, field: field, settings: settings)
        }
    }
}

/// Why a DestinationRule is not used.
struct RuleRefusal: Error {
    var field: String
    var reason: String
}

extension LoadBalancingPolicy {
    init(
        _ balancer: DestinationRuleObject.LoadBalancer,
        field: String,
        settings: CatalogSettings
    ) throws(RuleRefusal) {
        switch balancer {
        case .simple(let name):
            switch name.uppercased() {
            case "ROUND_ROBIN", "UNSPECIFIED": self = .roundRobin
            case "RANDOM": self = .random
            case "LEAST_CONN", "LEAST_REQUEST": self = .leastRequest
            default:
                throw RuleRefusal(
                    field: field + ".simple",
                    reason:
                        "policy \(name) is not supported: use ROUND_ROBIN, RANDOM, LEAST_REQUEST or consistentHash; "
                        + "the service keeps the default policy"
                )
            }
        case .consistentHash(let hash):
            self = .consistentHash(try ConsistentHashPolicy(hash, field: field + ".consistentHash", settings: settings))
        }
    }
}

extension ConsistentHashPolicy {
    init(
        _ hash: DestinationRuleObject.ConsistentHash,
        field: String,
        settings: CatalogSettings
    ) throws(RuleRefusal) {
        let key: Key
        switch hash.key {
        case .sourceIP: key = .sourceAddress
        case .httpHeader(let name):
            guard !name.isEmpty else {
                throw RuleRefusal(field: field + ".httpHeaderName", reason: "the header name is empty")
            }
            key = .httpHeader(name)
        case .httpCookie(let name, let path, let ttl):
            guard !name.isEmpty else {
                throw RuleRefusal(field: field + ".httpCookie.name", reason: "the cookie name is empty")
            }
            // Ten years: far above any use, far below what `Duration` can hold.
            if let ttl, !(0...315_360_000).contains(ttl) {
                throw RuleRefusal(field: field + ".httpCookie.ttl", reason: "the ttl is not between 0 s and ten years")
            }
            key = .httpCookie(name: name, path: path, timeToLive: ttl.map { .seconds($0) })
        case .httpQueryParameter(let name):
            guard !name.isEmpty else {
                throw RuleRefusal(field: field + ".httpQueryParameterName", reason: "the parameter name is empty")
            }
            key = .httpQueryParameter(name)
        }
        switch hash.algorithm {
        case .ring(let minimumSize):
            let size = minimumSize ?? 0
            guard size <= UInt64(Self.ringSizes.upperBound) else {
                throw RuleRefusal(
                    field: field + ".minimumRingSize",
                    reason: "ring size \(size) is above the bound of \(Self.ringSizes.upperBound)"
                )
            }
            // Zero is protobuf's way to say "not set".
            let ringSize = size == 0 ? settings.ringSize : Int(size)
            self.init(key: key, algorithm: .ring(minimumSize: ringSize, loadFactor: settings.ringLoadFactor))
        case .maglev(let tableSize):
            let size = tableSize.flatMap { $0 == 0 ? nil : $0 } ?? UInt64(Self.defaultMaglevTableSize)
            guard let size = Int(exactly: size), Self.maglevTableSizes.contains(size), Self.isPrime(size) else {
                throw RuleRefusal(
                    field: field + ".maglev.tableSize",
                    reason: "table size \(size) is not a prime up to \(Self.maglevTableSizes.upperBound): "
                        + "leave it out for \(Self.defaultMaglevTableSize)"
                )
            }
            self.init(key: key, algorithm: .maglev(tableSize: size))
        }
    }
}
