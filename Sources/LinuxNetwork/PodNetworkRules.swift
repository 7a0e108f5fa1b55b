import Glibc
import MeshCore
import Synchronization

/// Lets the packets of pods pass the host as they are.
public protocol PodNetworkRuling: Sendable {
    /// Puts in what is missing. What cannot be put in is told, all else is there.
    func ensure() async -> [String]
    func remove() async throws
}

/// The rules by which packets of pods cross this host to and from the tunnel's device as they are: whatever other rules translate
/// sources, theirs stay, and a firewall that forwards nothing by itself lets them through.
///
/// In nf_tables a table of its own, `edgemesh-cni`, before all that masquerade (`srcnat`): the first chain that decides about a flow's
/// source decides for all, in iptables, too, and here it stays what it is. Else the chain `EDGECNI-POSTROUTING` of iptables, to which a
/// bit of the packet's mark tells that it came by the device. The flows get the mark that `ForwardAcceptance` accepts.
public final class PodNetworkRules: PodNetworkRuling {
    static let tableName = "edgemesh-cni"

    private let device: String
    private let backend: String
    private let forwarding: ForwardAcceptance
    private let namespace: NetworkNamespace?
    /// Tables of an agent that was here before are made anew.
    private let isMade = Atomic(false)
    /// Asked once: it tries things out.
    private let chosen = Mutex<ServiceProgrammingBackend?>(nil)

    /// - Parameters:
    ///   - backend: `auto`, `nftables`, `iptables`, or `none` for nodes whose rules are made by other means.
    ///   - namespace: nil for this process's own.
    public init(
        device: String,
        backend: String = "auto",
        forwarding: ForwardAcceptance,
        namespace: NetworkNamespace? = nil
    ) {
        self.device = device
        self.backend = backend
        self.forwarding = forwarding
        self.namespace = namespace
    }

    public func ensure() async -> [String] {
        var problems = self.inNamespaceCollecting { [device] in Self.openKernel(device) }
        guard self.backend != "none" else { return problems }
        do {
            switch try await self.choose() {
            case .none: break
            case .nftables:
                let isMade = self.isMade.load(ordering: .relaxed)
                try self.inNamespace { [device] in try Self.makeTables(for: device, replacing: !isMade) }
            case .iptables(let variant):
                try await self.makeChains(variant, replacing: !self.isMade.load(ordering: .relaxed))
            }
            self.isMade.store(true, ordering: .relaxed)
        } catch {
            problems.append("sources of pods may be translated: \(error)")
        }
        do { try await self.forwarding.ensure() } catch {
            problems.append("the host's firewall may drop packets of pods: \(error)")
        }
        return problems
    }

    private func choose() async throws -> ServiceProgrammingBackend {
        if let chosen = self.chosen.withLock({ $0 }) { return chosen }
        let backend = try await ServiceProgrammingBackend.choose(configured: self.backend)
        self.chosen.withLock { $0 = backend }
        return backend
    }

    public func remove() async throws {
        try await self.removeTables()
        try await self.forwarding.remove()
    }

    /// All but what services need, too.
    func removeTables() async throws {
        self.isMade.store(false, ordering: .relaxed)
        try self.inNamespace {
            for family in try NFTablesProgram.families(with: Self.tableName) { try Self.removeTable(family) }
        }
        for (tools, family) in await self.chainPlaces() {
            let text = IPTablesTransaction.removal(from: try await tools.save(family)) {
                $1.hasPrefix(Self.chainPrefix)
            }
            if !text.text.isEmpty { try await tools.restore(text.text, family) }
        }
    }

    /// What of it is there, for people.
    func find() async throws -> [String] {
        var found = try self.inNamespace {
            try NFTablesProgram.families(with: Self.tableName).map {
                "nftables table \($0) \(Self.tableName)"
            }
        }
        for (tools, family) in await self.chainPlaces() {
            for (table, chains) in try await tools.save(family).tables.sorted(by: { $0.key < $1.key }) {
                for chain in chains.keys.sorted() where chain.hasPrefix(Self.chainPrefix) {
                    found.append("\(tools.variant.rawValue) IPv\(family.rawValue) chain \(table)/\(chain)")
                }
            }
        }
        return found
    }

    // MARK: The kernel's own settings

    /// - Returns: what could not be set.
    private static func openKernel(_ device: String) -> [String] {
        var problems: [String] = []
        // The agent knows who may send with which source. To the kernel a device without addresses has no loose check of them (2): the way
        // back to a pod may be another device.
        for (path, wanted) in [("ipv4/ip_forward", "1"), ("ipv4/conf/\(device)/rp_filter", "0")] {
            let file = "/proc/sys/net/\(path)"
            guard let present = readSmallFile(file)?.split(separator: "\n").first.map(String.init), present != wanted
            else { continue }
            if !writeSmallFile(file, wanted) {
                problems.append("\(file) is \(present), and cannot be set to \(wanted)")
            }
        }
        return problems
    }

    // MARK: nf_tables

    private static func makeTables(for device: String, replacing: Bool) throws {
        let present = replacing ? [] : try NFTablesProgram.families(with: self.tableName)
        for family in NFTFamily.allCases where !present.contains(family) {
            do {
                do { try self.makeTable(family, device, marksFlows: true) } catch {
                    // A kernel without connection marks; only a closed firewall stays closed.
                    guard let error = error as? LinuxNetworkError, error.errno == EOPNOTSUPP else { throw error }
                    try self.makeTable(family, device, marksFlows: false)
                }
            } catch let error as LinuxNetworkError {
                // A kernel without IPv6 has no packets of it either.
                guard family == .ip6, [EAFNOSUPPORT, EOPNOTSUPP, EPROTONOSUPPORT].contains(error.errno) else {
                    throw error
                }
            }
        }
    }

    private static func makeTable(_ family: NFTFamily, _ device: String, marksFlows: Bool) throws {
        try self.commit("making the nftables table \(self.tableName)", marksFlows: marksFlows) { batch in
            batch.createTable(family)
            batch.deleteTable(family)
            batch.createTable(family)
            batch.createChain(family, "postrouting", type: "nat", hook: .postrouting, priority: 80)
            for isLeaving in [true, false] {
                batch.appendRule(family, chain: "postrouting") { rule in
                    rule.passesDevice(device, isLeaving: isLeaving)
                    rule.keepSource()
                }
            }
            guard marksFlows else { return }
            batch.createChain(family, "forward", type: "filter", hook: .forward, priority: -150)
            for isLeaving in [true, false] {
                batch.appendRule(family, chain: "forward") { rule in
                    rule.passesDevice(device, isLeaving: isLeaving)
                    rule.markFlow()
                }
            }
        }
    }

    private static func removeTable(_ family: NFTFamily) throws {
        try self.commit("removing the nftables table \(self.tableName)", marksFlows: false) { $0.deleteTable(family) }
    }

    private static func commit(_ what: String, marksFlows: Bool, _ body: (inout NFTBatch) -> Void) throws {
        let socket = try NetlinkSocket(.netfilter)
        var batch = NFTBatch(first: socket.nextSequence, table: self.tableName, marksFlows: marksFlows)
        body(&batch)
        let (bytes, last) = try batch.finish()
        let first = socket.reserveSequences(Int(batch.count) + 2)
        try socket.commit(bytes, first: first, last: last, what: what)
    }

    // MARK: iptables

    static let chainPrefix = "EDGECNI-"

    /// Chains that are hooked in at the front of others, by table.
    private var chains: [(table: String, chain: String, hook: String, rules: [String])] {
        let (leaves, came) = ("-o \(self.device)", "-i \(self.device)")
        // POSTROUTING does not know by which device a packet came.
        let mark = "0x\(String(ForwardAcceptance.mark, radix: 16))"
        return [
            (
                "nat", "EDGECNI-POSTROUTING", "POSTROUTING",
                ["\(leaves) -j ACCEPT", "-m mark --mark \(mark)/\(mark) -j ACCEPT"]
            ),
            (
                "mangle", "EDGECNI-FORWARD", "FORWARD",
                [
                    "\(leaves) \(ForwardAcceptance.marking)", "\(came) \(ForwardAcceptance.marking)",
                    "\(came) -j MARK --set-xmark \(mark)/\(mark)",
                ]
            ),
        ]
    }

    private func makeChains(_ variant: IPTablesVariant, replacing: Bool) async throws {
        let tools = IPTablesTools(variant: variant, namespace: self.namespace)
        for family in IPFamily.allCases where ChildProcess.find(tools.variant.tool("save", family)) != nil {
            let dump: IPTablesDump
            do { dump = try await tools.save(family) } catch {
                guard family == .v6 else { throw error }
                continue
            }
            for chain in self.chains {
                let hooked = dump.tables[chain.table]?[chain.hook]?.rules.first.flatMap { IPTablesDump.target(of: $0) }
                guard replacing || hooked != chain.chain else { continue }
                var text = IPTablesTransaction()
                text.begin(chain.table)
                text.write([chain.chain: chain.rules])
                for (place, rule) in dump.references(to: [chain.chain], table: chain.table) {
                    text.delete(rule, from: place)
                }
                text.insert("-m comment --comment \"packets of pods\" -j \(chain.chain)", into: chain.hook)
                text.commit()
                try await tools.restore(text.text, family)
            }
        }
    }

    /// Where chains of ours may be.
    private func chainPlaces() async -> [(IPTablesTools, IPFamily)] {
        await IPTablesTools.inUse(in: self.namespace).flatMap { variant in
            IPFamily.allCases.compactMap { family in
                ChildProcess.find(variant.tool("save", family)) == nil
                    ? nil : (IPTablesTools(variant: variant, namespace: self.namespace), family)
            }
        }
    }

    // MARK: Namespace

    private func inNamespace<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) throws -> Value {
        try self.namespace.map { try $0.run(body) } ?? body()
    }

    private func inNamespaceCollecting(_ body: @escaping @Sendable () -> [String]) -> [String] {
        do { return try self.inNamespace(body) } catch { return ["\(error)"] }
    }
}
