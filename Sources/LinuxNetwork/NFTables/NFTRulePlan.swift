import MeshCore

/// A chain that rules of `KernelRule`s need beyond the skeleton. Most are shared: what tells services apart is in the maps.
enum NFTDynamicChain: Hashable {
    /// Picks one of `count` backends.
    case pick(Pick)
    /// Lets only some sources through.
    case sources(KernelFrontend, [CIDR], NFTVerdict)

    struct Pick: Hashable {
        /// `nil` when there is nothing to choose.
        var policy: KernelBalancing.Policy?
        var count: Int
        var nodePort: Bool
        var affinitySeconds: Int?
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
        case .sources(let frontend, let ranges, let verdict):
            // A chain is never changed, only replaced, so its content is part of the name (djb2 over its text).
            let text = "\(ranges)\(verdict)"
            let digest = text.utf8.reduce(UInt32(5381)) { $0 &* 33 ^ UInt32($1) }
            return "sources-\(frontend.chainSuffix)-\(String(digest, radix: 16))"
        }
    }

    func write(_ family: NFTFamily, to batch: inout NFTBatch) {
        let name = self.name
        batch.createChain(family, name)
        switch self {
        case .pick(let pick): Self.write(pick, name, family, to: &batch)
        case .sources(_, let ranges, let verdict):
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
        func choose(_ rule: inout NFTExpressions) {
            rule.sourceAddress(source)
            rule.frontendKey(frontend, nodePort: pick.nodePort)
            switch pick.policy {
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
                rule.lookup(.live, key: frontend)
                rule.dynamic(.update, .affinity, key: source, data: index, seconds: seconds)
                rule.translate(index)
            }
            batch.appendRule(family, chain: name) { rule in
                choose(&rule)
                // An update leaves the value of an entry as it is; one that names a dead backend has to go first.
                rule.dynamic(.delete, .affinity, key: source, data: index)
                rule.dynamic(.update, .affinity, key: source, data: index, seconds: seconds)
                rule.translate(index)
            }
        }
        // With affinity this is reached only when the map is full.
        batch.appendRule(family, chain: name) { rule in
            choose(&rule)
            rule.translate(index)
        }
    }
}

/// All that one frontend puts into the kernel.
struct NFTRulePlan {
    var elements: [NFTSet: Set<NFTElement>] = [:]
    /// Elements that several frontends may want: counted by the program.
    var hairpins: Set<NFTElement> = []
    var chains: Set<NFTDynamicChain> = []

    init() {}

    init(_ frontend: KernelFrontend, _ rule: KernelRule) {
        let (key, nodePort) = frontend.keys
        self.filter(frontend, rule, key: nodePort ? Array(key.dropFirst(frontend.family.byteCount)) : key)
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

    private mutating func filter(_ frontend: KernelFrontend, _ rule: KernelRule, key: [UInt8]) {
        let verdict: NFTVerdict =
            switch rule.action {
            case .balance, .proxy: .accept
            case .reject: .goto(NFTChain.reject)
            case .drop: .drop
            }
        let set: NFTSet = if case .nodePort = frontend.match { .filteredNodePorts } else { .filteredServices }
        if !rule.sourceRanges.isEmpty {
            let chain = NFTDynamicChain.sources(frontend, rule.sourceRanges, verdict)
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
        let pick = NFTDynamicChain.Pick(
            policy: policy,
            count: backends.count,
            nodePort: nodePort,
            affinitySeconds: balancing.affinitySeconds,
            owner: policy == .roundRobin ? frontend : nil
        )
        self.chains.insert(.pick(pick))
        self.dispatch(key, nodePort, family, .goto(NFTDynamicChain.pick(pick).name))
        for (index, backend) in backends.enumerated() {
            let target = backend.paddedBytes
            self.insert(.endpoints, key + hostOrder(UInt32(index)), .data(target))
            if balancing.affinitySeconds != nil { self.insert(.live, key + target) }
        }
        for local in balancing.localBackends where local.family == family {
            self.hairpins.insert(NFTElement(key: local.networkBytes + local.networkBytes))
        }
        if balancing.masquerade {
            let short = Array(key.dropFirst(family.byteCount))
            self.insert(nodePort ? .masqueradedNodePorts : .masqueradedServices, nodePort ? short : key)
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
