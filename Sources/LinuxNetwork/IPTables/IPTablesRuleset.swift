import MeshCore

/// Names of the chains in iptables. Those of `KUBE-` are the names and hooks of the Go implementation, so that its leftovers
/// are taken over by the first transaction, and operators find what they know.
enum IPTablesChain {
    /// Cluster, external and load-balancer addresses, for packets that come from pods and from outside.
    static let portalsContainer = "KUBE-PORTALS-CONTAINER"
    /// The same for packets of this node's processes.
    static let portalsHost = "KUBE-PORTALS-HOST"
    static let nodePortContainer = "KUBE-NODEPORT-CONTAINER"
    static let nodePortHost = "KUBE-NODEPORT-HOST"
    /// Lets redirected flows in to the proxy where the host's firewall would not.
    static let nodePortNonLocal = "KUBE-NODEPORT-NON-LOCAL"
    /// Services without endpoints, and source ranges.
    static let filter = "EDGEMESH-FILTER"
    static let masquerade = "EDGEMESH-POSTROUTING"
    /// Lets translated flows through where the host's firewall forwards nothing.
    static let forward = "EDGEMESH-FORWARD"
    /// Each frontend that is balanced has a chain of its own.
    static let servicePrefix = "EDGEMESH-SVC-"

    static let nat: Set<String> = [portalsContainer, portalsHost, nodePortContainer, nodePortHost, masquerade]
    static let filterTable: Set<String> = [nodePortNonLocal, filter, forward]

    static func isOurs(_ name: String) -> Bool {
        name.hasPrefix("EDGEMESH-") || Self.nat.contains(name) || Self.filterTable.contains(name)
    }
}

/// The text of our rules for one address family.
struct IPTablesRuleset {
    /// `-m cluster` shares flows among so many at most.
    static let maximumHashNodes = 32

    let family: IPFamily
    let listeners: ProxyListeners
    /// The target by which flows to endpoints are marked; nil to leave them unmarked.
    var marking: String? = ForwardAcceptance.marking

    private var loopback: String { self.family == .v4 ? "127.0.0.0/8" : "::1/128" }

    // MARK: Hooks

    struct Hook: Hashable {
        var table: String
        var chain: String
        var rule: String
    }

    /// In the order of their precedence: first in their chains, before kube-proxy's, whoever started first.
    static let hooks: [Hook] = {
        let portals = "-m comment --comment \"handle ClusterIPs; NOTE: this must be before the NodePort rules\" -j "
        let nodePorts =
            "-m addrtype --dst-type LOCAL -m comment --comment \"handle service NodePorts; NOTE: this must be the last rule in the chain\" -j "
        let filter =
            "-m conntrack --ctstate NEW -m comment --comment \"services without endpoints, and source ranges\" -j "
        return [
            Hook(table: "nat", chain: "PREROUTING", rule: portals + IPTablesChain.portalsContainer),
            Hook(table: "nat", chain: "PREROUTING", rule: nodePorts + IPTablesChain.nodePortContainer),
            Hook(table: "nat", chain: "OUTPUT", rule: portals + IPTablesChain.portalsHost),
            Hook(table: "nat", chain: "OUTPUT", rule: nodePorts + IPTablesChain.nodePortHost),
            Hook(
                table: "nat",
                chain: "POSTROUTING",
                rule: "-m conntrack --ctstate DNAT -m comment --comment \"service masquerading\" -j "
                    + IPTablesChain.masquerade
            ),
            Hook(table: "filter", chain: "INPUT", rule: filter + IPTablesChain.filter),
            Hook(
                table: "filter",
                chain: "INPUT",
                rule: "-m comment --comment \"Ensure that non-local NodePort traffic can flow\" -j "
                    + IPTablesChain.nodePortNonLocal
            ),
            Hook(table: "filter", chain: "FORWARD", rule: filter + IPTablesChain.filter),
            Hook(table: "filter", chain: "FORWARD", rule: ForwardAcceptance.hook),
            Hook(table: "filter", chain: "OUTPUT", rule: filter + IPTablesChain.filter),
        ]
    }()

    // MARK: Chains

    /// The chains that every frontend has a line in, with their rules.
    func sharedChains(_ rules: [KernelFrontend: KernelRule]) -> (nat: [String: [String]], filter: [String: [String]]) {
        var nat = Dictionary(uniqueKeysWithValues: IPTablesChain.nat.map { ($0, [String]()) })
        var filter = Dictionary(uniqueKeysWithValues: IPTablesChain.filterTable.map { ($0, [String]()) })
        var hairpins: Set<IPAddress> = []
        for (frontend, rule) in rules.sorted(by: { $0.key < $1.key }) where frontend.family == self.family {
            self.dispatch(frontend, rule.action, into: &nat)
            filter[IPTablesChain.filter, default: []] += self.filterRules(frontend, rule)
            guard case .balance(let balancing) = rule.action else { continue }
            hairpins.formUnion(balancing.localBackends.filter { $0.family == self.family })
            if balancing.masquerade {
                nat[IPTablesChain.masquerade, default: []].append("\(self.originalMatch(frontend)) -j MASQUERADE")
            }
        }
        nat[IPTablesChain.masquerade, default: []] += hairpins.sorted().map { "-s \($0) -d \($0) -j MASQUERADE" }
        filter[IPTablesChain.forward] = [ForwardAcceptance.rule]
        filter[IPTablesChain.nodePortNonLocal] = TransportProtocol.allCases.compactMap { transport in
            self.listener(transport).map {
                "-d \($0.address) -p \(transport) -m \(transport) --dport \($0.port) -m conntrack --ctstate DNAT -j ACCEPT"
            }
        }
        return (nat, filter)
    }

    private func dispatch(_ frontend: KernelFrontend, _ action: KernelAction, into nat: inout [String: [String]]) {
        let target: String
        switch action {
        case .balance: target = "-j \(Self.chainName(frontend))"
        case .proxy: target = self.toProxy(frontend.transport)
        // Ends translation, so that no later program translates what the filter is to refuse: behind a bridge the refusal
        // would come from the translated address.
        case .reject, .drop: target = "-j ACCEPT"
        }
        let match =
            "-p \(frontend.transport) -m \(frontend.transport) --dport \(frontend.port) -m comment --comment \"\(frontend)\""
        switch frontend.match {
        case .address(let address):
            for chain in [IPTablesChain.portalsContainer, IPTablesChain.portalsHost] {
                nat[chain, default: []].append("-d \(address) \(match) \(target)")
            }
        case .nodePort:
            nat[IPTablesChain.nodePortContainer, default: []].append("\(match) \(target)")
            if case .balance = action {
            } else {
                nat[IPTablesChain.nodePortHost, default: []].append("\(match) \(target)")
                return
            }
            // A packet from loopback cannot leave the node, so the proxy takes those to a node port there.
            nat[IPTablesChain.nodePortHost, default: []].append(
                "-d \(self.loopback) \(match) \(self.toProxy(frontend.transport))"
            )
            nat[IPTablesChain.nodePortHost, default: []].append("! -d \(self.loopback) \(match) \(target)")
        }
    }

    /// Matched by the original destination: another program may have translated it before us.
    private func filterRules(_ frontend: KernelFrontend, _ rule: KernelRule) -> [String] {
        var match = "-m comment --comment \"\(frontend)\" "
        let verdicts: [String]
        switch rule.action {
        case .reject where frontend.transport == .tcp: verdicts = ["-j REJECT --reject-with tcp-reset"]
        case .reject: verdicts = ["-j REJECT"]
        case .drop: verdicts = ["-j DROP"]
        case .balance, .proxy: verdicts = rule.sourceRanges.isEmpty ? [] : ["-j RETURN"]
        }
        guard !verdicts.isEmpty else { return [] }
        switch (frontend.match, rule.action) {
        case (.nodePort, .reject), (.nodePort, .drop):
            // Not a flow that another frontend brought to this node and port.
            match +=
                "-m conntrack ! --ctstate DNAT -m addrtype --dst-type LOCAL -p \(frontend.transport) -m \(frontend.transport) --dport \(frontend.port)"
        case (.nodePort, _):
            match += "\(self.originalMatch(frontend)) --ctstate DNAT"
        case (.address, _):
            match += self.originalMatch(frontend)
        }
        guard !rule.sourceRanges.isEmpty else { return verdicts.map { "\(match) \($0)" } }
        let allowed = rule.sourceRanges.filter { $0.address.family == self.family }.flatMap { range in
            verdicts.map { "-s \(range) \(match) \($0)" }
        }
        return allowed + ["\(match) -j DROP"]
    }

    /// The flow was opened to this frontend, whatever its destination is now.
    private func originalMatch(_ frontend: KernelFrontend) -> String {
        let port = "-p \(frontend.transport) -m conntrack --ctorigdstport \(frontend.port)"
        return if case .address(let address) = frontend.match { "\(port) --ctorigdst \(address)" } else { port }
    }

    private func listener(_ transport: TransportProtocol) -> TransportAddress? {
        switch (self.family, transport) {
        case (.v4, .tcp): self.listeners.tcpV4
        case (.v4, .udp): self.listeners.udpV4
        case (.v6, .tcp): self.listeners.tcpV6
        case (.v6, .udp): self.listeners.udpV6
        case (_, .sctp): nil
        }
    }

    private func toProxy(_ transport: TransportProtocol) -> String {
        self.listener(transport).map { "-j DNAT --to-destination \($0)" } ?? "-j RETURN"
    }

    // MARK: Balancing

    /// At most 28 characters, as the kernel asks; the rule that jumps there has the frontend in words.
    static func chainName(_ frontend: KernelFrontend) -> String {
        IPTablesChain.servicePrefix + digest(frontend.description)
    }

    /// The rules of a balanced frontend's own chain.
    func serviceChain(_ frontend: KernelFrontend, _ balancing: KernelBalancing) -> [String] {
        (self.marking.map { [$0] } ?? []) + self.balancingRules(frontend, balancing)
    }

    /// Those that send a flow to a backend. Each backend has one rule, which is taken with the probability 1/n, 1/(n-1), … 1.
    func balancingRules(_ frontend: KernelFrontend, _ balancing: KernelBalancing) -> [String] {
        let backends = balancing.backends.filter { $0.address.family == self.family }
        let transport = "-p \(frontend.transport) -m \(frontend.transport)"
        var sticky: [String] = []
        var fresh: [String] = []
        for (index, backend) in backends.enumerated() {
            let target = "-j DNAT --to-destination \(backend)"
            var match = transport
            if let choice = Self.choice(balancing.policy, index, of: backends.count) { match += " \(choice)" }
            if let seconds = balancing.affinitySeconds {
                // The clients of a backend; the kernel forgets the list with the last rule that names it.
                let list = "EDGEMESH-" + digest("\(frontend) \(backend)")
                sticky.append("\(transport) -m recent --name \(list) --update --seconds \(seconds) --reap \(target)")
                match += " -m recent --name \(list) --set"
            }
            fresh.append("\(match) \(target)")
        }
        return sticky + fresh
    }

    /// The match that takes a flow at rule `index`; nil for the last one, which takes what is left.
    private static func choice(_ policy: KernelBalancing.Policy, _ index: Int, of count: Int) -> String? {
        let left = count - index
        guard left > 1 else { return nil }
        switch policy {
        case .random: return "-m statistic --mode random --probability \(decimal(1, over: left))"
        case .roundRobin: return "-m statistic --mode nth --every \(left) --packet 0"
        case .sourceHash: return self.hashChoice(index, of: count)
        }
    }

    /// By a hash of the flow's source. More backends than one hash can tell apart are put in groups, and a second hash, of
    /// another seed, chooses the group.
    private static func hashChoice(_ index: Int, of count: Int) -> String {
        let groups = min((count + self.maximumHashNodes - 1) / self.maximumHashNodes, self.maximumHashNodes)
        let group = index % groups
        // Backends are dealt out to the groups in turn.
        let members = min((count - group + groups - 1) / groups, self.maximumHashNodes)
        let member = min(index / groups, members - 1)
        return [(groups, group, 0x6D65_7368), (members, member, 0x6564_6765)].filter { $0.0 > 1 }.map {
            "-m cluster --cluster-total-nodes \($0.0) --cluster-local-node \($0.1 + 1) --cluster-hash-seed \($0.2)"
        }.joined(separator: " ")
    }

    /// A fraction of one with ten digits: the kernel keeps 31 bits.
    private static func decimal(_ numerator: Int, over denominator: Int) -> String {
        let digits = String(numerator * 10_000_000_000 / denominator)
        return "0." + String(repeating: "0", count: 10 - digits.count) + digits
    }
}

/// FNV-1a in 15 hexadecimal digits: enough to tell frontends apart, short enough for a chain's name.
private func digest(_ text: String) -> String {
    let hash = text.utf8.reduce(0xCBF2_9CE4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
    let digits = String(hash >> 4, radix: 16, uppercase: true)
    return String(repeating: "0", count: 15 - digits.count) + digits
}
