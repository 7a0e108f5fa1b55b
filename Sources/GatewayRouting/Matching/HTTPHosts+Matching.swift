extension HTTPHosts {
    /// The host whose pattern fits best.
    /// - Parameter name: as `RequestHost.name` has it.
    public func host(named name: String) -> Host? {
        self.position(ofHostNamed: name).map { self.hosts[$0] }
    }

    /// Where it stands in `hosts`.
    public func position(ofHostNamed name: String) -> Int? { self.patterns.best(for: name) }

    /// What is to be done with a request; nil for 404.
    public func rule(for request: some GatewayRequest, within budget: MatchBudget = MatchBudget()) -> HTTPRule? {
        guard let name = RequestHost(request.authority)?.name else { return nil }
        return self.host(named: name)?.rule(for: request, within: budget)
    }
}

extension HTTPHosts.Host {
    /// The first rule that matches; nil if the budget was used up before that is known.
    public func rule(for request: some GatewayRequest, within budget: MatchBudget = MatchBudget()) -> HTTPRule? {
        self.ruleIndex(for: request, within: budget).map { self.rules[$0] }
    }

    /// Where it stands in `rules`.
    public func ruleIndex(for request: some GatewayRequest, within budget: MatchBudget = MatchBudget()) -> Int? {
        for index in self.rules.indices {
            let isMatched = self.rules[index].matches(request, within: budget)
            if budget.isExhausted { return nil }
            if isMatched { return index }
        }
        return nil
    }
}

/// The names of the servers of a TLS port.
public struct TLSNames: Sendable {
    private let index: HostIndex
    /// Of each pattern, the position of its server.
    private let positions: [Int]
    private let withoutName: Int?

    public init(_ servers: [TLSServer]) {
        self.index = HostIndex(servers.lazy.flatMap(\.hosts))
        self.positions = servers.enumerated().flatMap { position, server in server.hosts.map { _ in position } }
        self.withoutName = servers.firstIndex { $0.hosts.contains(.any) } ?? (servers.count == 1 ? 0 : nil)
    }

    /// Where the server stands for the name that a client asks for: most specific first. A client that names none gets the one that
    /// serves every name, or the only one.
    /// - Parameter name: in lower case, without a final dot.
    public func position(of name: String?) -> Int? {
        guard let name else { return self.withoutName }
        return self.index.best(for: name).map { self.positions[$0] }
    }
}

extension TLSServer {
    /// Whether a request for `name` may come over a connection to this server: otherwise 421 sends the client to another.
    public func serves(_ name: String) -> Bool { self.hosts.contains { $0.matches(name) } }
}

/// Finds the best of many patterns in as many steps as the name has labels.
struct HostIndex: Sendable {
    private var positions: [String: Int] = [:]
    private var hasSuffixes = false

    init(_ patterns: some Sequence<HostPattern>) {
        for (position, pattern) in patterns.enumerated() where self.positions[pattern.text] == nil {
            self.positions[pattern.text] = position
            if pattern.text.utf8.count > 1, pattern.text.utf8.first == UInt8(ascii: "*") { self.hasSuffixes = true }
        }
    }

    func best(for name: String) -> Int? {
        if let position = self.positions[name] { return position }
        var rest = name[...]
        while self.hasSuffixes, let dot = rest.utf8.firstIndex(of: UInt8(ascii: ".")) {
            if let position = self.positions["*" + rest[dot...]] { return position }
            rest = rest[rest.utf8.index(after: dot)...]
        }
        return self.positions["*"]
    }
}

extension HTTPRule {
    public func matches(_ request: some GatewayRequest, within budget: MatchBudget = MatchBudget()) -> Bool {
        self.matches.isEmpty || self.match(for: request, within: budget) != nil
    }

    /// The match by which the request came here: its path says what a rewriting of the prefix replaces.
    public func match(for request: some GatewayRequest, within budget: MatchBudget = MatchBudget()) -> HTTPMatch? {
        self.matches.first { $0.holds(for: request, within: budget) }
    }
}

extension HTTPMatch {
    /// Of no meaning once the budget is used up.
    public func holds(for request: some GatewayRequest, within budget: MatchBudget = MatchBudget()) -> Bool {
        if let port = self.port, port != request.port { return false }
        if let path = self.path, !path.holds(for: request.path, within: budget) { return false }
        if let method = self.method, !method.holds(for: request.method, within: budget) { return false }
        if let scheme = self.scheme, !scheme.holds(for: request.scheme, within: budget) { return false }
        if let authority = self.authority, !authority.holds(for: request.authority, within: budget) { return false }
        return self.headers.allSatisfy { $0.value.holds(for: request.header($0.name), within: budget) }
            && !self.withoutHeaders.contains { $0.value.holds(for: request.header($0.name), within: budget) }
            && self.query.allSatisfy { $0.value.holds(for: request.queryValue($0.name), within: budget) }
    }
}

extension TextMatch {
    public func holds(for text: String?, within budget: MatchBudget = MatchBudget()) -> Bool {
        guard let text else { return false }
        switch self {
        case .present: return true
        case .exact(let value): return text == value
        case .prefix(let value): return text.utf8.starts(with: value.utf8)
        case .regex(let regex): return regex.matchesWhole(text, within: budget)
        }
    }
}

extension PathMatch {
    public func holds(for path: String, within budget: MatchBudget = MatchBudget()) -> Bool {
        if case .regex(let regex) = self { return regex.matchesWhole(path, within: budget) }
        return self.prefixLength(in: path) != nil
    }

    /// How many bytes of the path its prefix covers; nil if it does not match, or has none.
    func prefixLength(in path: String) -> Int? {
        switch self {
        case .exact(let text, let ignoresCase):
            return Self.begins(path, with: text, ignoresCase) && path.utf8.count == text.utf8.count
                ? text.utf8.count : nil
        case .prefix(let text, let ignoresCase):
            return Self.begins(path, with: text, ignoresCase) ? text.utf8.count : nil
        case .elements(let text):
            // `/a/` covers what `/a` does.
            let prefix = text.utf8.last == UInt8(ascii: "/") ? text.utf8.dropLast() : text.utf8[...]
            guard path.utf8.starts(with: prefix) else { return nil }
            let next = path.utf8.dropFirst(prefix.count).first
            return next == nil || next == UInt8(ascii: "/") ? prefix.count : nil
        case .regex: return nil
        }
    }

    private static func begins(_ path: String, with text: String, _ ignoresCase: Bool) -> Bool {
        guard ignoresCase else { return path.utf8.starts(with: text.utf8) }
        func lower(_ byte: UInt8) -> UInt8 { (0x41...0x5A).contains(byte) ? byte | 0x20 : byte }
        return path.utf8.starts(with: text.utf8) { lower($0) == lower($1) }
    }
}

extension [WeightedBackend] {
    /// One of them, each with the probability of its weight; nil if there is none or all weigh nothing.
    public func choose(using generator: inout some RandomNumberGenerator) -> WeightedBackend? {
        self.chooseIndex(using: &generator).map { self[$0] }
    }

    /// Where it stands.
    public func chooseIndex(using generator: inout some RandomNumberGenerator) -> Int? {
        if self.count == 1 { return self[0].weight > 0 ? 0 : nil }
        let total = self.reduce(0 as UInt64) { $0 + UInt64($1.weight) }
        guard total > 0 else { return nil }
        var draw = UInt64.random(in: 0..<total, using: &generator)
        for index in self.indices {
            let weight = UInt64(self[index].weight)
            if draw < weight { return index }
            draw -= weight
        }
        return nil
    }
}

extension UInt32 {
    /// Whether a share of a million falls on this draw.
    public func ofMillionFalls(using generator: inout some RandomNumberGenerator) -> Bool {
        self >= 1_000_000 || self > 0 && UInt32.random(in: 0..<1_000_000, using: &generator) < self
    }
}
