import Glibc
import MeshCore

/// Packets and bytes that opened flows to a frontend.
public struct FlowCounter: Hashable, Sendable {
    /// One packet per flow: only a flow's first packet passes the NAT chains.
    public var flows: UInt64
    public var bytes: UInt64
}

/// Service rules in nf_tables, spoken over netlink: one table `edgemesh` per address family.
///
/// What differs between services is elements of maps; the chains are shared by all services of one policy and backend count.
/// A change is one transaction over both families, so that a packet sees the old rules or the new. The rules outlive this
/// process on purpose: flows that the kernel balances go on while the agent is away. `install` replaces what it finds in the
/// same transaction that brings the new rules, so nothing is lost at a restart.
public actor NFTablesProgram: ServiceProgramming {
    public nonisolated let backendName = "nftables"

    private let socket: NetlinkSocket
    private var families: [NFTFamily] = []
    private var listeners: ProxyListeners?
    private var rules: [KernelFrontend: KernelRule] = [:]
    private var chains: [NFTFamily: [String: Int]] = [:]
    private var hairpins: [NFTFamily: [NFTElement: Int]] = [:]

    /// Opens the socket in the network namespace of the calling thread; it stays there.
    public init() throws {
        self.socket = try NetlinkSocket(.netfilter)
    }

    public func install(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) async throws {
        try self.program(listeners: listeners, rules: rules)
    }

    public func update(_ changes: [KernelFrontend: KernelRule?]) async throws {
        guard let listeners = self.listeners else {
            throw LinuxNetworkError(.unsupported, "update before install of the nftables program")
        }
        var state = State(rules: self.rules, chains: self.chains, hairpins: self.hairpins)
        var batch = state.apply(changes, families: self.families)
        guard !batch.isEmpty else { return }
        do {
            try self.commit(&batch, "changing \(changes.count) service rules in nftables")
        } catch {
            guard [ENOENT, EBUSY, EEXIST].contains(error.errno) else { throw error }
            // Someone flushed or changed our table: bring all of it back.
            try self.program(listeners: listeners, rules: state.rules)
            return
        }
        (self.rules, self.chains, self.hairpins) = (state.rules, state.chains, state.hairpins)
    }

    public func remove() async throws {
        for family in NFTFamily.allCases {
            var batch = NFTBatch()
            batch.createTable(family)
            batch.deleteTable(family)
            do {
                try self.commit(&batch, "removing the nftables table \(NFTBatch.tableName)")
            } catch {
                guard error.errno == EAFNOSUPPORT || error.errno == EOPNOTSUPP else { throw error }
                continue
            }
        }
        (self.listeners, self.rules, self.chains, self.hairpins) = (nil, [:], [:], [:])
    }

    /// Whether our tables are there. A firewall restart (`nft flush ruleset`) takes them away; `reinstall` brings them back.
    public func verify() throws -> Bool {
        for family in self.families {
            do {
                try self.socket.request(
                    type: NFTBatch.Message.getTable.type,
                    flags: [],
                    what: "reading table \(NFTBatch.tableName)"
                ) {
                    $0.netfilterHeader(family: family.number)
                    $0.attribute(1, text: NFTBatch.tableName)
                }
            } catch {
                guard error.errno == ENOENT else { throw error }
                return false
            }
        }
        return true
    }

    /// Programs everything anew, in one transaction.
    public func reinstall() throws {
        guard let listeners = self.listeners else { return }
        try self.program(listeners: listeners, rules: self.rules)
    }

    private func program(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) throws(LinuxNetworkError) {
        let families: [NFTFamily] =
            listeners.tcpV6 == nil && !rules.keys.contains { $0.family == .v6 } ? [.ip] : [.ip, .ip6]
        var skeleton = NFTBatch(reserving: 64 << 10)
        for family in NFTFamily.allCases where families.contains(family) || self.families.contains(family) {
            skeleton.createTable(family)
            skeleton.deleteTable(family)
            guard families.contains(family) else { continue }
            skeleton.createTable(family)
            skeleton.createSkeleton(family, listeners: listeners)
        }
        var state = State()
        var batch = state.apply(rules.mapValues { $0 }, families: families, into: skeleton)
        try self.commit(&batch, "programming \(rules.count) service rules in nftables")
        self.listeners = listeners
        self.families = families
        (self.rules, self.chains, self.hairpins) = (state.rules, state.chains, state.hairpins)
    }

    private func commit(_ batch: inout NFTBatch, _ what: String) throws(LinuxNetworkError) {
        let (bytes, last) = batch.finish()
        try self.socket.commit(bytes, lastSequence: last, what: what)
    }

    /// Flows per frontend since its rule was last changed; only frontends of action `.proxy` or `.balance`.
    public func counters() throws -> [KernelFrontend: FlowCounter] {
        var counters: [KernelFrontend: FlowCounter] = [:]
        for family in self.families {
            for set in [NFTSet.services, .nodePorts] {
                let messages = try self.socket.request(
                    type: NFTBatch.Message.getElement.type,
                    flags: .dump,
                    what: "reading map \(set.rawValue)"
                ) {
                    $0.netfilterHeader(family: family.number)
                    $0.attribute(1, text: NFTBatch.tableName)
                    $0.attribute(2, text: set.rawValue)
                }
                for message in messages {
                    guard let list = try NetlinkAttributes(message.payload.dropFirst(4)).nested(3) else { continue }
                    for (_, value) in list.all {
                        let element = try NetlinkAttributes(value)
                        guard let key = try element.nested(1)?[1], let frontend = KernelFrontend(key, family, set),
                            let counter = try element.nested(7)?.nested(2)
                        else { continue }
                        counters[frontend] = FlowCounter(
                            flows: counter.network(2, UInt64.self) ?? 0,
                            bytes: counter.network(1, UInt64.self) ?? 0
                        )
                    }
                }
            }
        }
        return counters
    }

    /// What is in the kernel, as counted references: kept so that a change costs what it changes.
    private struct State {
        var rules: [KernelFrontend: KernelRule] = [:]
        var chains: [NFTFamily: [String: Int]] = [:]
        var hairpins: [NFTFamily: [NFTElement: Int]] = [:]

        /// The difference as a batch: new chains, old elements, new elements, then chains that nobody names any more.
        mutating func apply(
            _ changes: [KernelFrontend: KernelRule?],
            families: [NFTFamily],
            into start: NFTBatch? = nil
        ) -> NFTBatch {
            var batch = start ?? NFTBatch()
            for family in families {
                var removed: [NFTSet: [NFTElement]] = [:]
                var added: [NFTSet: [NFTElement]] = [:]
                var chainChanges: [NFTDynamicChain: Int] = [:]
                var hairpinChanges: [NFTElement: Int] = [:]
                for (frontend, rule) in changes where NFTFamily(frontend.family) == family {
                    let old = self.rules[frontend]
                    guard old != rule else { continue }
                    let oldPlan = old.map { NFTRulePlan(frontend, $0) } ?? NFTRulePlan()
                    let newPlan = rule.map { NFTRulePlan(frontend, $0) } ?? NFTRulePlan()
                    for (set, elements) in oldPlan.elements {
                        removed[set, default: []] += elements.subtracting(newPlan.elements[set] ?? [])
                    }
                    for (set, elements) in newPlan.elements {
                        added[set, default: []] += elements.subtracting(oldPlan.elements[set] ?? [])
                    }
                    for chain in oldPlan.chains { chainChanges[chain, default: 0] -= 1 }
                    for chain in newPlan.chains { chainChanges[chain, default: 0] += 1 }
                    for element in oldPlan.hairpins { hairpinChanges[element, default: 0] -= 1 }
                    for element in newPlan.hairpins { hairpinChanges[element, default: 0] += 1 }
                    self.rules[frontend] = rule
                }
                for (element, change) in hairpinChanges where change != 0 {
                    let before = self.hairpins[family]?[element] ?? 0
                    self.hairpins[family, default: [:]][element] = before + change > 0 ? before + change : nil
                    if before == 0 { added[.hairpin, default: []].append(element) }
                    if before + change == 0 { removed[.hairpin, default: []].append(element) }
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
            return batch
        }
    }
}

extension KernelFrontend {
    /// Reads the key of an element of `services` or `nodePorts`; nil if it is not one.
    fileprivate init?(_ key: ArraySlice<UInt8>, _ family: NFTFamily, _ set: NFTSet) {
        let addressBytes = set == .nodePorts ? 0 : Int(family.addressLength)
        let tail = Array(key.dropFirst(addressBytes))
        guard tail.count == 8, let transport = TransportProtocol(rawValue: tail[0]) else { return nil }
        let match: Match
        if set == .nodePorts {
            match = .nodePort(family == .ip ? .v4 : .v6)
        } else {
            guard let address = IPAddress(networkBytes: key.prefix(addressBytes)) else { return nil }
            match = .address(address)
        }
        self.init(match: match, transport: transport, port: UInt16(tail[4]) << 8 | UInt16(tail[5]))
    }
}
