import KubeModel
import MeshCore

/// The BackendTLSPolicies in force.
struct BackendPolicies {
    struct Entry {
        var resource: GatewayResource
        /// Nil if it cannot be carried out: its backends get nothing.
        var tls: BackendTLS?
        var conditions: [GatewayCondition]
        /// Those of which an older policy is in force, too.
        fileprivate var targets: [Target] = []

        init(resource: GatewayResource, tls: BackendTLS?, conditions: [GatewayCondition]) {
            self.resource = resource
            self.tls = tls
            self.conditions = conditions
        }
    }

    fileprivate struct Target: Hashable {
        var service: ObjectName
        /// The name of a port; nil for all.
        var section: String?
    }

    /// A route that leads to a port of a service.
    private struct User {
        var port: String
        var route: ObjectIndex.Key
    }

    private(set) var entries: [Entry] = []
    private var byTarget: [Target: Int] = [:]
    private var users: [ObjectName: [User]] = [:]

    /// Nil without a policy; `.some(nil)` with one that cannot be carried out.
    mutating func tls(
        of service: ObjectName,
        _ port: ServiceObject.Port,
        for route: GatewayResource
    ) -> BackendTLS?? {
        let target = Target(service: service, section: port.name)
        guard let index = self.byTarget[target] ?? self.byTarget[Target(service: service, section: nil)] else {
            return nil
        }
        self.users[service, default: []].append(User(port: port.name, route: ObjectIndex.Key(route)))
        return .some(self.entries[index].tls)
    }

    /// The routes that lead to what a policy is for, whether or not it is in force.
    fileprivate func routes(to entry: Entry) -> [ObjectIndex.Key] {
        entry.targets.flatMap { target in
            (self.users[target.service] ?? []).lazy.filter { [nil, $0.port].contains(target.section) }.map(\.route)
        }
    }

    /// Of two for the same target the first, which is older, is in force.
    mutating func add(_ entry: Entry, _ targets: [BackendTLSPolicySpec.Target]) {
        var entry = entry
        var free: [Target] = []
        for target in targets where target.kind == "Service" && target.group.isEmpty {
            let name = ObjectName(namespace: entry.resource.name.namespace, name: target.name)
            let key = Target(service: name, section: target.sectionName)
            entry.targets.append(key)
            if self.byTarget[key] == nil { free.append(key) }
        }
        if free.isEmpty, entry.conditions.first?.isTrue == true {
            entry.conditions[0] = GatewayCondition(
                "Accepted",
                false,
                "Conflicted",
                "an older policy has the same targets"
            )
        }
        for key in free { self.byTarget[key] = self.entries.count }
        self.entries.append(entry)
    }
}

extension GatewayCompiler {
    mutating func policies() -> BackendPolicies {
        var policies = BackendPolicies()
        for resource in self.input.resources {
            guard case .backendTLSPolicy(let spec) = resource.content else { continue }
            var accepted = GatewayCondition("Accepted", true, "Accepted")
            var resolved = GatewayCondition("ResolvedRefs", true, "ResolvedRefs")
            var authorities: [ObjectName] = []
            for reference in spec.authorities {
                switch self.certificate(reference, of: resource, for: .backendAuthority) {
                case .success(let name): authorities.append(name)
                case .failure(let problem): resolved = problem.condition
                }
            }
            let isGood = !authorities.isEmpty || spec.usesSystemAuthorities
            if !isGood {
                accepted = GatewayCondition(
                    "Accepted",
                    false,
                    "NoValidCACertificate",
                    "no authority for the backend's certificate can be used"
                )
            }
            if !spec.subjectAltNames.isEmpty {
                self.find(
                    .warning,
                    resource,
                    "spec.validation.subjectAltNames",
                    "the certificate must hold hostname; further names are not looked at"
                )
            }
            for condition in [accepted, resolved] where !condition.isTrue {
                self.find(.error, resource, "spec.validation", condition.message)
            }
            let tls = BackendTLS(name: spec.hostname, authorities: spec.usesSystemAuthorities ? nil : authorities)
            policies.add(
                BackendPolicies.Entry(resource: resource, tls: isGood ? tls : nil, conditions: [accepted, resolved]),
                spec.targets
            )
        }
        return policies
    }

    /// Policies tell their state at the gateways that use them: those with a route that leads to their target.
    mutating func addStatuses(of policies: BackendPolicies) {
        for entry in policies.entries {
            var status = GatewayStatus(entry.resource)
            status.conditions = entry.conditions
            let gateways = policies.routes(to: entry).flatMap { self.gatewaysOfRoutes[$0] ?? [] }
            var seen: Set<ParentReference> = []
            status.parents = gateways.filter { seen.insert($0).inserted }.map { gateway in
                GatewayStatus.Parent(reference: gateway, conditions: entry.conditions)
            }
            self.result.statuses.append(status)
        }
    }
}
