import MeshCore

/// Which iptables: a host may have several, and each sees only its own rules.
public enum IPTablesVariant: String, Hashable, Sendable, CaseIterable {
    /// The tools that write nf_tables rules.
    case nft = "iptables-nft"
    /// The tools of the old kernel interface.
    case legacy = "iptables-legacy"
    /// What goes by the plain name, on hosts that have no other.
    case plain = "iptables"

    /// `iptables-nft-restore` and the like; `action` is `save` or `restore`.
    func tool(_ action: String, _ family: IPFamily) -> String {
        let name = family == .v4 ? self.rawValue : "ip6" + self.rawValue.dropFirst(2)
        return "\(name)-\(action)"
    }

    /// Whether its tools are installed.
    var isInstalled: Bool {
        ChildProcess.find(self.tool("save", .v4)) != nil && ChildProcess.find(self.tool("restore", .v4)) != nil
    }
}

/// The tools of one variant in one network namespace.
struct IPTablesTools: Sendable {
    var variant: IPTablesVariant
    /// Nil for this process's own.
    var namespace: NetworkNamespace?

    /// The variants that may hold rules here. The plain name is another name of one of the others, if there are others.
    static func inUse(in namespace: NetworkNamespace?) async -> [IPTablesVariant] {
        var variants: [IPTablesVariant] = IPTablesVariant.nft.isInstalled ? [.nft] : []
        if IPTablesVariant.legacy.isInstalled, await Self.legacyHoldsRules(in: namespace) { variants.append(.legacy) }
        if !IPTablesVariant.nft.isInstalled, !IPTablesVariant.legacy.isInstalled, IPTablesVariant.plain.isInstalled {
            variants.append(.plain)
        }
        return variants
    }

    func save(_ family: IPFamily) async throws -> IPTablesDump {
        IPTablesDump(try await self.run("save", [], family))
    }

    /// One transaction per table of `text`; rules it does not name stay.
    func restore(_ text: String, _ family: IPFamily) async throws {
        // Waits for the lock that the legacy tools share.
        _ = try await self.run("restore", ["--noflush", "--wait", "5"], family, input: text)
    }

    private func run(
        _ action: String,
        _ arguments: [String],
        _ family: IPFamily,
        input: String = ""
    ) async throws -> String {
        let tool = self.variant.tool(action, family)
        let process = ChildProcess(program: tool, arguments: arguments, input: Array(input.utf8))
        let output = try await process.run(in: self.namespace)
        guard output.status == 0 else {
            throw LinuxNetworkError(.command(output.status), Self.explain(tool, output, input: input))
        }
        return output.text
    }

    /// What the tool said, with the line that it names.
    private static func explain(_ tool: String, _ output: ChildProcess.Output, input: String) -> String {
        var text = "\(tool) failed with status \(output.status): "
        text += output.standardError.split(separator: "\n").prefix(3).joined(separator: "; ")
        let words = output.standardError.split { $0 == " " || $0 == "\n" || $0 == ":" }
        guard let place = words.firstIndex(of: "line"), place + 1 < words.count, let number = Int(words[place + 1]),
            case let lines = input.split(separator: "\n", omittingEmptySubsequences: false),
            lines.indices.contains(number - 1)
        else { return text }
        return text + " (\(lines[number - 1]))"
    }
}

/// What `iptables-save` prints, as far as we need it.
struct IPTablesDump: Hashable {
    struct Chain: Hashable {
        var isBuiltIn: Bool
        /// `ACCEPT` or `DROP` of a built-in chain, `-` of others.
        var policy = "-"
        /// Rules without their `-A CHAIN `, as the tool spells them.
        var rules: [String] = []
    }

    private(set) var tables: [String: [String: Chain]] = [:]

    init(_ text: String) {
        var table = ""
        for line in text.split(separator: "\n") {
            if line.hasPrefix("*") {
                table = String(line.dropFirst())
            } else if line.hasPrefix(":") {
                let words = line.dropFirst().split(separator: " ")
                guard words.count > 1 else { continue }
                self.tables[table, default: [:]][String(words[0])] = Chain(
                    isBuiltIn: words[1] != "-",
                    policy: String(words[1])
                )
            } else if line.hasPrefix("-A ") {
                let words = line.dropFirst(3).split(separator: " ", maxSplits: 1)
                guard words.count == 2 else { continue }
                self.tables[table]?[String(words[0])]?.rules.append(String(words[1]))
            }
        }
    }

    /// Whether any rule is there.
    var isEmpty: Bool { self.tables.values.allSatisfy { $0.values.allSatisfy(\.rules.isEmpty) } }

    /// Rules of chains other than `chains` that jump or go to one of `chains`: (chain, rule).
    func references(to chains: Set<String>, table: String) -> [(chain: String, rule: String)] {
        (self.tables[table] ?? [:]).filter { !chains.contains($0.key) }.sorted { $0.key < $1.key }.flatMap {
            name,
            chain in
            chain.rules.filter { chains.contains(Self.target(of: $0) ?? "") }.map { (name, $0) }
        }
    }

    /// What follows `-j` or `-g`.
    static func target(of rule: String) -> String? {
        let words = rule.split(separator: " ")
        guard let place = words.lastIndex(where: { $0 == "-j" || $0 == "-g" }), place + 1 < words.count else {
            return nil
        }
        return String(words[place + 1])
    }

    /// The address that a DNAT rule translates to.
    static func translation(of rule: String) -> IPAddress? {
        let words = rule.split(separator: " ")
        guard let place = words.firstIndex(of: "--to-destination"), place + 1 < words.count else { return nil }
        return TransportAddress(words[place + 1])?.address ?? IPAddress(words[place + 1])
    }
}
