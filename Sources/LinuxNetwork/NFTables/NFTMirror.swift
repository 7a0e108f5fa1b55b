/// What our tables hold: kept so that a change costs what it changes.
struct NFTMirror {
    private(set) var rules: [KernelFrontend: KernelRule] = [:]
    /// How many frontends want a chain or the address of a backend on this node.
    private(set) var chains: [NFTFamily: [String: Int]] = [:]
    private var localBackends: [NFTFamily: [[UInt8]: Int]] = [:]
    /// How often a frontend's rule changed, as part of the names of the chains that are its own.
    private var versions: [KernelFrontend: UInt32] = [:]

    /// Writes the difference: new chains, old elements, new elements, then chains that nobody names any more.
    mutating func apply(
        _ changes: [KernelFrontend: KernelRule?],
        families: [NFTFamily],
        into start: NFTBatch
    ) -> NFTBatch {
        var batch = start
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
                    removed[set, default: []] += Self.elements(elements, without: newPlan.elements[set])
                }
                for (set, elements) in newPlan.elements {
                    added[set, default: []] += Self.elements(elements, without: oldPlan.elements[set])
                }
                for chain in oldPlan.chains { chainChanges[chain, default: 0] -= 1 }
                for chain in newPlan.chains { chainChanges[chain, default: 0] += 1 }
                for address in oldPlan.localBackends { localChanges[address, default: 0] -= 1 }
                for address in newPlan.localBackends { localChanges[address, default: 0] += 1 }
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
            for (chain, change) in chainChanges.sorted(by: { $0.key.rank < $1.key.rank }) where change != 0 {
                let name = chain.name
                let before = self.chains[family]?[name] ?? 0
                self.chains[family, default: [:]][name] = before + change > 0 ? before + change : nil
                if before == 0 { chain.write(family, to: &batch) }
                if before + change == 0 { deadChains.append(name) }
            }
            for (set, elements) in removed { batch.elements(.deleteElement, family, set, elements) }
            for (set, elements) in added { batch.elements(.newElement, family, set, elements) }
            for name in deadChains.reversed() { batch.deleteChain(family, name) }
        }
        return batch
    }

    /// All of them at a frontend's first rule, without a look at each.
    private static func elements(_ elements: [NFTElement], without others: [NFTElement]?) -> [NFTElement] {
        guard let others else { return elements }
        let known = Set(others)
        return elements.filter { !known.contains($0) }
    }

    private mutating func plans(
        _ frontend: KernelFrontend,
        from old: KernelRule?,
        to new: KernelRule?
    ) -> (old: NFTRulePlan, new: NFTRulePlan) {
        let version = self.versions[frontend] ?? 0
        let next = old == nil || new == nil ? version : version &+ 1
        self.versions[frontend] = new == nil ? nil : next
        let oldPlan = old.map { NFTRulePlan(frontend, $0, version: version) } ?? NFTRulePlan()
        return (oldPlan, new.map { NFTRulePlan(frontend, $0, version: next) } ?? NFTRulePlan())
    }
}
