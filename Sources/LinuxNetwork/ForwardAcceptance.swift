import Glibc
public import Logging
import MeshCore

/// Lets translated flows through a host firewall of iptables that forwards nothing by itself, as Docker's and hardened hosts'
/// `FORWARD` chains do: there a drop ends a packet's way whatever our own table says. The chain `EDGEMESH-FORWARD` accepts
/// flows that our rules translated and marked, and no others; `edgemesh cleanup` takes it away.
///
/// Tables of nftables that others made are not touched: their owners write them anew as they please. `edgemesh check` names them.
public struct ForwardAcceptance: Sendable {
    /// The bit of the connection mark (not of the packet's mark) of flows that our rules send to endpoints: what else the host
    /// translates stays as its firewall wants it. Far from the bits that are known to be in use (0x80 of the AWS CNI, 0x539 of
    /// Istio, 0xFF0000 of Tailscale); no rule of ours reads or changes the others.
    public static let mark: UInt32 = 0x0400_0000

    private let namespace: NetworkNamespace?
    let logger: Logger?

    /// `namespace` is nil for this process's own. `logger` is told when a firewall cannot be opened, once per reason.
    public init(namespace: NetworkNamespace? = nil, logger: Logger? = nil) {
        self.namespace = namespace
        self.logger = logger
    }

    private static let markText = "0x" + String(Self.mark, radix: 16)
    static let hook = "-m comment --comment \"flows to endpoints of services\" -j \(IPTablesChain.forward)"
    static let rule = "-m connmark --mark \(Self.markText)/\(Self.markText) -j ACCEPT"
    /// Marks the flow, in iptables.
    static let marking = "-j CONNMARK --set-xmark \(Self.markText)/\(Self.markText)"

    /// Puts the chain in where it is needed and missing. Runs tools of iptables only where their `FORWARD` chain is in use.
    public func ensure() async throws {
        for (tools, family) in self.places() {
            let dump = try await tools.save(family)
            guard let forward = dump.tables["filter"]?["FORWARD"] else {
                // The chain is there, but the tool does not understand what someone put into its table by other means.
                throw LinuxNetworkError(
                    .unsupported,
                    "\(tools.variant.tool("save", family)) does not show the chain FORWARD of this host: see nft list table \(NFTFamily(family)) filter"
                )
            }
            guard forward.mayDrop else { continue }
            let hooks = dump.references(to: [IPTablesChain.forward], table: "filter")
            let first = forward.rules.first.flatMap { IPTablesDump.target(of: $0) }
            guard first != IPTablesChain.forward || hooks.count != 1 else { continue }
            var text = IPTablesTransaction()
            text.begin("filter")
            text.write([IPTablesChain.forward: [Self.rule]])
            for (chain, rule) in hooks { text.delete(rule, from: chain) }
            text.insert(Self.hook, into: "FORWARD")
            text.commit()
            try await tools.restore(text.text, family)
        }
    }

    /// Takes the chain out of all tables.
    public func remove() async throws {
        for (tools, family) in self.places() {
            let text = IPTablesTransaction.removal(from: try await tools.save(family)) { $1 == IPTablesChain.forward }
            if !text.text.isEmpty { try await tools.restore(text.text, family) }
        }
    }

    /// The `FORWARD` chains of this host, by the tools that see them.
    private func places() -> [(IPTablesTools, IPFamily)] {
        let nft: [IPTablesVariant] = IPTablesVariant.nft.isInstalled ? [.nft] : [.plain]
        var places: [(IPTablesVariant, IPFamily)] = []
        for family in IPFamily.allCases {
            let isThere = try? self.inNamespace { try NFTablesProgram.isForwardChainPresent(NFTFamily(family)) }
            if isThere == true { places += nft.map { ($0, family) } }
            let file = "/proc/thread-self/net/\(family == .v4 ? "ip" : "ip6")_tables_names"
            let names = try? self.inNamespace { readSmallFile(file) }
            if names.flatMap({ $0 })?.split(separator: "\n").contains("filter") == true {
                places.append((.legacy, family))
            }
        }
        return places.filter { ChildProcess.find($0.0.tool("save", $0.1)) != nil }.map {
            (IPTablesTools(variant: $0.0, namespace: self.namespace), $0.1)
        }
    }

    private func inNamespace<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) throws -> Value {
        try self.namespace.map { try $0.run(body) } ?? body()
    }
}

/// What a chain `FORWARD` does with flows to endpoints.
public enum ForwardState: Hashable, Sendable {
    /// Nothing in it refuses packets.
    case open
    /// Something may refuse packets, and flows to endpoints are accepted: by us, or by a rule of the operator's.
    case accepting
    case closed

    /// By what `iptables-save -t filter` prints.
    public init(saved text: String) {
        guard let forward = IPTablesDump(text).tables["filter"]?["FORWARD"], forward.mayDrop else {
            self = .open
            return
        }
        self =
            forward.rules.contains {
                IPTablesDump.target(of: $0) == IPTablesChain.forward || $0.contains("--ctstate DNAT -j ACCEPT")
                    || $0 == ForwardAcceptance.rule
            } ? .accepting : .closed
    }
}

extension IPTablesDump.Chain {
    /// Whether something in it may refuse a packet that nobody accepted before.
    fileprivate var mayDrop: Bool {
        self.policy == "DROP"
            || self.rules.contains { ["DROP", "REJECT"].contains(IPTablesDump.target(of: $0)) }
    }
}

extension NFTablesProgram {
    /// Whether iptables-nft has its `FORWARD` chain, in the namespace of the calling thread.
    static func isForwardChainPresent(_ family: NFTFamily) throws -> Bool {
        do throws(LinuxNetworkError) {
            try NetlinkSocket(.netfilter).request(
                type: NFTBatch.Message.getChain.type,
                flags: [],
                what: "looking for the chain FORWARD"
            ) {
                $0.netfilterHeader(family: family.number)
                $0.attribute(1, text: "filter")
                $0.attribute(3, text: "FORWARD")
            }
            return true
        } catch {
            guard error.errno == ENOENT else { throw error }
            return false
        }
    }
}
