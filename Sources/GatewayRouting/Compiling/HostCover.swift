extension HostPattern {
    /// The hosts that both patterns hold, if there are any: one of the two, as a wildcard covers whole labels.
    static func intersection(_ first: HostPattern, _ second: HostPattern) -> HostPattern? {
        if first.covers(second) { return second }
        return second.covers(first) ? first : nil
    }

    /// Whether every host of `other` is one of this pattern.
    func covers(_ other: HostPattern) -> Bool {
        if self == other || self == .any { return true }
        guard other != .any else { return false }
        // Of `*.a.b`, the part after `*` stands for the shortest of its hosts.
        guard other.isWildcard else { return self.matches(other.text) }
        return self.isWildcard && other.text.hasSuffix(self.text.dropFirst())
    }
}

/// Finds what a pattern and many others have in common: a name in as many steps as it has labels, a wildcard by looking at all.
struct HostCover {
    private let patterns: [HostPattern]
    private let index: HostIndex

    init(_ patterns: [HostPattern]) {
        self.patterns = patterns
        self.index = HostIndex(patterns)
    }

    /// The pattern itself if one of the others covers it, and those that it covers.
    func common(with pattern: HostPattern) -> [HostPattern] {
        // A wildcard is found as a name would be: by itself and by wildcards that are wider.
        let own = self.index.best(for: pattern.text) == nil ? [] : [pattern]
        guard pattern.isWildcard else { return own }
        return own + self.patterns.filter { $0 != pattern && pattern.covers($0) }
    }
}
