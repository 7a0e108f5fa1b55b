import HashTreeCollections
import KubeModel
import MeshCore

/// DestinationRules: which service each belongs to. Rules and services may come in any order.
extension CatalogState {
    mutating func putRule(_ object: DestinationRuleObject) {
        let rule: ValidatedRule
        do {
            rule = try ValidatedRule(object, settings: self.settings)
        } catch {
            self.removeRule(object.name)
            let key = ObjectKey(kind: .destinationRule, name: object.name)
            self.refusedRules[object.name] = object
            if let owner = self.owners[key] {
                let rejection = RejectedObject(
                    kind: .destinationRule,
                    name: object.name,
                    field: error.field,
                    reason: error.reason
                )
                self.setRejection(rejection, owner)
            }
            return
        }
        if let former = self.rules[object.name] {
            guard former != rule else { return }
            self.removeRule(object.name)
        }
        self.refusedRules[object.name] = nil
        self.rules[object.name] = rule
        self.snapshot.destinationRules[object.name] = object
        switch rule.host {
        case .service(let service):
            var names = self.rulesByHost[service] ?? []
            names.insert(object.name, at: names.firstIndex { $0 > object.name } ?? names.count)
            self.rulesByHost[service] = names
        case .namespace, .all:
            self.wildcardRules.insert(object.name)
        case .external:
            break
        }
        self.isChanged = true
        self.touchedRules.insert(object.name)
        self.touchServices(of: rule)
    }

    mutating func removeRule(_ name: ObjectName) {
        self.refusedRules[name] = nil
        guard let rule = self.rules.removeValue(forKey: name) else { return }
        self.snapshot.destinationRules[name] = nil
        if case .service(let service) = rule.host {
            let names = (self.rulesByHost[service] ?? []).filter { $0 != name }
            self.rulesByHost[service] = names.isEmpty ? nil : names
        }
        self.wildcardRules.remove(name)
        self.isChanged = true
        self.touchedRules.insert(name)
        self.touchServices(of: rule)
    }

    func ruleInForce(_ name: ObjectName) -> DestinationRuleObject? {
        self.rules[name]?.object ?? self.refusedRules[name]
    }

    /// The rule that sets the policy of a service: the one of its name, else the one whose host means it most exactly.
    /// Of equal ones, one in the service's own namespace goes first, then the first by name.
    func rule(for service: ObjectName) -> ValidatedRule? {
        if let rule = self.rules[service] { return rule }
        let exact = (self.rulesByHost[service] ?? []).filter { !self.isBoundByName($0) }
        if let name = exact.first(where: { $0.namespace == service.namespace }) ?? exact.first {
            return self.rules[name]
        }
        var best: (rule: ValidatedRule, rank: (Int, Int, ObjectName))?
        for name in self.wildcardRules {
            guard let rule = self.rules[name], rule.host.covers(service), !self.isBoundByName(name) else { continue }
            let rank = (rule.host == .all ? 1 : 0, name.namespace == service.namespace ? 0 : 1, name)
            if best.map({ rank < $0.rank }) ?? true { best = (rule, rank) }
        }
        return best?.rule
    }

    /// The labels of each subset of a service. A rule may be split in several for the same host, as in Istio: the one in force goes first,
    /// and the others only add subsets.
    func subsets(of service: ObjectName, _ rule: ValidatedRule?) -> [String: [String: String]] {
        guard let rule else { return [:] }
        let others = (self.rulesByHost[service] ?? []).lazy.filter { !self.isBoundByName($0) }
        return others.compactMap { self.rules[$0]?.object.subsets }.reduce(into: rule.object.subsets) { all, more in
            all.merge(more) { first, _ in first }
        }
    }

    /// EdgeMesh gives a rule to the service of its name whatever its host says, and its users rely on that. Such a rule
    /// does not also serve the host that it names.
    private func isBoundByName(_ name: ObjectName) -> Bool {
        guard let rule = self.rules[name], !rule.host.covers(name) else { return false }
        return self.serviceObject(name) != nil
    }

    /// A service that comes or goes decides where the rule of its name belongs.
    mutating func touchServicesOfRules() {
        for name in self.pendingObjects.keys {
            guard let rule = self.rules[name] else { continue }
            self.touchedRules.insert(name)
            if !rule.host.covers(name) { self.touchServices(of: rule) }
        }
    }

    private mutating func touchServices(of rule: ValidatedRule) {
        self.touchedServices.insert(rule.object.name)
        switch rule.host {
        case .service(let service):
            self.touchedServices.insert(service)
        case .namespace, .all:
            // Services that come in this batch are touched by themselves.
            for service in self.snapshot.services.keys where rule.host.covers(service) {
                self.touchedServices.insert(service)
            }
        case .external:
            break
        }
    }

    mutating func updateWarning(of name: ObjectName) {
        let key = ObjectKey(kind: .destinationRule, name: name)
        var warning: String?
        if self.isBoundByName(name), let rule = self.rules[name] {
            warning =
                "host \"\(rule.object.host)\" does not mean the service \(name), but the rule has its name and is applied "
                + "to it only: set host to \"\(name.name)\" or rename the rule"
        }
        guard self.snapshot.warnings[key] != warning else { return }
        self.snapshot.warnings[key] = warning
        self.isChanged = true
    }
}
