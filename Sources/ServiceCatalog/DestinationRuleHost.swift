import KubeModel
import MeshCore

/// Which services the `host` of a DestinationRule means.
enum DestinationRuleHost: Hashable {
    /// One service, which need not exist.
    case service(ObjectName)
    /// Every service of a namespace: `*.NAMESPACE.svc...`.
    case namespace(String)
    /// Every service: `*`, `*.svc...`.
    case all
    /// A name outside of the cluster.
    case external

    /// Reads a host as Istio does (a short name is in the rule's own namespace; full names end in the cluster domain), and
    /// the forms `name.namespace` and `name.namespace.svc` that resolvers complete.
    init(_ host: String, ruleNamespace: String, clusterDomain: String) {
        var host = host.lowercased()[...]
        if host.hasSuffix(".") { host = host.dropLast() }
        let domain = "." + clusterDomain.lowercased()
        if host.hasSuffix(domain) {
            host = host.dropLast(domain.count)
            // Below the cluster domain only `svc` holds services.
            guard host == "*" || host == "*.svc" || host.hasSuffix(".svc") else {
                self = .external
                return
            }
        }
        let labels = host.split(separator: ".", omittingEmptySubsequences: false)
        guard labels.allSatisfy({ !$0.isEmpty }) else {
            self = .external
            return
        }
        switch (labels.count, labels.first) {
        case (1, "*"): self = .all
        case (1, .some(let name)): self = .service(ObjectName(namespace: ruleNamespace, name: String(name)))
        case (2, "*") where labels[1] == "svc": self = .all
        case (2, "*"): self = .namespace(String(labels[1]))
        case (2, .some(let name)): self = .service(ObjectName(namespace: String(labels[1]), name: String(name)))
        case (3, "*") where labels[2] == "svc": self = .namespace(String(labels[1]))
        case (3, .some(let name)) where labels[2] == "svc":
            self = .service(ObjectName(namespace: String(labels[1]), name: String(name)))
        default: self = .external
        }
    }

    func covers(_ service: ObjectName) -> Bool {
        switch self {
        case .service(let name): name == service
        case .namespace(let namespace): namespace == service.namespace
        case .all: true
        case .external: false
        }
    }

    var isWildcard: Bool {
        switch self {
        case .namespace, .all: true
        case .service, .external: false
        }
    }
}
