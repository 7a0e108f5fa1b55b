import LinuxNetwork
import MeshCore

/// Which service owns each frontend, and a digest of what is programmed for it: enough to find out what changed without
/// keeping every rule in memory a second time.
struct FrontendLedger {
    struct Change {
        var service: ObjectName
        /// Who owned the frontend before; nil: nobody.
        var formerOwner: ObjectName?
        /// Nil removes the frontend.
        var planned: PlannedFrontend?
    }

    struct Conflict: Hashable, Sendable {
        var frontend: KernelFrontend
        var owner: ObjectName
        var loser: ObjectName
    }

    private struct Claim {
        /// In order of name: the first owns the frontend.
        var claimants: [ObjectName]
        var digest: Int?
    }

    private var claims: [KernelFrontend: Claim] = [:]
    private var frontends: [ObjectName: [KernelFrontend]] = [:]
    /// Frontends that more than one service claims.
    private var contested: Set<KernelFrontend> = []

    var frontendCount: Int { self.claims.count }
    var serviceCount: Int { self.frontends.count }

    var conflicts: [Conflict] {
        self.contested.sorted().flatMap { frontend -> [Conflict] in
            guard let claimants = self.claims[frontend]?.claimants, let owner = claimants.first else { return [] }
            return claimants.dropFirst().map { Conflict(frontend: frontend, owner: owner, loser: $0) }
        }
    }

    func owner(of frontend: KernelFrontend) -> ObjectName? {
        self.claims[frontend]?.claimants.first
    }

    /// What becomes of the frontends that the changed services claim or claimed. `plan` is asked once for each service.
    mutating func update(
        _ changed: some Collection<ObjectName>,
        plan: (ObjectName) -> ServicePlan?
    ) -> [KernelFrontend: Change] {
        var plans: [ObjectName: [KernelFrontend: PlannedFrontend]] = [:]
        func planned(_ service: ObjectName) -> [KernelFrontend: PlannedFrontend] {
            if let known = plans[service] { return known }
            let fresh = plan(service)?.frontends ?? []
            let index = Dictionary(fresh.map { ($0.frontend, $0) }, uniquingKeysWith: { first, _ in first })
            plans[service] = index
            return index
        }
        var touched: [KernelFrontend: (service: ObjectName, formerOwner: ObjectName?)] = [:]
        for service in changed {
            let new = planned(service)
            for frontend in self.frontends[service] ?? [] {
                let former = touched[frontend]?.formerOwner ?? self.owner(of: frontend)
                touched[frontend] = (service, former)
                if new[frontend] == nil { self.claims[frontend]?.claimants.removeAll { $0 == service } }
            }
            for frontend in new.keys {
                if touched[frontend] == nil { touched[frontend] = (service, self.owner(of: frontend)) }
                var claim = self.claims[frontend] ?? Claim(claimants: [], digest: nil)
                if !claim.claimants.contains(service) {
                    let position = claim.claimants.firstIndex { $0 > service } ?? claim.claimants.count
                    claim.claimants.insert(service, at: position)
                }
                self.claims[frontend] = claim
            }
            self.frontends[service] = new.isEmpty ? nil : Array(new.keys)
        }
        var changes: [KernelFrontend: Change] = [:]
        for (frontend, (service, formerOwner)) in touched {
            guard let claim = self.claims[frontend] else { continue }
            if claim.claimants.count > 1 { self.contested.insert(frontend) } else { self.contested.remove(frontend) }
            if let owner = claim.claimants.first {
                let new = planned(owner)[frontend]
                // A change of endpoints behind an unchanged `.proxy` rule counts too: the route needs it.
                let digest = Self.digest(owner, new)
                guard digest != claim.digest else { continue }
                self.claims[frontend]?.digest = digest
                changes[frontend] = Change(service: owner, formerOwner: formerOwner, planned: new)
            } else {
                self.claims[frontend] = nil
                changes[frontend] = Change(service: service, formerOwner: formerOwner, planned: nil)
            }
        }
        return changes
    }

    private static func digest(_ owner: ObjectName, _ planned: PlannedFrontend?) -> Int {
        var hasher = Hasher()
        hasher.combine(owner)
        hasher.combine(planned?.rule)
        hasher.combine(planned?.route)
        return hasher.finalize()
    }
}
