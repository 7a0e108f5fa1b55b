import CLinux
import Glibc
import MeshCore

/// What the kernel and the tools of this host can do for us, each with its reason.
public struct KernelCapabilities: Sendable {
    public struct Finding: Hashable, Sendable {
        public var isAvailable: Bool
        /// What was found, or why it is not there and what would mend it.
        public var reason: String

        public init(_ isAvailable: Bool, _ reason: String) {
            self.isAvailable = isAvailable
            self.reason = reason
        }
    }

    /// `uname -r`.
    public var kernelVersion = ""
    public var netAdmin = Finding(false, "not probed")
    /// All that our nf_tables rules are made of.
    public var nfTables = Finding(false, "not probed")
    public var nfTablesIPv6 = Finding(false, "not probed")
    /// Each variant that was tried, and with what outcome.
    public var iptables: [IPTablesVariant: Finding] = [:]
    /// The variant to use, if any works: the legacy one where its tables hold rules, because the host's firewall is there.
    public var preferredIPTables: IPTablesVariant?
    public var conntrack = Finding(false, "not probed")
    public var ipForwarding = Finding(false, "not probed")
    public var bridgeNetfilter = Finding(false, "not probed")
    public var ipv6 = Finding(false, "not probed")

    public init() {}

    /// Asks the kernel. Rules are tried in a network namespace made for it, which goes with it: nothing real is touched.
    /// `namespace` is where settings and legacy tables are read; nil for this process's own. Takes some hundred milliseconds,
    /// not on the caller's thread. `searchPath` is where tools are looked for; without
    /// `tryingIPTables` no tool is run.
    public static func probe(
        in namespace: NetworkNamespace? = nil,
        searchPath: String? = nil,
        tryingIPTables: Bool = true
    ) async -> KernelCapabilities {
        var found = KernelCapabilities()
        found.kernelVersion =
            readSmallFile("/proc/sys/kernel/osrelease").map { String($0.prefix { $0 != "\n" }) } ?? "unknown"
        found.netAdmin = self.netAdminFinding()
        found.readSettings(in: namespace)
        let scratch: NetworkNamespace
        do {
            scratch = try NetworkNamespace.anonymous()
        } catch {
            found.askWithoutTrying(why: "\(error)", in: namespace, searchPath: searchPath ?? ChildProcess.searchPath)
            return found
        }
        let ruleSets = ProbeRules.all
        found.nfTables = await self.nfTablesFinding(scratch, ruleSets.filter { !$0.isIPv6 })
        found.nfTablesIPv6 =
            found.ipv6.isAvailable ? await self.nfTablesFinding(scratch, ruleSets.filter(\.isIPv6)) : found.ipv6
        guard tryingIPTables else { return found }
        await found.tryIPTables(scratch, legacyRules: namespace, searchPath: searchPath ?? ChildProcess.searchPath)
        return found
    }

    private static func netAdminFinding() -> Finding {
        let line = readSmallFile("/proc/thread-self/status")?.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        guard let mask = line.flatMap({ UInt64($0.dropFirst(7).filter { !$0.isWhitespace }, radix: 16) }) else {
            return Finding(false, "cannot read the capabilities of this process: mount /proc")
        }
        let capNetAdmin: UInt64 = 12
        return mask >> capNetAdmin & 1 == 1
            ? Finding(true, "CAP_NET_ADMIN is there")
            : Finding(
                false,
                "this process lacks CAP_NET_ADMIN: run as root, or give the container the capability NET_ADMIN"
            )
    }

    /// What `/proc` and a netlink socket tell about the namespace.
    private mutating func readSettings(in namespace: NetworkNamespace?) {
        func setting(_ name: String) -> Character? {
            let path = "/proc/sys/net/\(name)"
            let text = namespace.map { try? $0.run { readSmallFile(path) } } ?? readSmallFile(path)
            return text.flatMap { $0 }?.first
        }
        self.ipForwarding =
            switch setting("ipv4/ip_forward") {
            case "1": Finding(true, "the kernel forwards IPv4")
            case nil: Finding(false, "cannot read net.ipv4.ip_forward")
            default: Finding(false, "the kernel does not forward IPv4: sysctl -w net.ipv4.ip_forward=1")
            }
        self.bridgeNetfilter =
            switch setting("bridge/bridge-nf-call-iptables") {
            case "1": Finding(true, "bridged packets pass the packet filter")
            case nil:
                Finding(false, "br_netfilter is not loaded: modprobe br_netfilter if pods sit behind a Linux bridge")
            default:
                Finding(false, "bridged packets skip the packet filter: sysctl -w net.bridge.bridge-nf-call-iptables=1")
            }
        self.ipv6 =
            switch setting("ipv6/conf/all/disable_ipv6") {
            case "0": Finding(true, "the kernel speaks IPv6")
            case nil: Finding(false, "the kernel has no IPv6")
            default: Finding(false, "IPv6 is switched off (net.ipv6.conf.all.disable_ipv6)")
            }
        do {
            let count = try namespace.map { try $0.run { try Conntrack().count() } } ?? Conntrack().count()
            self.conntrack = Finding(true, "conntrack answers, \(count) flows")
        } catch {
            self.conntrack = Finding(false, "conntrack does not answer (\(error)): modprobe nf_conntrack_netlink")
        }
    }

    /// A process that may not make namespaces has to take the kernel's word.
    private mutating func askWithoutTrying(why: String, in namespace: NetworkNamespace?, searchPath: String) {
        let untried = "not tried out, because \(why)"
        func ask(_ family: NFTFamily) -> Finding {
            let question: @Sendable () throws -> Bool = { try NFTablesProgram.isTablePresent(family) }
            do {
                _ = try namespace.map { try $0.run(question) } ?? question()
                return Finding(true, "nf_tables answers (\(untried))")
            } catch {
                return Finding(false, "nf_tables does not answer: \(error)")
            }
        }
        self.nfTables = ask(.ip)
        self.nfTablesIPv6 = self.ipv6.isAvailable ? ask(.ip6) : self.ipv6
        for variant in [IPTablesVariant.nft, .plain, .legacy] {
            let tool = variant.tool("restore", .v4)
            let isInstalled = ChildProcess.find(tool, in: searchPath) != nil
            self.iptables[variant] = Finding(
                isInstalled,
                isInstalled ? "installed (\(untried))" : "\(tool) is not installed"
            )
            if isInstalled, self.preferredIPTables == nil { self.preferredIPTables = variant }
        }
    }

    private static func nfTablesFinding(_ scratch: NetworkNamespace, _ sets: [ProbeRules]) async -> Finding {
        func failure(_ rules: ProbeRules) async -> String? {
            do {
                let program = try scratch.run { try NFTablesProgram() }
                try await program.install(listeners: rules.listeners, rules: rules.rules)
                try await program.remove()
                return nil
            } catch {
                return "\(rules.need): \(error)"
            }
        }
        guard let all = ProbeRules.merged(sets), let first = await failure(all) else {
            return Finding(true, "nf_tables with all expressions needed")
        }
        var missing: [String] = []
        for set in sets {
            guard let reason = await failure(set) else { continue }
            missing.append(reason)
            // Without its base the others fail for the same reason.
            if set.isBase { break }
        }
        return Finding(false, "nf_tables lacks " + (missing.isEmpty ? first : missing.joined(separator: "; ")))
    }

    private mutating func tryIPTables(
        _ scratch: NetworkNamespace,
        legacyRules: NetworkNamespace?,
        searchPath: String
    ) async {
        let isLegacyInUse = await IPTablesTools.legacyHoldsRules(in: legacyRules)
        let order: [IPTablesVariant] = isLegacyInUse ? [.legacy, .nft, .plain] : [.nft, .plain, .legacy]
        for variant in order {
            let tool = variant.tool("restore", .v4)
            guard ChildProcess.find(tool, in: searchPath) != nil else {
                self.iptables[variant] = Finding(false, "\(tool) is not installed")
                continue
            }
            // One that works is enough: trying the legacy one loads its modules.
            guard self.preferredIPTables == nil else { continue }
            let program = IPTablesProgram(variant: variant, namespace: scratch)
            do {
                if let all = ProbeRules.merged(ProbeRules.all.filter({ !$0.isIPv6 })) {
                    try await program.install(listeners: all.listeners, rules: all.rules)
                }
                let marksFlows = await program.marksFlows
                try await program.remove()
                self.preferredIPTables = variant
                var reason = variant == .legacy && isLegacyInUse ? "works; its tables hold rules" : "works"
                if !marksFlows {
                    reason +=
                        "; lacks the target CONNMARK, so that a FORWARD chain that drops is not opened to services: modprobe xt_connmark"
                }
                self.iptables[variant] = Finding(true, reason)
            } catch {
                self.iptables[variant] = Finding(false, "\(error)")
            }
        }
    }
}

/// Rules that need a feature, for the probe.
private struct ProbeRules {
    /// The feature and the module that has it.
    var need: String
    var isBase = false
    var isIPv6: Bool
    var rules: [KernelFrontend: KernelRule]
    let listeners: ProxyListeners

    /// All of them at once, which is one transaction instead of many.
    static func merged(_ sets: [ProbeRules]) -> ProbeRules? {
        guard var merged = sets.first else { return nil }
        for set in sets { merged.rules.merge(set.rules) { rule, _ in rule } }
        return merged
    }

    /// The base, then each feature that may be missing by itself.
    static var all: [ProbeRules] {
        [IPAddress.v4(IPv4Address(192, 0, 2, 1)), .v6(IPv6Address(high: 0x2001_0DB8_0000_0000, low: 1))].flatMap {
            address in
            let backends = [8080, 8081].map { TransportAddress(address, $0) }
            let isIPv6 = address.family == .v6
            let listeners = ProxyListeners(
                tcpV4: TransportAddress(.v4(.loopback), 1),
                udpV4: TransportAddress(.v4(.loopback), 1),
                tcpV6: isIPv6 ? TransportAddress(address, 1) : nil,
                udpV6: isIPv6 ? TransportAddress(address, 1) : nil
            )
            func rules(_ need: String, _ port: UInt16, _ action: KernelAction, isBase: Bool = false) -> ProbeRules {
                let ranges = isBase ? [CIDR(address, prefixLength: 24)].compactMap { $0 } : []
                return ProbeRules(
                    need: need,
                    isBase: isBase,
                    isIPv6: isIPv6,
                    rules: [
                        KernelFrontend(match: .address(address), transport: .tcp, port: port): KernelRule(
                            action: action,
                            sourceRanges: ranges
                        ),
                        KernelFrontend(match: .nodePort(address.family), transport: .udp, port: port): KernelRule(
                            action: .reject
                        ),
                    ],
                    listeners: listeners
                )
            }
            func balance(_ policy: KernelBalancing.Policy, affinity: Int? = nil) -> KernelAction {
                .balance(
                    KernelBalancing(
                        policy: policy,
                        backends: backends,
                        affinitySeconds: affinity,
                        localBackends: [address],
                        masquerade: true
                    )
                )
            }
            return [
                rules(
                    "maps, nat, fib, ct or reject (nf_tables, nft_chain_nat, nft_fib, nft_ct, nft_reject)",
                    80,
                    .proxy,
                    isBase: true
                ),
                rules("numgen (nft_numgen)", 81, balance(.roundRobin)),
                rules("jhash (nft_hash)", 82, balance(.sourceHash)),
                rules("dynamic sets (dynset in nf_tables)", 83, balance(.random, affinity: 10)),
            ]
        }
    }
}

extension IPTablesTools {
    /// Whether the legacy tables hold rules. Asks the legacy tools only if their tables are loaded: asking loads them.
    static func legacyHoldsRules(in namespace: NetworkNamespace?) async -> Bool {
        for (family, file) in [(IPFamily.v4, "ip_tables_names"), (.v6, "ip6_tables_names")] {
            let path = "/proc/thread-self/net/\(file)"
            let names = namespace.map { try? $0.run { readSmallFile(path) } } ?? readSmallFile(path)
            guard let names = names.flatMap({ $0 }), !names.isEmpty else { continue }
            let tools = IPTablesTools(variant: .legacy, namespace: namespace)
            if let dump = try? await tools.save(family), !dump.isEmpty { return true }
        }
        return false
    }
}

/// Which tables serve.
public enum ServiceProgrammingBackend: Hashable, Sendable, CustomStringConvertible {
    case nftables
    case iptables(IPTablesVariant)
    case none

    /// Asks the kernel only what the choice needs: no tool of iptables is run where nftables serves.
    public static func choose(configured: String) async throws -> ServiceProgrammingBackend {
        guard configured != "none" else { return .none }
        let capabilities = await KernelCapabilities.probe(tryingIPTables: configured == "iptables")
        guard configured == "auto", !capabilities.nfTables.isAvailable else {
            return try self.choose(configured: configured, capabilities)
        }
        return try self.choose(configured: configured, await KernelCapabilities.probe())
    }

    /// `configured` is `auto`, `nftables`, `iptables` or `none`. Throws, with the reasons, if the host cannot do it.
    public static func choose(
        configured: String,
        _ capabilities: KernelCapabilities
    ) throws(LinuxNetworkError) -> ServiceProgrammingBackend {
        let tried = capabilities.iptables.sorted { $0.key.rawValue < $1.key.rawValue }
        let iptablesReason = tried.map { "\($0.key.rawValue): \($0.value.reason)" }.joined(separator: "; ")
        switch configured {
        case "none": return .none
        case "nftables":
            guard capabilities.nfTables.isAvailable else {
                throw LinuxNetworkError(.unsupported, "kernelBackend nftables: \(capabilities.nfTables.reason)")
            }
            return .nftables
        case "iptables":
            guard let variant = capabilities.preferredIPTables else {
                throw LinuxNetworkError(.unsupported, "kernelBackend iptables: \(iptablesReason)")
            }
            return .iptables(variant)
        case "auto":
            if capabilities.nfTables.isAvailable { return .nftables }
            if let variant = capabilities.preferredIPTables { return .iptables(variant) }
            throw LinuxNetworkError(
                .unsupported,
                "neither nftables nor iptables serves on this host: \(capabilities.nfTables.reason); \(iptablesReason)"
            )
        default:
            throw LinuxNetworkError(
                .unsupported,
                "kernelBackend \"\(configured)\" is none of auto, nftables, iptables, none"
            )
        }
    }

    public var description: String {
        switch self {
        case .nftables: "nftables"
        case .iptables(let variant): variant.rawValue
        case .none: "none"
        }
    }
}
