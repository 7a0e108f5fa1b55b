import KubeModel
import MeshCore

/// The BackendTLSPolicies in force.
struct BackendPolicies {
    struct Entry {
        var resource: GatewayResource
        /// Nil if it cannot be carried out: its backends get nothing.
        var tls: BackendTLS?
        var conditions: [GatewayCondition]
        var isUsed = false
    }

    private struct Target: Hashable {
        var service: ObjectName
        /// The name of a port; nil for all.
        var section: String?
    }

    private(set) var entries: [Entry] = []
    private var byTarget: [Target: Int] = [:]

    /// Nil without a policy; `.some(nil)` with one that cannot be carried out.
    mutating func tls(of service: ObjectName, _ port: ServiceObject.Port) -> BackendTLS?? {
        let target = Target(service: service, section: port.name)
        guard let index = self.byTarget[target] ?? self.byTarget[Target(service: service, section: nil)] else {
            return nil
        }
        self.entries[index].isUsed = true
        return .some(self.entries[index].tls)
    }

    /// Of two for the same target the first, which is older, is in force.
    mutating func add(_ entry: Entry, _ targets: [BackendTLSPolicySpec.Target]) {
        var entry = entry
        var free: [Target] = []
        for target in targets where target.kind == "Service" && target.group.isEmpty {
            let name = ObjectName(namespace: entry.resource.name.namespace, name: target.name)
            let key = Target(service: name, section: target.sectionName)
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
        for entry in policies.entries where entry.isUsed || entry.conditions.contains(where: { !$0.isTrue }) {
            var status = GatewayStatus(entry.resource)
            status.conditions = entry.conditions
            self.result.statuses.append(status)
        }
    }
}
