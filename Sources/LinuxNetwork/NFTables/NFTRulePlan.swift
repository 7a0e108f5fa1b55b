import MeshCore

/// A chain that rules of `KernelRule`s need beyond the skeleton. Most are shared: what tells services apart is in the maps.
enum NFTDynamicChain: Hashable {
    /// Picks one of `count` backends.
    case pick(Pick)
    /// Lets only some sources through. A chain is never changed, only replaced by one of the next version.
    case sources(KernelFrontend, [CIDR], NFTVerdict, version: UInt32)

    /// Finds the backend that a client keeps, or picks one. Replaced like `sources`.
    case sticky(Sticky, version: UInt32)
    /// Sends a client to one backend of a frontend and remembers that.
    case stickyBackend(KernelFrontend, TransportAddress, seconds: UInt32)

    struct Pick: Hashable {
        /// `nil` when there is nothing to choose.
        var policy: KernelBalancing.Policy?
        var count: Int
        var transport: TransportProtocol
        var nodePort: Bool
        /// A round-robin counter belongs to one frontend.
        var owner: KernelFrontend?
    }

    struct Sticky: Hashable {
        var frontend: KernelFrontend
        var policy: KernelBalancing.Policy?
        var backends: [TransportAddress]
        var seconds: UInt32
    }

    /// Chains of a lower rank are made earlier and deleted later: others go to them.
    var rank: Int { if case .stickyBackend = self { 0 } else { 1 } }

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
            parts.append(pick.owner?.chainSuffix ?? "\(pick.transport)")
            return parts.joined(separator: "-")
        case .sources(let frontend, _, _, let version):
            return "sources-\(frontend.chainSuffix)-\(version)"
        case .sticky(let sticky, let version):
            return "sticky-\(sticky.frontend.chainSuffix)-\(version)"
        case .stickyBackend(let frontend, let backend, let seconds):
            return "sticky-\(seconds)s-\(frontend.chainSuffix)-to-\(backend.address.chainText)-\(backend.port)"
        }
    }

    func write(_ family: NFTFamily, to batch: inout NFTBatch) {
        let name = self.name
        batch.createChain(family, name)
        switch self {
        case .pick(let pick): Self.write(pick, name, family, to: &batch)
        case .sticky(let sticky, _): Self.write(sticky, name, family, to: &batch)
        case .stickyBackend(let frontend, let backend, let seconds):
            batch.appendRule(family, chain: name) { rule in
                let nodePort = frontend.keys.nodePort
                rule.isTransport(frontend.transport)
                rule.affinityKey(NFTRegister(0), nodePort: nodePort, backend)
                rule.remember(
                    .affinity(frontend.transport, nodePort: nodePort),
                    key: NFTRegister(0),
                    seconds: seconds
                )
                rule.markFlow()
                rule.immediate(NFTRegister(0), backend)
                rule.translate(NFTRegister(0))
            }
            // Reached when the set is full.
            batch.appendRule(family, chain: name) { rule in
                rule.isTransport(frontend.transport)
                rule.markFlow()
                rule.immediate(NFTRegister(0), backend)
                rule.translate(NFTRegister(0))
            }
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
        Self.choose(pick.policy, of: pick.count, pick.transport, nodePort: pick.nodePort, name, family, to: &batch) {
            rule,
            key,
            index in
            let set = NFTSet.endpoints(pick.transport, nodePort: pick.nodePort, shard: pick.owner?.endpointShard)
            rule.lookup(set, key: key, into: index)
            rule.markFlow()
            rule.translate(index)
        }
    }

    /// Each live backend is asked for by itself. One lookup that tells the backend, and one that tells whether it is alive, would
    /// be rules that nft 1.0.6 aborts on when it lists them.
    private static func write(_ sticky: Sticky, _ name: String, _ family: NFTFamily, to batch: inout NFTBatch) {
        let frontend = sticky.frontend
        let nodePort = frontend.keys.nodePort
        for backend in sticky.backends {
            batch.appendRule(family, chain: name) { rule in
                rule.isTransport(frontend.transport)
                rule.affinityKey(NFTRegister(0), nodePort: nodePort, backend)
                rule.lookup(.affinity(frontend.transport, nodePort: nodePort), key: NFTRegister(0))
                rule.verdict(.goto(Self.stickyBackend(frontend, backend, seconds: sticky.seconds).name))
            }
        }
        let (policy, count) = (sticky.policy, sticky.backends.count)
        Self.choose(policy, of: count, frontend.transport, nodePort: nodePort, name, family, to: &batch) {
            rule,
            key,
            _ in
            rule.lookup(.stickyBackends(frontend.transport, nodePort: nodePort), key: key)
        }
    }

    /// Appends rules that make daddr . dport . index, without daddr for a node port, and hand it to `use`.
    private static func choose(
        _ policy: KernelBalancing.Policy?,
        of count: Int,
        _ transport: TransportProtocol,
        nodePort: Bool,
        _ name: String,
        _ family: NFTFamily,
        to batch: inout NFTBatch,
        use: (_ rule: inout NFTExpressions, _ key: NFTRegister, _ index: NFTRegister) -> Void
    ) {
        let source = NFTRegister(0)
        let key = source + family.addressWords
        let port = nodePort ? key : key + family.addressWords
        let index = port + 1
        // A packet that is under way while a transaction commits may meet this chain with the next one's backends, which may be
        // fewer. It must not leave untranslated: the first backend takes it, or else the client sends it again.
        for policy in policy == nil ? [nil] : [policy, nil] {
            batch.appendRule(family, chain: name) { rule in
                rule.isTransport(transport)
                if !nodePort { rule.destinationAddress(key) }
                rule.destinationPort(port)
                switch policy {
                case nil: rule.constant(index, 0)
                case .random: rule.number(index, .random, modulus: count)
                case .roundRobin: rule.number(index, .incremental, modulus: count)
                case .sourceHash:
                    rule.sourceAddress(source)
                    rule.hash(source, into: index, modulus: count)
                }
                use(&rule, key, index)
            }
        }
        batch.appendRule(family, chain: name) { $0.verdict(.drop) }
    }
}

/// All that one frontend puts into the kernel.
struct NFTRulePlan {
    /// No element is twice in a set.
    var elements: [NFTSet: [NFTElement]] = [:]
    /// Addresses of backends on this node. Several frontends may have one: counted by the program.
    var localBackends: Set<[UInt8]> = []
    var chains: Set<NFTDynamicChain> = []

    init() {}

    /// `version` is that of the chains that are replaced when the rule changes.
    init(_ frontend: KernelFrontend, _ rule: KernelRule, version: UInt32) {
        let (key, nodePort) = frontend.keys
        let short = nodePort ? Array(key.dropFirst(frontend.family.byteCount)) : key
        self.filter(frontend, rule, key: short, version)
        switch rule.action {
        case .reject, .drop: break
        case .proxy: self.dispatch(key, nodePort, frontend.family, .goto(NFTChain.proxy))
        case .balance(let balancing): self.balance(frontend, balancing, key: key, nodePort: nodePort, version)
        }
    }

    private mutating func insert(_ set: NFTSet, _ key: [UInt8], _ value: NFTElement.Value = .none) {
        self.elements[set, default: []].append(NFTElement(key: key, value: value))
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
        } else if verdict != .accept || set == .filteredServices {
            // What is served is named too: its address may be one of this node's (kube-proxy's mode ipvs puts them there), where
            // a node port of the same number that is refused must not refuse it.
            self.insert(set, key, .verdict(verdict))
        }
    }

    private mutating func balance(
        _ frontend: KernelFrontend,
        _ balancing: KernelBalancing,
        key: [UInt8],
        nodePort: Bool,
        _ version: UInt32
    ) {
        let family = frontend.family
        let backends = balancing.backends.filter { $0.address.family == family }
        guard !backends.isEmpty else { return }
        let policy = backends.count == 1 ? nil : balancing.policy
        let chain: NFTDynamicChain
        let seconds = balancing.affinitySeconds.map { UInt32(clamping: max(1, $0)) }
        if let seconds {
            chain = .sticky(
                NFTDynamicChain.Sticky(frontend: frontend, policy: policy, backends: backends, seconds: seconds),
                version: version
            )
        } else {
            chain = .pick(
                NFTDynamicChain.Pick(
                    policy: policy,
                    count: backends.count,
                    transport: frontend.transport,
                    nodePort: nodePort,
                    owner: policy == .roundRobin ? frontend : nil
                )
            )
        }
        self.chains.insert(chain)
        self.dispatch(key, nodePort, family, .goto(chain.name))
        let address = nodePort ? [] : Array(key.prefix(family.byteCount))
        let transport = [frontend.transport.rawValue, 0, 0, 0]
        let port = networkOrder(frontend.port) + [0, 0]
        let indices = backends.indices.map { hostOrder(UInt32(truncatingIfNeeded: $0)) }
        if let seconds {
            for (index, backend) in zip(indices, backends) {
                let backendChain = NFTDynamicChain.stickyBackend(frontend, backend, seconds: seconds)
                self.chains.insert(backendChain)
                self.insert(
                    .stickyBackends(frontend.transport, nodePort: nodePort),
                    address + port + index,
                    .verdict(.goto(backendChain.name))
                )
            }
        } else {
            let shard = policy == .roundRobin ? frontend.endpointShard : nil
            self.elements[.endpoints(frontend.transport, nodePort: nodePort, shard: shard)] = zip(indices, backends).map
            {
                NFTElement(key: address + port + $0, value: .data($1.paddedBytes))
            }
        }
        if balancing.masquerade, nodePort {
            // A backend may be listed twice, for a greater share.
            for backend in Set(backends) {
                let destination = backend.address.networkBytes + transport + networkOrder(backend.port) + [0, 0]
                self.insert(.masqueradedNodePorts, destination + port)
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

extension IPAddress {
    /// As nft takes it in a name.
    fileprivate var chainText: String { String(self.description.map { $0 == ":" ? "." : $0 }) }
}

extension TransportAddress {
    /// The address and the port, each padded to whole registers.
    var paddedBytes: [UInt8] { self.address.networkBytes + networkOrder(self.port) + [0, 0] }

    /// What stands for a backend in an affinity set: the same in every process (FNV-1a). Should two backends of one frontend
    /// share a number, their clients keep the first of them.
    var affinityNumber: UInt32 {
        self.paddedBytes.reduce(0x811C_9DC5) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
    }
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

    /// The map of a round-robin frontend: the same at every start.
    var endpointShard: Int {
        let (key, nodePort) = self.keys
        let shards = UInt32(NFTSet.endpointShards(self.transport, nodePort: nodePort))
        return Int(key.reduce(UInt32(0)) { $0 &* 31 &+ UInt32($1) } % shards)
    }

    /// Unique among the frontends of a family, and made of what nft takes in a name.
    var chainSuffix: String {
        switch self.match {
        case .address(let address):
            "\(self.transport)-\(self.port)-\(address.chainText)"
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
