import Glibc
public import MeshCore

/// What agents of ours and of the Go implementation leave in the kernel: rules, tables and the bridge device.
public struct Leftovers: Sendable {
    /// Human lines.
    public struct Report: Hashable, Sendable {
        /// Found, and if it was asked for, removed.
        public var found: [String] = []
        /// Looks like ours, but is not touched, with the reason.
        public var kept: [String] = []
        /// Could not be read or removed.
        public var failures: [String] = []
    }

    private let bridgeName: String
    private let tunnelName: String
    private let bridgeAddress: IPAddress
    private let namespace: NetworkNamespace?

    /// `namespace` is nil for this process's own.
    public init(
        bridgeName: String = "edgemesh0",
        tunnelName: String = "edge_tun0",
        bridgeAddress: IPAddress,
        namespace: NetworkNamespace? = nil
    ) {
        self.bridgeName = bridgeName
        self.tunnelName = tunnelName
        self.bridgeAddress = bridgeAddress
        self.namespace = namespace
    }

    /// All there is. Changes nothing.
    public func find() async -> Report {
        await self.walk(sparing: nil, includingBridge: true, removing: false)
    }

    /// Removes everything: for `edgemesh cleanup`.
    public func remove() async -> Report {
        await self.walk(sparing: nil, includingBridge: true, removing: true)
    }

    /// Removes what a start with `backend` does not take over: rules of other variants and tables, not the bridge.
    public func removeStale(adoptedBy backend: ServiceProgrammingBackend) async -> Report {
        await self.walk(sparing: backend, includingBridge: false, removing: true)
    }

    private func walk(
        sparing backend: ServiceProgrammingBackend?,
        includingBridge: Bool,
        removing: Bool
    ) async -> Report {
        var report = Report()
        if backend != .nftables { await self.tables(removing: removing, into: &report) }
        for variant in await IPTablesTools.inUse(in: self.namespace) where backend != .iptables(variant) {
            for family in IPFamily.allCases where ChildProcess.find(variant.tool("save", family)) != nil {
                await self.chains(variant, family, sparing: backend, removing: removing, into: &report)
            }
        }
        await self.podNetwork(sparing: backend, removing: removing, into: &report)
        if includingBridge { self.bridge(removing: removing, into: &report) }
        return report
    }

    // MARK: nf_tables

    private func tables(removing: Bool, into report: inout Report) async {
        do {
            let families = try self.inNamespace { try NFTablesProgram.families(with: NFTBatch.tableName) }
            guard !families.isEmpty else { return }
            if removing { try await self.inNamespace { try NFTablesProgram() }.remove() }
            report.found += families.map { "nftables table \($0) \(NFTBatch.tableName)" }
        } catch {
            report.failures.append("nftables table \(NFTBatch.tableName): \(error)")
        }
    }

    // MARK: iptables

    private func chains(
        _ variant: IPTablesVariant,
        _ family: IPFamily,
        sparing backend: ServiceProgrammingBackend?,
        removing: Bool,
        into report: inout Report
    ) async {
        let tools = IPTablesTools(variant: variant, namespace: self.namespace)
        let place = "\(variant.rawValue)\(family == .v6 ? " (IPv6)" : "")"
        do {
            let dump = try await tools.save(family)
            var (stale, kept) = self.judge(dump)
            // The nftables program has it too.
            if backend == .nftables { stale.remove(IPTablesPlace(table: "filter", chain: IPTablesChain.forward)) }
            report.kept += kept.map { "\(place): \($0)" }
            guard !stale.isEmpty else { return }
            let transaction = IPTablesTransaction.removal(from: dump) { [stale] table, chain in
                stale.contains(IPTablesPlace(table: table, chain: chain))
            }
            if removing { try await tools.restore(transaction.text, family) }
            for place in stale.sorted() {
                let count = dump.tables[place.table]?[place.chain]?.rules.count ?? 0
                let hooks = dump.references(to: [place.chain], table: place.table).filter {
                    !stale.contains(IPTablesPlace(table: place.table, chain: $0.chain))
                }
                let hooked = hooks.isEmpty ? "" : ", called from " + hooks.map(\.chain).joined(separator: " and ")
                report.found.append(
                    "\(variant.rawValue) IPv\(family.rawValue) chain \(place) with \(count) rules\(hooked)"
                )
            }
        } catch {
            report.failures.append("\(place): \(error)")
        }
    }

    /// Which of the chains with our names are ours or the Go implementation's. kube-proxy's userspace mode, gone since
    /// Kubernetes 1.26, had the same names, so the rules have to show whose they are.
    func judge(_ dump: IPTablesDump) -> (stale: Set<IPTablesPlace>, kept: [String]) {
        var stale: Set<IPTablesPlace> = []
        var doubtful: [IPTablesPlace: String] = [:]
        var isOurs = false
        for (table, chains) in dump.tables {
            for (name, chain) in chains where IPTablesChain.isOurs(name) {
                let place = IPTablesPlace(table: table, chain: name)
                if name.hasPrefix("EDGEMESH-") {
                    stale.insert(place)
                    isOurs = true
                } else if table == "nat", let foreign = chain.rules.first(where: { !self.isOurs($0) }) {
                    doubtful[place] = "has rules that do not lead to \(self.bridgeAddress) (\(foreign))"
                } else if table == "nat", !chain.rules.isEmpty {
                    stale.insert(place)
                    isOurs = true
                } else if !chain.rules.isEmpty {
                    doubtful[place] = "nothing else shows that its rules are the mesh's"
                } else if dump.references(to: [name], table: table).isEmpty {
                    stale.insert(place)
                } else {
                    doubtful[place] = "is empty, in use, and nothing else shows that it is the mesh's"
                }
            }
        }
        let foreign = doubtful.contains {
            $0.key.table == "nat" && dump.tables["nat"]?[$0.key.chain]?.rules.isEmpty == false
        }
        if isOurs {
            // What had no mark of its own belongs to those that do, unless kube-proxy is there too.
            for place in doubtful.keys where !foreign {
                stale.insert(place)
                doubtful[place] = nil
            }
        }
        let kept = doubtful.sorted { $0.key < $1.key }.map { place, reason in
            "chain \(place) is kept: it \(reason); kube-proxy in userspace mode uses this name"
        }
        return (stale, kept)
    }

    private func isOurs(_ rule: String) -> Bool {
        guard let target = IPTablesDump.target(of: rule) else { return false }
        // Only we accept there: a frontend that the filter refuses.
        return target.hasPrefix(IPTablesChain.servicePrefix) || target == "ACCEPT"
            || IPTablesDump.translation(of: rule) == self.bridgeAddress
    }

    // MARK: Network of pods

    /// Its device goes with its agent; the rules around it do not. While the device is there, they are in use.
    private func podNetwork(
        sparing backend: ServiceProgrammingBackend?,
        removing: Bool,
        into report: inout Report
    ) async {
        let rules = PodNetworkRules(
            device: self.tunnelName,
            forwarding: ForwardAcceptance(namespace: self.namespace),
            namespace: self.namespace
        )
        do {
            let found = try await rules.find()
            guard !found.isEmpty else { return }
            let name = self.tunnelName
            if try self.inNamespace({ try RouteNetlink.links().contains { $0.name == name } }) {
                // At its own start an agent may have made them already.
                if backend == nil {
                    report.kept += found.map { "\($0) is kept: the device \(name) is there, so that an agent runs" }
                }
                return
            }
            if removing { try await rules.removeTables() }
            report.found += found
        } catch {
            report.failures.append("rules of the network of pods: \(error)")
        }
    }

    // MARK: Bridge

    private func bridge(removing: Bool, into report: inout Report) {
        let name = self.bridgeName
        do {
            let (link, addresses) = try self.inNamespace {
                let link = try RouteNetlink.links().first { $0.name == name }
                return (link, try RouteNetlink.addresses().filter { $0.linkIndex == link?.index }.map(\.address))
            }
            guard let link else { return }
            guard link.kind == "bridge" || link.kind == "dummy" else {
                report.kept.append("device \(name) is kept: it is no bridge (\(link.kind ?? "hardware"))")
                return
            }
            guard addresses.contains(self.bridgeAddress) else {
                report.kept.append("bridge \(name) is kept: it does not have the address \(self.bridgeAddress)")
                return
            }
            if removing { try self.inNamespace { try RouteNetlink.removeLink(name) } }
            report.found.append("bridge \(name) with \(self.bridgeAddress)")
        } catch {
            report.failures.append("bridge \(name): \(error)")
        }
    }

    private func inNamespace<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) throws -> Value {
        try self.namespace.map { try $0.run(body) } ?? body()
    }
}

extension NFTablesProgram {
    /// The families in which a table is there, in the namespace of the calling thread.
    static func families(with table: String) throws -> [NFTFamily] {
        try NFTFamily.allCases.filter { family in
            do {
                return try self.isTablePresent(family, name: table)
            } catch let error as LinuxNetworkError {
                // No nf_tables, or not in this family: no table of ours either.
                guard [EINVAL, EOPNOTSUPP, EAFNOSUPPORT, EPROTONOSUPPORT].contains(error.errno) else { throw error }
                return false
            }
        }
    }

    /// Asks the kernel in the namespace of the calling thread. Throws if it has no nf_tables.
    static func isTablePresent(_ family: NFTFamily, name: String = NFTBatch.tableName) throws -> Bool {
        do throws(LinuxNetworkError) {
            try NetlinkSocket(.netfilter).request(
                type: NFTBatch.Message.getTable.type,
                flags: [],
                what: "looking for the table \(name)"
            ) {
                $0.netfilterHeader(family: family.number)
                $0.attribute(1, text: name)
            }
            return true
        } catch {
            guard error.errno == ENOENT else { throw error }
            return false
        }
    }
}

/// A chain of a table.
struct IPTablesPlace: Hashable, Comparable, CustomStringConvertible {
    var table: String
    var chain: String

    var description: String { "\(self.table)/\(self.chain)" }

    static func < (lhs: IPTablesPlace, rhs: IPTablesPlace) -> Bool { (lhs.table, lhs.chain) < (rhs.table, rhs.chain) }
}
