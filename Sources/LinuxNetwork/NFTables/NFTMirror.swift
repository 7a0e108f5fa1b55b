/// What our tables hold: kept so that a change costs what it changes.
struct NFTMirror {
    private(set) var rules: [KernelFrontend: KernelRule] = [:]
    /// How many frontends want a chain or the address of a backend on this node.
    private(set) var chains: [NFTFamily: [String: Int]] = [:]
    private var localBackends: [NFTFamily: [[UInt8]: Int]] = [:]
    private var sourcesVersions: [KernelFrontend: UInt32] = [:]

    /// Writes the difference: new chains, old elements, new elements, then chains that nobody names any more. Returns the batch
    /// and, per family, the frontends and backends that affinity entries must no longer name.
    mutating func apply(
        _ changes: [KernelFrontend: KernelRule?],
        families: [NFTFamily],
        into start: NFTBatch
    ) -> (batch: NFTBatch, staleAffinities: [NFTFamily: Set<[UInt8]>]) {
        var batch = start
        var stale: [NFTFamily: Set<[UInt8]>] = [:]
        for family in families {
            var removed: [NFTSet: [NFTElement]] = [:]
            var added: [NFTSet: [NFTElement]] = [:]
            var chainChanges: [NFTDynamicChain: Int] = [:]
            var localChanges: [[UInt8]: Int] = [:]
            for (frontend, rule) in changes where NFTFamily(frontend.family) == family {
                let old = self.rules[frontend]
                guard old != rule else { continue }
                let (oldPlan, newPlan) = self.plans(frontend, from: old, to: rule)
                for (set, elements) in oldPlan.elements {
                    removed[set, default: []] += elements.subtracting(newPlan.elements[set] ?? [])
                }
                for (set, elements) in newPlan.elements {
                    added[set, default: []] += elements.subtracting(oldPlan.elements[set] ?? [])
                }
                for chain in oldPlan.chains { chainChanges[chain, default: 0] -= 1 }
                for chain in newPlan.chains { chainChanges[chain, default: 0] += 1 }
                for address in oldPlan.localBackends { localChanges[address, default: 0] -= 1 }
                for address in newPlan.localBackends { localChanges[address, default: 0] += 1 }
                let left = oldPlan.affinities.subtracting(newPlan.affinities)
                if !left.isEmpty { stale[family, default: []].formUnion(left) }
                self.rules[frontend] = rule
            }
            for (address, change) in localChanges where change != 0 {
                let before = self.localBackends[family]?[address] ?? 0
                self.localBackends[family, default: [:]][address] = before + change > 0 ? before + change : nil
                for (set, key) in [(NFTSet.hairpin, address + address), (.localBackends, address)] {
                    if before == 0 { added[set, default: []].append(NFTElement(key: key)) }
                    if before + change == 0 { removed[set, default: []].append(NFTElement(key: key)) }
                }
            }
            var deadChains: [String] = []
            for (chain, change) in chainChanges where change != 0 {
                let name = chain.name
                let before = self.chains[family]?[name] ?? 0
                self.chains[family, default: [:]][name] = before + change > 0 ? before + change : nil
                if before == 0 { chain.write(family, to: &batch) }
                if before + change == 0 { deadChains.append(name) }
            }
            for (set, elements) in removed { batch.elements(.deleteElement, family, set, elements) }
            for (set, elements) in added { batch.elements(.newElement, family, set, elements) }
            for name in deadChains { batch.deleteChain(family, name) }
        }
        return (batch, stale)
    }

    private mutating func plans(
        _ frontend: KernelFrontend,
        from old: KernelRule?,
        to new: KernelRule?
    ) -> (old: NFTRulePlan, new: NFTRulePlan) {
        let version = self.sourcesVersions[frontend] ?? 0
        let keepsSources = old?.sourceRanges == new?.sourceRanges && old?.admission == new?.admission
        let next = keepsSources ? version : version &+ 1
        self.sourcesVersions[frontend] = new?.sourceRanges.isEmpty == false ? next : nil
        return (
            old.map { NFTRulePlan(frontend, $0, sourcesVersion: version) } ?? NFTRulePlan(),
            new.map { NFTRulePlan(frontend, $0, sourcesVersion: next) } ?? NFTRulePlan()
        )
    }
}
