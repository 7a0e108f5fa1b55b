import MeshCore

/// The address family of a table of ours. There is one table per family, not one of `inet`: every key and value here holds
/// addresses of one length, and a transaction may span tables.
enum NFTFamily: Hashable, CaseIterable {
    case ip
    case ip6

    init(_ family: IPFamily) { self = family == .v4 ? .ip : .ip6 }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    var number: UInt8 { self == .ip ? 2 : 10 }
    var addressLength: UInt32 { self == .ip ? 4 : 16 }
    var addressWords: UInt32 { self.addressLength / 4 }
    /// Of the source address in the IP header; the destination follows it.
    var sourceOffset: UInt32 { self == .ip ? 12 : 8 }
}

/// A component of a concatenated key: nft's data type number (so that `nft list ruleset` prints it) and its bytes, padded
/// to whole registers.
struct NFTField {
    var type: UInt32
    var length: UInt32
    /// An expression of this type.
    var typeof: [UInt8]

    static func address(_ family: NFTFamily) -> NFTField {
        NFTField(type: family == .ip ? 7 : 8, length: family.addressLength, typeof: NFTTypeof.destination(family))
    }
    static let transport = NFTField(type: 12, length: 4, typeof: NFTTypeof.transport)
    static func port(of transport: TransportProtocol?) -> NFTField {
        NFTField(type: 13, length: 4, typeof: NFTTypeof.port(transport))
    }
    static let port = NFTField.port(of: nil)
    static let index = NFTField(type: Self.integer, length: 4, typeof: NFTTypeof.index)

    /// The type that nft knows no name for.
    static let integer: UInt32 = 4
}

/// The sets and maps of a table.
enum NFTSet: Hashable, CaseIterable {
    /// daddr . l4proto . dport -> goto the chain that picks a backend.
    case services
    /// l4proto . dport -> the same, for packets to an address of this node.
    case nodePorts
    /// l4proto . dport of node ports, for packets to loopback: the proxy takes them all, because a packet from 127.0.0.1
    /// cannot leave the node.
    case loopbackNodePorts
    /// daddr . l4proto . dport -> accept, reject, drop, or the chain of the source ranges. Holds every frontend with an address.
    case filteredServices
    /// l4proto . dport -> the same, without those that everyone may use.
    case filteredNodePorts
    /// daddr . dport . index -> address . port; without daddr for node ports. Each protocol has its own: nft takes the values for
    /// ports of one protocol. Each round-robin frontend has a rule of its own that reads its map, and for every new element
    /// the kernel visits every such rule: those frontends are spread over many maps. The rules that frontends share read the
    /// one without a number.
    case endpoints(TransportProtocol, nodePort: Bool, shard: Int?)
    /// daddr . dport . index -> goto the chain of that backend, for frontends with affinity; without daddr for node ports.
    case stickyBackends(TransportProtocol, nodePort: Bool)
    /// saddr . daddr . dport . number of the backend that a client keeps, with a timeout; without daddr for node ports. One set
    /// per protocol: nft can describe four components by example, no more.
    case affinity(TransportProtocol, nodePort: Bool)
    /// address . address of backends on this node.
    case hairpin
    /// Addresses of backends on this node.
    case localBackends
    /// original daddr . l4proto . dport whose flows are masqueraded.
    case masqueradedServices
    /// daddr . l4proto . dport . original dport: a node port alone would match flows that others translate too.
    case masqueradedNodePorts

    /// Maps over which round-robin frontends are spread. There are fewer node ports than services, and the planner has no SCTP.
    static func endpointShards(_ transport: TransportProtocol, nodePort: Bool) -> Int {
        transport == .sctp ? 1 : nodePort ? 16 : 64
    }

    static let affinities: [NFTSet] = TransportProtocol.allCases.flatMap { transport in
        [false, true].map { .affinity(transport, nodePort: $0) }
    }
    private static let stickyBackends: [NFTSet] = TransportProtocol.allCases.flatMap { transport in
        [false, true].map { .stickyBackends(transport, nodePort: $0) }
    }

    static let allCases: [NFTSet] =
        [
            .services, .nodePorts, .loopbackNodePorts, .filteredServices, .filteredNodePorts,
            .hairpin, .localBackends,
            .masqueradedServices, .masqueradedNodePorts,
        ] + Self.affinities + Self.stickyBackends
        + TransportProtocol.allCases.flatMap { transport in
            [false, true].flatMap { nodePort -> [NFTSet] in
                let shards = 0..<Self.endpointShards(transport, nodePort: nodePort)
                return ([nil] + shards.map { $0 }).map { .endpoints(transport, nodePort: nodePort, shard: $0) }
            }
        }

    /// As people see it in `nft list ruleset`.
    var name: String {
        switch self {
        case .endpoints(let transport, let nodePort, let shard):
            "\(nodePort ? "node-port-" : "")endpoints-\(transport)\(shard.map { "-\($0)" } ?? "")"
        case .services: "services"
        case .nodePorts: "node-ports"
        case .loopbackNodePorts: "loopback-node-ports"
        case .filteredServices: "filtered-services"
        case .filteredNodePorts: "filtered-node-ports"
        case .stickyBackends(let transport, let nodePort):
            "\(nodePort ? "node-port-" : "")sticky-backends-\(transport)"
        case .affinity(let transport, let nodePort): "\(nodePort ? "node-port-" : "")affinity-\(transport)"
        case .hairpin: "hairpin"
        case .localBackends: "local-backends"
        case .masqueradedServices: "masqueraded-services"
        case .masqueradedNodePorts: "masqueraded-node-ports"
        }
    }

    enum Value {
        case none
        case verdict
        case address
    }

    var value: Value {
        switch self {
        case .services, .nodePorts, .loopbackNodePorts, .filteredServices, .filteredNodePorts, .stickyBackends: .verdict
        case .endpoints: .address
        case .affinity, .hairpin, .localBackends, .masqueradedServices, .masqueradedNodePorts: .none
        }
    }

    /// Whether each element counts the packets that hit it.
    var isCounted: Bool { self == .services || self == .nodePorts }

    /// Filled by packets, each element for a time.
    var isAffinity: Bool { if case .affinity = self { true } else { false } }

    var flags: UInt32 {
        // NFT_SET_MAP; NFT_SET_TIMEOUT | NFT_SET_EVAL.
        (self.value == .none ? 0 : 0x8) | (self.isAffinity ? 0x30 : 0)
    }

    func keyFields(_ family: NFTFamily) -> [NFTField] {
        let address = NFTField.address(family)
        return switch self {
        case .services, .filteredServices, .masqueradedServices: [address, .transport, .port]
        case .nodePorts, .loopbackNodePorts, .filteredNodePorts: [.transport, .port]
        case .masqueradedNodePorts: [address, .transport, .port, .port]
        case .endpoints(_, let nodePort, _), .stickyBackends(_, let nodePort):
            (nodePort ? [] : [address]) + [.port, .index]
        case .affinity(_, let nodePort): (nodePort ? [address] : [address, address]) + [.port, .index]
        case .hairpin: [address, address]
        case .localBackends: [address]
        }
    }

    /// What a map holds that is no verdict.
    func valueFields(_ family: NFTFamily) -> [NFTField] {
        if case .endpoints(let transport, _, _) = self { [.address(family), .port(of: transport)] } else { [] }
    }
}

/// An element of a set or map.
struct NFTElement: Hashable {
    enum Value: Hashable {
        case none
        case data([UInt8])
        case verdict(NFTVerdict)
        /// Stays for a time, in milliseconds, of which some is left.
        case lasting(UInt64, left: UInt64)
    }

    var key: [UInt8]
    var value: Value = .none
}

/// Names of the chains, as people see them in `nft list ruleset`.
enum NFTChain {
    static let services = "services"
    static let proxy = "proxy"
    /// Not `reject`: nft cannot read back a chain that is named like a word of its language.
    static let reject = "refuse"
    static let filter = "filter"
    /// Where packets enter, and where their source is translated. Nobody jumps to these.
    static let base = ["filter-prerouting", "filter-output", "nat-prerouting", "nat-output", "nat-postrouting"]
}

/// What is decided when the tables are made.
struct NFTSettings {
    /// Entries of session affinity at one time in each affinity set; while it is full, new clients are balanced without affinity.
    var maximumAffinityEntries: UInt32
    /// Families of which the kernel does not see what one port of a bridge sends to another (`bridge-nf-call-iptables` is 0 or
    /// absent): replies between pods of one bridge would not be translated back, so such flows are masqueraded.
    var bridgedFamilies: Set<NFTFamily>
    /// Whether flows to endpoints get the mark of `ForwardAcceptance`.
    var marksFlows: Bool
}

extension NFTBatch {
    /// The parts of a table that no rule changes: base chains, sets, and the proxy's address.
    ///
    /// The priorities put us before everything at `dstnat` (-100), where kube-proxy is, whoever starts first: the first chain
    /// that translates a flow's destination decides.
    mutating func createSkeleton(_ family: NFTFamily, listeners: ProxyListeners, _ settings: NFTSettings) {
        for set in NFTSet.allCases {
            self.createSet(family, set, maximumSize: set.isAffinity ? settings.maximumAffinityEntries : nil)
        }
        for name in [NFTChain.services, NFTChain.proxy, NFTChain.reject, NFTChain.filter] {
            self.createChain(family, name)
        }
        for (name, hook) in [("prerouting", Hook.prerouting), ("output", .output)] {
            self.createChain(family, "filter-\(name)", type: "filter", hook: hook, priority: -110)
            self.appendRule(family, chain: "filter-\(name)") { rule in
                rule.isNewFlow()
                rule.verdict(.jump(NFTChain.filter))
            }
            self.createChain(family, "nat-\(name)", type: "nat", hook: hook, priority: -110)
            self.appendRule(family, chain: "nat-\(name)") { $0.verdict(.jump(NFTChain.services)) }
        }
        self.createChain(family, "nat-postrouting", type: "nat", hook: .postrouting, priority: 90)
        self.createFilterRules(family)
        self.createServiceRules(family, listeners: listeners)
        self.createMasqueradeRules(family, settings)
    }

    private mutating func createFilterRules(_ family: NFTFamily) {
        let key = NFTRegister(0)
        self.appendRule(family, chain: NFTChain.filter) { rule in
            rule.frontendKey(key)
            rule.lookup(.filteredServices, key: key)
        }
        self.appendRule(family, chain: NFTChain.filter) { rule in
            rule.destinationIsLocal()
            rule.transport(key)
            rule.destinationPort(key + 1)
            rule.lookup(.filteredNodePorts, key: key)
        }
        self.appendRule(family, chain: NFTChain.reject) { rule in
            rule.isTransport(.tcp)
            rule.reject(tcpReset: true)
        }
        self.appendRule(family, chain: NFTChain.reject) { $0.reject(tcpReset: false) }
    }

    private mutating func createServiceRules(_ family: NFTFamily, listeners: ProxyListeners) {
        let key = NFTRegister(0)
        self.appendRule(family, chain: NFTChain.services) { rule in
            rule.frontendKey(key)
            rule.lookup(.services, key: key)
        }
        for (loopback, set) in [(false, NFTSet.nodePorts), (true, .loopbackNodePorts)] {
            self.appendRule(family, chain: NFTChain.services) { rule in
                rule.destinationIsLocal()
                rule.destinationIsLoopback(loopback)
                rule.transport(key)
                rule.destinationPort(key + 1)
                rule.lookup(set, key: key)
            }
        }
        let addresses: [(TransportProtocol, TransportAddress?)] =
            family == .ip
            ? [(.tcp, listeners.tcpV4), (.udp, listeners.udpV4)] : [(.tcp, listeners.tcpV6), (.udp, listeners.udpV6)]
        for case (let transport, let listener?) in addresses {
            self.appendRule(family, chain: NFTChain.proxy) { rule in
                rule.isTransport(transport)
                rule.immediate(key, listener)
                rule.translate(key)
            }
        }
    }

    private mutating func createMasqueradeRules(_ family: NFTFamily, _ settings: NFTSettings) {
        let key = NFTRegister(0)
        let words = family.addressWords
        self.appendRule(family, chain: "nat-postrouting") { rule in
            rule.isTranslated()
            rule.sourceAddress(key)
            rule.destinationAddress(key + words)
            rule.lookup(.hairpin, key: key)
            rule.masquerade()
        }
        // For nft a port has a type only after its protocol is known.
        for transport in TransportProtocol.allCases {
            self.appendRule(family, chain: "nat-postrouting") { rule in
                rule.isTranslated()
                rule.isTransport(transport)
                rule.originalDestinationAddress(key)
                rule.transport(key + words)
                rule.originalDestinationPort(key + words + 1)
                rule.lookup(.masqueradedServices, key: key)
                rule.masquerade()
            }
            self.appendRule(family, chain: "nat-postrouting") { rule in
                rule.isTranslated()
                rule.isTransport(transport)
                rule.destinationAddress(key)
                rule.transport(key + words)
                rule.destinationPort(key + words + 1)
                rule.originalDestinationPort(key + words + 2)
                rule.lookup(.masqueradedNodePorts, key: key)
                rule.masquerade()
            }
        }
        guard settings.bridgedFamilies.contains(family) else { return }
        self.appendRule(family, chain: "nat-postrouting") { rule in
            rule.isTranslated()
            rule.isBridged()
            rule.destinationAddress(key)
            rule.lookup(.localBackends, key: key)
            rule.masquerade()
        }
    }
}

/// The two bytes of a port as they stand in a packet.
func networkOrder(_ value: UInt16) -> [UInt8] {
    [UInt8(truncatingIfNeeded: value >> 8), UInt8(truncatingIfNeeded: value)]
}
