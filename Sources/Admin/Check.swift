public import Documents

/// One named check of `edgemesh check` and what came out of it.
public struct CheckResult: Hashable, Sendable {
    public enum Outcome: String, Hashable, Sendable, CaseIterable {
        case pass
        /// Works, but something is not as it should be.
        case warn
        /// The mesh, or a part of it, cannot work on this node.
        case fail
    }

    /// Stable, for scripts: `ip-forward`.
    public var name: String
    public var outcome: Outcome
    /// What was found.
    public var found: String
    /// What to do about it; empty for a pass.
    public var mend: String

    public init(_ name: String, _ outcome: Outcome, _ found: String, mend: String = "") {
        self.name = name
        self.outcome = outcome
        self.found = found
        self.mend = mend
    }
}

/// The results of a run.
public struct CheckReport: Hashable, Sendable {
    public var results: [CheckResult]

    public init(_ results: [CheckResult]) {
        self.results = results
    }

    public var hasFailed: Bool { self.results.contains { $0.outcome == .fail } }

    public var text: String {
        var text = ""
        for result in self.results {
            text += "\(result.outcome.rawValue.uppercased())  \(result.name): \(result.found)\n"
            if !result.mend.isEmpty { text += "      mend: \(result.mend)\n" }
        }
        let counts = CheckResult.Outcome.allCases.map { outcome in
            "\(self.results.count { $0.outcome == outcome }) \(outcome.rawValue)"
        }
        return text + counts.joined(separator: ", ") + "\n"
    }

    public var document: Document {
        let results = self.results.map { result -> Document in
            [
                "name": .string(result.name), "outcome": .string(result.outcome.rawValue),
                "found": .string(result.found), "mend": .string(result.mend),
            ]
        }
        return ["ok": .init(.bool(!self.hasFailed)), "checks": .array(results)]
    }
}
