import MeshCore

/// Service rules in iptables, for kernels without nf_tables maps: one `iptables-restore` per address family and change.
///
/// Every frontend has a rule in the shared chains, tried one after the other, so that a flow's first packet costs time in
/// proportion to the number of services: some thousands at most. A frontend that the kernel balances has a chain of its own.
/// A restore is one transaction for each of the tables `nat` and `filter`; each change also puts our hooks back to the front
/// of their chains. An error may leave one table changed: `install` mends that. IPv6 is programmed only if the listeners have it.
///
/// Between the transactions of one change a new flow meets the tables at different states, for some milliseconds. Their order
/// is such that it is served or refused as before or after, and never goes out untranslated: `filter` refuses what will be
/// refused before `nat` ceases to translate it, and admits what will be served after `nat` has begun to. Only `install`, which
/// does not know what was refused before, may let a first packet of such a frontend through; the client sends it again.
public actor IPTablesProgram: ServiceProgramming {
    public nonisolated let backendName: String

    private let tools: IPTablesTools
    private var families: [IPFamily] = []
    private var listeners: ProxyListeners?
    private var rules: [KernelFrontend: KernelRule] = [:]
    /// What the shared chains of `filter` hold: they rarely change.
    private var filter: [IPFamily: [String: [String]]] = [:]
    private let marking: String
    /// Whether flows to endpoints are marked for `ForwardAcceptance`. Not on a host without the target CONNMARK.
    private(set) var marksFlows = true

    /// `namespace` is nil for this process's own.
    public init(variant: IPTablesVariant, namespace: NetworkNamespace? = nil) {
        self.init(variant: variant, namespace: namespace, marking: ForwardAcceptance.marking)
    }

    init(variant: IPTablesVariant, namespace: NetworkNamespace?, marking: String) {
        self.backendName = variant.rawValue
        self.tools = IPTablesTools(variant: variant, namespace: namespace)
        self.marking = marking
    }

    private func ruleset(_ family: IPFamily, _ listeners: ProxyListeners) -> IPTablesRuleset {
        IPTablesRuleset(family: family, listeners: listeners, marking: self.marksFlows ? self.marking : nil)
    }

    public func install(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) async throws {
        self.marksFlows = true
        do {
            try await self.installAll(listeners: listeners, rules: rules)
        } catch {
            // A kernel may lack just xt_connmark, which only a host firewall that drops forwarded packets needs.
            self.marksFlows = false
            do {
                try await self.installAll(listeners: listeners, rules: rules)
            } catch _ {
                self.marksFlows = true
                throw error
            }
        }
    }

    private func installAll(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) async throws {
        let families: [IPFamily] = listeners.tcpV6 == nil && listeners.udpV6 == nil ? [.v4] : [.v4, .v6]
        for family in families {
            let ruleset = self.ruleset(family, listeners)
            let shared = ruleset.sharedChains(rules)
            var chains = (nat: shared.nat, filter: shared.filter)
            for (frontend, rule) in rules where frontend.family == family {
                guard case .balance(let balancing) = rule.action else { continue }
                chains.nat[IPTablesRuleset.chainName(frontend)] = ruleset.serviceChain(frontend, balancing)
            }
            let dump = try await self.tools.save(family)
            var text = IPTablesTransaction()
            // What lets redirected flows in to the proxy is there before they are redirected.
            for (table, wanted) in [("filter", chains.filter), ("nat", chains.nat)] {
                text.begin(table)
                let found = (dump.tables[table] ?? [:]).filter { IPTablesChain.isOurs($0.key) }
                text.write(wanted)
                for (chain, rule) in dump.references(to: Set(wanted.keys).union(found.keys), table: table) {
                    text.delete(rule, from: chain)
                }
                text.insertHooks(table)
                text.remove(Set(found.keys).subtracting(wanted.keys))
                text.commit()
            }
            try await self.tools.restore(text.text, family)
            self.filter[family] = shared.filter
        }
        self.listeners = listeners
        self.families = families
        self.rules = rules
    }

    public func update(_ changes: [KernelFrontend: KernelRule?]) async throws {
        guard let listeners = self.listeners else {
            throw LinuxNetworkError(.unsupported, "update before install of the iptables program")
        }
        var rules = self.rules
        for (frontend, rule) in changes { rules[frontend] = rule }
        for family in self.families {
            let changed = changes.filter { $0.key.family == family && self.rules[$0.key] != $0.value }
            guard !changed.isEmpty else { continue }
            let ruleset = self.ruleset(family, listeners)
            let shared = ruleset.sharedChains(rules)
            var chains: [String: [String]] = shared.nat
            var dead: Set<String> = []
            for (frontend, rule) in changed {
                if case .balance(let balancing) = rule?.action {
                    chains[IPTablesRuleset.chainName(frontend)] = ruleset.serviceChain(frontend, balancing)
                } else if case .balance = self.rules[frontend]?.action {
                    dead.insert(IPTablesRuleset.chainName(frontend))
                }
            }
            var text = IPTablesTransaction()
            let between = ruleset.sharedChains(self.refusing(rules, changed)).filter
            if self.filter[family] != between { text.replace("filter", between) }
            text.replace("nat", chains, removing: dead)
            if between != shared.filter { text.replace("filter", shared.filter) }
            do {
                try await self.tools.restore(text.text, family)
            } catch {
                // Someone took our hooks or chains away: bring all of it back.
                try await self.install(listeners: listeners, rules: rules)
                return
            }
            self.filter[family] = shared.filter
        }
        self.rules = rules
    }

    /// The rules, where frontends that are no longer refused still are.
    private func refusing(
        _ rules: [KernelFrontend: KernelRule],
        _ changed: [KernelFrontend: KernelRule?]
    ) -> [KernelFrontend: KernelRule] {
        var rules = rules
        for frontend in changed.keys {
            guard let old = self.rules[frontend], old.isRefusal, let new = rules[frontend], !new.isRefusal else {
                continue
            }
            rules[frontend] = old
        }
        return rules
    }

    public func remove() async throws {
        for family in IPFamily.allCases where ChildProcess.find(self.tools.variant.tool("save", family)) != nil {
            do {
                let dump = try await self.tools.save(family)
                let text = IPTablesTransaction.removal(from: dump) { IPTablesChain.isOurs($1) }
                guard !text.text.isEmpty else { continue }
                try await self.tools.restore(text.text, family)
            } catch {
                // A kernel without IPv6 has none of our rules either.
                guard family == .v6, !self.families.contains(.v6) else { throw error }
            }
        }
        (self.listeners, self.rules, self.filter, self.families) = (nil, [:], [:], [])
    }

    /// Whether our hooks are there. A firewall restart takes them away; `reinstall` brings them back.
    public func verify() async throws -> Bool {
        for family in self.families {
            let dump = try await self.tools.save(family)
            for table in ["nat", "filter"] {
                let ours = table == "nat" ? IPTablesChain.nat : IPTablesChain.filterTable
                let hooks = IPTablesRuleset.hooks.filter { $0.table == table }
                let found = dump.references(to: ours, table: table)
                guard Set(hooks.map(\.chain)) == Set(found.map(\.chain)), found.count == hooks.count else {
                    return false
                }
            }
        }
        return true
    }

    /// Programs everything anew.
    public func reinstall() async throws {
        guard let listeners = self.listeners else { return }
        try await self.install(listeners: listeners, rules: self.rules)
    }
}

/// Input of `iptables-restore --noflush`.
struct IPTablesTransaction {
    private(set) var text = ""
    private var table = ""

    mutating func begin(_ table: String) {
        self.table = table
        self.text += "*\(table)\n"
    }

    mutating func commit() {
        self.text += "COMMIT\n"
    }

    /// Creates or empties the chains, then fills them.
    mutating func write(_ chains: [String: [String]]) {
        let sorted = chains.sorted { $0.key < $1.key }
        for (name, _) in sorted { self.text += ":\(name) - [0:0]\n" }
        for (name, rules) in sorted {
            for rule in rules { self.text += "-A \(name) \(rule)\n" }
        }
    }

    /// At the front.
    mutating func insert(_ rule: String, into chain: String) {
        self.text += "-I \(chain) 1 \(rule)\n"
    }

    mutating func delete(_ rule: String, from chain: String) {
        self.text += "-D \(chain) \(rule)\n"
    }

    /// To the front of their chains, in their order.
    mutating func insertHooks(_ table: String) {
        for hook in IPTablesRuleset.hooks.reversed() where hook.table == table {
            self.insert(hook.rule, into: hook.chain)
        }
    }

    /// Fails the transaction if one of the hooks is gone.
    mutating func moveHooks(_ table: String) {
        for hook in IPTablesRuleset.hooks where hook.table == table { self.delete(hook.rule, from: hook.chain) }
        self.insertHooks(table)
    }

    /// A whole transaction: new contents for chains that are hooked in already.
    mutating func replace(_ table: String, _ chains: [String: [String]], removing dead: Set<String> = []) {
        self.begin(table)
        self.write(chains)
        self.moveHooks(table)
        self.remove(dead)
        self.commit()
    }

    /// Nothing may refer to the chains at this point of the transaction.
    mutating func remove(_ chains: Set<String>) {
        for name in chains.sorted() { self.text += ":\(name) - [0:0]\n" }
        for name in chains.sorted() { self.text += "-X \(name)\n" }
    }

    /// Removes the chains that `chosen` (table, chain) names, and what refers to them. Empty if there are none.
    static func removal(
        from dump: IPTablesDump,
        where chosen: (_ table: String, _ chain: String) -> Bool
    ) -> IPTablesTransaction {
        var transaction = IPTablesTransaction()
        // `nat` before `filter`: nothing is redirected any more when redirected flows are no longer let in.
        for (table, chains) in dump.tables.sorted(by: { $0.key > $1.key }) {
            let doomed = Set(chains.keys.filter { chosen(table, $0) })
            guard !doomed.isEmpty else { continue }
            transaction.begin(table)
            for (chain, rule) in dump.references(to: doomed, table: table) { transaction.delete(rule, from: chain) }
            transaction.remove(doomed)
            transaction.commit()
        }
        return transaction
    }
}

extension KernelRule {
    fileprivate var isRefusal: Bool { self.action == .reject || self.action == .drop }
}
