import Glibc
import Logging
import MeshCore

/// Service rules in nf_tables, spoken over netlink: one table `edgemesh` per address family.
///
/// What differs between services is elements of maps; the chains are shared by all services of one policy and backend count.
/// A change is one transaction over both families, so that a packet sees the old rules or the new. The rules outlive this
/// process on purpose: flows that the kernel balances go on while the agent is away. `install` replaces what it finds in the
/// same transaction that brings the new rules, so nothing is lost at a restart.
///
/// Every firewall tool of a node lists all rules, and some save them and load them again, so that each rule here must be one that
/// nft can show and read: nft 1.0.6 aborts on keys and data that come from another map, and does not take constants in a
/// concatenation, or types without a name unless `NFTTypeof` tells them.
public actor NFTablesProgram: ServiceProgramming {
    public nonisolated let backendName = "nftables"

    private let socket: NetlinkSocket
    private let counterReader: FlowCounterReader
    private var settings: NFTSettings
    private let forwarding: ForwardAcceptance?
    private let forwardingInterval: Duration
    private var forwardingFailure: String?
    private var families: [NFTFamily] = []
    private var listeners: ProxyListeners?
    private var state = NFTMirror()
    /// The tables as `program` made them, to recognise that someone else changed them; nil if what the kernel has is not known.
    private var made: [NFTFamily: TableIdentity]?
    private var isLossReported = false

    /// How often `waitForLoss` looks. It asks the kernel for one number, unless that has changed.
    private static let lossCheckInterval = Duration.milliseconds(500)

    /// Opens the socket in the network namespace of the calling thread; it stays there.
    ///
    /// - Parameters:
    ///   - maximumAffinityEntries: the bound of each affinity set; those of a family and protocol are two, one for node ports.
    ///   - masqueradeBridged: whether flows between pods behind bridges of this node get the node's address as their source,
    ///     as they must where bridged packets bypass netfilter; nil: if `bridge-nf-call-iptables` is off now.
    ///   - forwarding: opens the host's firewall for flows to endpoints, now and when it was restarted; nil: it is left alone.
    ///   - forwardingInterval: how often that firewall is looked at, which runs a tool if there is one.
    public init(
        maximumAffinityEntries: UInt32 = 65_536,
        masqueradeBridged: Bool? = nil,
        forwarding: ForwardAcceptance? = nil,
        forwardingInterval: Duration = .seconds(30)
    ) throws {
        self.forwarding = forwarding
        self.forwardingInterval = forwardingInterval
        self.socket = try NetlinkSocket(.netfilter)
        self.counterReader = try FlowCounterReader()
        let bridged = NFTFamily.allCases.filter { family in
            let name = family == .ip ? "bridge-nf-call-iptables" : "bridge-nf-call-ip6tables"
            return masqueradeBridged ?? (readSmallFile("/proc/sys/net/bridge/\(name)")?.first != "1")
        }
        self.settings = NFTSettings(
            maximumAffinityEntries: maximumAffinityEntries,
            bridgedFamilies: Set(bridged),
            marksFlows: forwarding != nil
        )
    }

    public func install(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) async throws {
        do {
            try self.program(listeners: listeners, rules: rules)
        } catch {
            // A kernel without connection marks (CONFIG_NF_CONNTRACK_MARK) serves too; only a closed firewall stays closed.
            guard self.settings.marksFlows, error.errno == EOPNOTSUPP else { throw error }
            self.settings.marksFlows = false
            try self.program(listeners: listeners, rules: rules)
        }
        await self.openForwarding()
    }

    /// Services that need no forwarding are served whether it can be done or not. Why it cannot is logged once, not at each try.
    private func openForwarding() async {
        guard let forwarding = self.forwarding else { return }
        do {
            try await forwarding.ensure()
            if self.forwardingFailure != nil {
                forwarding.logger?.notice("the host's firewall lets flows to services through again")
            }
            self.forwardingFailure = nil
        } catch {
            let failure = "\(error)"
            guard failure != self.forwardingFailure else { return }
            self.forwardingFailure = failure
            forwarding.logger?.warning(
                "the host's firewall may drop flows to services on other hosts and pods: see edgemesh check",
                metadata: ["error": "\(failure)"]
            )
        }
    }

    public func update(_ changes: [KernelFrontend: KernelRule?]) async throws {
        guard let listeners = self.listeners else {
            throw LinuxNetworkError(.unsupported, "update before install of the nftables program")
        }
        var state = self.state
        var batch = state.apply(changes, families: self.families, into: self.newBatch())
        guard self.made != nil else { return try self.program(listeners: listeners, rules: state.rules) }
        guard !batch.isEmpty else { return }
        do {
            try self.commit(&batch, "changing \(changes.count) service rules in nftables")
        } catch {
            guard error.code == .unconfirmed || [ENOENT, EBUSY, EEXIST].contains(error.errno) else { throw error }
            // Someone flushed or changed our table, or we do not know what it holds: bring all of it back.
            try self.program(listeners: listeners, rules: state.rules)
            return
        }
        self.state = state
    }

    public func remove() async throws {
        do { try await self.forwarding?.remove() } catch {
            self.forwarding?.logger?.warning("the chain EDGEMESH-FORWARD stays", metadata: ["error": "\(error)"])
        }
        for family in NFTFamily.allCases {
            var batch = self.newBatch()
            batch.createTable(family)
            batch.deleteTable(family)
            do {
                try self.commit(&batch, "removing the nftables table \(NFTBatch.tableName)")
            } catch {
                guard error.errno == EAFNOSUPPORT || error.errno == EOPNOTSUPP else { throw error }
                continue
            }
        }
        (self.listeners, self.state, self.made) = (nil, NFTMirror(), nil)
    }

    /// Whether our tables and chains are as we made them. `nft flush ruleset`, a flush of our table, and a saved ruleset loaded
    /// over it are noticed; single rules or elements that someone took out are not.
    public func verify() throws -> Bool {
        guard let made = self.made else { return false }
        for family in self.families {
            guard let identity = try self.identity(family), identity == made[family] else { return false }
        }
        return true
    }

    public func waitForLoss() async throws {
        var checked: UInt32?
        var forwardingChecked = MonotonicTime.now()
        while true {
            try await Task.sleep(for: min(Self.lossCheckInterval, self.forwardingInterval))
            if self.listeners != nil, .now() - forwardingChecked >= self.forwardingInterval {
                await self.openForwarding()
                forwardingChecked = .now()
            }
            guard self.listeners != nil, !self.isLossReported else { continue }
            // The generation counts the transactions of this namespace: nothing has changed while it stays.
            let answer = try self.socket.request(
                type: NFTBatch.Message.getGeneration.type,
                flags: [],
                what: "reading the generation of nftables"
            ) { $0.netfilterHeader(family: 0) }
            let generation = try answer.flatMap {
                try NetlinkAttributes($0.payload.dropFirst(4)).network(1, UInt32.self)
            }
            if let generation, generation == checked { continue }
            guard try self.verify() else {
                self.isLossReported = true
                return
            }
            checked = generation
        }
    }

    /// Programs everything anew, in one transaction.
    public func reinstall() throws {
        guard let listeners = self.listeners else { return }
        try self.program(listeners: listeners, rules: self.state.rules)
    }

    private func program(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) throws(LinuxNetworkError) {
        let families: [NFTFamily] =
            listeners.tcpV6 == nil && !rules.keys.contains { $0.family == .v6 } ? [.ip] : [.ip, .ip6]
        var skeleton = NFTBatch(
            first: self.socket.nextSequence,
            marksFlows: self.settings.marksFlows,
            reserving: 64 << 10
        )
        for family in NFTFamily.allCases where families.contains(family) || self.families.contains(family) {
            skeleton.createTable(family)
            skeleton.deleteTable(family)
            guard families.contains(family) else { continue }
            skeleton.createTable(family)
            skeleton.createSkeleton(family, listeners: listeners, self.settings)
        }
        // Clients keep their backends: also those of an agent that was here before.
        for family in families {
            for set in NFTSet.affinities {
                skeleton.elements(.newElement, family, set, self.affinity(family, set))
            }
        }
        var state = NFTMirror()
        var batch = state.apply(rules.mapValues { $0 }, families: families, into: skeleton)
        self.made = nil
        try self.commit(&batch, "programming \(rules.count) service rules in nftables")
        (self.listeners, self.families, self.state) = (listeners, families, state)
        var made: [NFTFamily: TableIdentity] = [:]
        for family in families { made[family] = try self.identity(family) }
        self.made = made
        self.isLossReported = false
    }

    /// What the table in the kernel remembers of clients. Nothing if it is gone, or cannot be read: then they are balanced anew.
    private func affinity(_ family: NFTFamily, _ set: NFTSet) -> [NFTElement] {
        let length = Int(set.keyFields(family).reduce(0) { $0 + $1.length })
        var elements: [[UInt8]: NFTElement] = [:]
        try? self.socket.readElements(family, set) { (element) throws(LinuxNetworkError) in
            guard elements.count < Int(self.settings.maximumAffinityEntries), let key = try element.nested(1)?[1],
                key.count == length, let lasting = element.network(4, UInt64.self),
                let left = element.network(5, UInt64.self), left > 0
            else { return }
            elements[Array(key)] = NFTElement(key: Array(key), value: .lasting(lasting, left: left))
        }
        return Array(elements.values)
    }

    private func newBatch() -> NFTBatch {
        NFTBatch(first: self.socket.nextSequence, marksFlows: self.settings.marksFlows)
    }

    private func commit(_ batch: inout NFTBatch, _ what: String) throws(LinuxNetworkError) {
        let (bytes, last) = try batch.finish()
        let first = self.socket.reserveSequences(Int(batch.count) + 2)
        do {
            try self.socket.commit(bytes, first: first, last: last, what: what)
        } catch {
            if error.code == .unconfirmed { self.made = nil }
            throw error
        }
    }

    public func flowCounters() async throws -> [KernelFrontend: FlowCounter] {
        try await self.counterReader.recent(self.state.rules, self.families)
    }

    /// The same as of now.
    public func counters() async throws -> [KernelFrontend: FlowCounter] {
        try await self.counterReader.read(self.state.rules, self.families)
    }

    /// What tells a table of ours from one that was made or emptied since.
    private struct TableIdentity: Equatable {
        var handle: UInt64?
        /// Sets and chains, without those that come and go with the rules.
        var parts: Int?
        /// Rules of each base chain.
        var rules: [UInt32?]
    }

    private func identity(_ family: NFTFamily) throws(LinuxNetworkError) -> TableIdentity? {
        func read(_ message: NFTBatch.Message, chain: String? = nil) throws(LinuxNetworkError) -> NetlinkAttributes? {
            do {
                let answer = try self.socket.request(
                    type: message.type,
                    flags: [],
                    what: "reading table \(NFTBatch.tableName)"
                ) {
                    $0.netfilterHeader(family: family.number)
                    $0.attribute(1, text: NFTBatch.tableName)
                    if let chain { $0.attribute(3, text: chain) }
                }
                return try answer.map { (answer) throws(LinuxNetworkError) in
                    try NetlinkAttributes(answer.payload.dropFirst(4))
                }
            } catch {
                guard error.errno == ENOENT else { throw error }
                return nil
            }
        }
        guard let table = try read(.getTable) else { return nil }
        var rules: [UInt32?] = []
        for chain in NFTChain.base { rules.append(try read(.getChain, chain: chain)?.network(6, UInt32.self)) }
        let chains = self.state.chains[family]?.count ?? 0
        return TableIdentity(
            handle: table.network(4, UInt64.self),
            parts: table.network(3, UInt32.self).map { Int($0) - chains },
            rules: rules
        )
    }
}
