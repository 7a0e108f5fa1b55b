import MeshCore

/// A chain that rules of `KernelRule`s need beyond the skeleton. Most are shared: what tells services apart is in the maps.
enum NFTDynamicChain: Hashable {
    /// Picks one of `count` backends.
    case pick(Pick)
    /// Lets only some sources through. A chain is never changed, only replaced by one of the next version.
    case sources(KernelFrontend, [CIDR], NFTVerdict, version: UInt32)

    struct Pick: Hashable {
        /// `nil` when there is nothing to choose.
        var policy: KernelBalancing.Policy?
        var count: Int
        var nodePort: Bool
        var affinitySeconds: UInt32?
        /// A round-robin counter belongs to one frontend.
        var owner: KernelFrontend?
    }

    var name: String {
        switch self {
        case .pick(let pick):
            var parts: [String] = pick.nodePort ? ["node-port"] : []
            switch pick.policy {
            case nil: parts.append("single")
            case .random: parts += ["random", "\(pick.count)"]
            case .sourceHash: parts += ["hash", "\(pick.count)"]
            case .roundRobin: parts += ["round-robin", "\(pick.count)"]
            }
            if let seconds = pick.affinitySeconds { parts += ["sticky", "\(seconds)"] }
            if let owner = pick.owner { parts.append(owner.chainSuffix) }
            return parts.joined(separator: "-")
        case .sources(let frontend, _, _, let version):
            return "sources-\(frontend.chainSuffix)-\(version)"
        }
    }

    func write(_ family: NFTFamily, to batch: inout NFTBatch) {
        let name = self.name
        batch.createChain(family, name)
        switch self {
        case .pick(let pick): Self.write(pick, name, family, to: &batch)
        case .sources(_, let ranges, let verdict, _):
            for range in ranges where NFTFamily(range.address.family) == family {
                batch.appendRule(family, chain: name) { rule in
                    if range.prefixLength > 0 {
                        let register = NFTRegister(0)
                        rule.sourceAddress(register)
                        rule.mask(register, prefixMask(Int(range.prefixLength), bytes: Int(family.addressLength)))
                        rule.compare(register, range.address.networkBytes)
                    }
                    rule.verdict(verdict)
                }
            }
            batch.appendRule(family, chain: name) { $0.verdict(.drop) }
        }
    }

    private static func write(_ pick: Pick, _ name: String, _ family: NFTFamily, to batch: inout NFTBatch) {
        let words = family.addressWords
        // saddr . daddr . l4proto . dport . index, so that each lookup's key is a run of registers.
        let source = NFTRegister(0)
        let frontend = source + words
        let index = frontend + words + 2
        func choose(_ rule: inout NFTExpressions, _ policy: KernelBalancing.Policy?) {
            rule.sourceAddress(source)
            rule.frontendKey(frontend, nodePort: pick.nodePort)
            switch policy {
            case nil: rule.immediate(index, hostOrder(0))
            case .random: rule.number(index, .random, modulus: pick.count)
            case .roundRobin: rule.number(index, .incremental, modulus: pick.count)
            case .sourceHash: rule.hash(source, into: index, modulus: pick.count)
            }
            // The backend takes the place of the index: key and value of the affinity map lie side by side.
            rule.lookup(.endpoints, key: frontend, into: index)
        }
        if let seconds = pick.affinitySeconds {
            batch.appendRule(family, chain: name) { rule in
                rule.sourceAddress(source)
                rule.frontendKey(frontend, nodePort: pick.nodePort)
                rule.lookup(.affinity, key: source, into: index)
                rule.remember(.affinity, key: source, data: index, seconds: seconds)
                rule.translate(index)
            }
            batch.appendRule(family, chain: name) { rule in
                choose(&rule, pick.policy)
                rule.remember(.affinity, key: source, data: index, seconds: seconds)
                rule.translate(index)
            }
        }
        // With affinity this is reached only when the map is full.
        batch.appendRule(family, chain: name) { rule in
            choose(&rule, pick.policy)
            rule.translate(index)
        }
        // A packet that is under way while a transaction commits may meet this chain with the next one's backends, which may be
        // fewer. It must not leave untranslated: the first backend takes it, or else the client sends it again.
        if pick.policy != nil {
            batch.appendRule(family, chain: name) { rule in
                choose(&rule, nil)
                rule.translate(index)
            }
        }
        batch.appendRule(family, chain: name) { $0.verdict(.drop) }
    }
}

/// All that one frontend puts into the kernel.
struct NFTRulePlan {
    var elements: [NFTSet: Set<NFTElement>] = [:]
    /// Addresses of backends on this node. Several frontends may have one: counted by the program.
    var localBackends: Set<[UInt8]> = []
    var chains: Set<NFTDynamicChain> = []
    /// frontend . backend that entries of the affinity map may name.
    var affinities: Set<[UInt8]> = []

    init() {}

    init(_ frontend: KernelFrontend, _ rule: KernelRule, sourcesVersion: UInt32) {
        let (key, nodePort) = frontend.keys
        let short = nodePort ? Array(key.dropFirst(frontend.family.byteCount)) : key
        self.filter(frontend, rule, key: short, sourcesVersion)
        switch rule.action {
        case .reject, .drop: break
        case .proxy: self.dispatch(key, nodePort, frontend.family, .goto(NFTChain.proxy))
        case .balance(let balancing): self.balance(frontend, balancing, key: key, nodePort: nodePort)
        }
    }

    private mutating func insert(_ set: NFTSet, _ key: [UInt8], _ value: NFTElement.Value = .none) {
        self.elements[set, default: []].insert(NFTElement(key: key, value: value))
    }

    private mutating func dispatch(_ key: [UInt8], _ nodePort: Bool, _ family: IPFamily, _ verdict: NFTVerdict) {
        guard nodePort else {
            self.insert(.services, key, .verdict(verdict))
            return
        }
        let short = Array(key.dropFirst(family.byteCount))
        self.insert(.nodePorts, short, .verdict(verdict))
        self.insert(.loopbackNodePorts, short, .verdict(.goto(NFTChain.proxy)))
    }

    private mutating func filter(_ frontend: KernelFrontend, _ rule: KernelRule, key: [UInt8], _ version: UInt32) {
        let verdict = rule.admission
        let set: NFTSet = if case .nodePort = frontend.match { .filteredNodePorts } else { .filteredServices }
        if !rule.sourceRanges.isEmpty {
            let chain = NFTDynamicChain.sources(frontend, rule.sourceRanges, verdict, version: version)
            self.chains.insert(chain)
            self.insert(set, key, .verdict(.goto(chain.name)))
        } else if verdict != .accept {
            self.insert(set, key, .verdict(verdict))
        }
    }

    private mutating func balance(
        _ frontend: KernelFrontend,
        _ balancing: KernelBalancing,
        key: [UInt8],
        nodePort: Bool
    ) {
        let family = frontend.family
        let backends = balancing.backends.filter { $0.address.family == family }
        guard !backends.isEmpty else { return }
        let policy = backends.count == 1 ? nil : balancing.policy
        let seconds = balancing.affinitySeconds.map { UInt32(clamping: max(1, $0)) }
        let pick = NFTDynamicChain.Pick(
            policy: policy,
            count: backends.count,
            nodePort: nodePort,
            affinitySeconds: seconds,
            owner: policy == .roundRobin ? frontend : nil
        )
        self.chains.insert(.pick(pick))
        self.dispatch(key, nodePort, family, .goto(NFTDynamicChain.pick(pick).name))
        for (index, backend) in backends.enumerated() {
            let target = backend.paddedBytes
            self.insert(.endpoints, key + hostOrder(UInt32(index)), .data(target))
            if seconds != nil { self.affinities.insert(key + target) }
            if balancing.masquerade, nodePort {
                self.insert(.masqueradedNodePorts, Array(key.dropFirst(family.byteCount)) + target)
            }
        }
        for local in balancing.localBackends where local.family == family {
            self.localBackends.insert(local.networkBytes)
        }
        if balancing.masquerade, !nodePort { self.insert(.masqueradedServices, key) }
    }
}

extension KernelRule {
    /// What the filter chains do with a packet from an allowed source.
    var admission: NFTVerdict {
        switch self.action {
        case .balance, .proxy: .accept
        case .reject: .goto(NFTChain.reject)
        case .drop: .drop
        }
    }
}

extension IPFamily {
    var byteCount: Int { self == .v4 ? 4 : 16 }
}

extension TransportAddress {
    /// The address and the port, each padded to whole registers.
    var paddedBytes: [UInt8] { self.address.networkBytes + networkOrder(self.port) + [0, 0] }
}

extension KernelFrontend {
    /// The key of three components (address zero for a node port), and whether this is a node port.
    var keys: (key: [UInt8], nodePort: Bool) {
        let tail = [self.transport.rawValue, 0, 0, 0] + networkOrder(self.port) + [0, 0]
        return switch self.match {
        case .address(let address): (address.networkBytes + tail, false)
        case .nodePort(let family): ([UInt8](repeating: 0, count: family.byteCount) + tail, true)
        }
    }

    /// Unique among the frontends of a family, and made of what nft takes in a name.
    var chainSuffix: String {
        switch self.match {
        case .address(let address):
            "\(self.transport)-\(self.port)-" + String(address.description.map { $0 == ":" ? "." : $0 })
        case .nodePort: "\(self.transport)-\(self.port)"
        }
    }
}

/// The bytes of a netmask.
func prefixMask(_ bits: Int, bytes: Int) -> [UInt8] {
    (0..<bytes).map { index in
        let here = min(max(bits - index * 8, 0), 8)
        return UInt8(truncatingIfNeeded: 0xFF00 >> here)
    }
}
