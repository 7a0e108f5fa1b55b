/// Reads RE2's syntax.
struct RegexParser {
    struct Flags {
        var ignoresCase = false
        var isMultiline = false
        var dotIsAny = false
        var isUngreedy = false
    }

    private let pattern: String
    let scalars: [Unicode.Scalar]
    var position = 0
    var flags = Flags()
    /// How many groups capture.
    private(set) var groups = 0
    private var names: Set<String> = []
    private var depth = 0

    init(_ pattern: String) throws(RegexError) {
        guard pattern.utf8.count <= BoundedRegex.maximumPatternBytes else {
            throw RegexError(
                pattern,
                at: BoundedRegex.maximumPatternBytes,
                "it is longer than \(BoundedRegex.maximumPatternBytes) bytes; split the route in several"
            )
        }
        self.pattern = pattern
        self.scalars = Array(pattern.unicodeScalars)
    }

    mutating func parse() throws(RegexError) -> RegexNode {
        let node = try self.choice()
        if self.position < self.scalars.count {
            throw self.error("this ) closes no group; write \\) for the character")
        }
        return node
    }

    // MARK: The text

    func error(_ reason: String, at offset: Int? = nil) -> RegexError {
        RegexError(self.pattern, at: offset ?? self.position, reason)
    }

    var next: Unicode.Scalar? { self.position < self.scalars.count ? self.scalars[self.position] : nil }

    mutating func take() -> Unicode.Scalar? {
        guard let scalar = self.next else { return nil }
        self.position += 1
        return scalar
    }

    mutating func take(_ text: String) -> Bool {
        guard self.scalars[self.position...].starts(with: text.unicodeScalars) else { return false }
        self.position += text.unicodeScalars.count
        return true
    }

    /// The text up to `end`, which is taken too; nil if it does not come.
    mutating func take(until end: String) -> String? {
        let start = self.position
        while self.position < self.scalars.count {
            let stop = self.position
            if self.take(end) {
                var text = ""
                text.unicodeScalars.append(contentsOf: self.scalars[start..<stop])
                return text
            }
            self.position += 1
        }
        self.position = start
        return nil
    }

    // MARK: Structure

    private mutating func choice() throws(RegexError) -> RegexNode {
        var branches: [RegexNode] = []
        repeat { branches.append(try self.sequence()) } while self.take("|")
        return branches.count == 1 ? branches[0] : .choice(branches)
    }

    private mutating func sequence() throws(RegexError) -> RegexNode {
        var nodes: [RegexNode] = []
        var lastIsRepetition = false
        while let scalar = self.next, scalar != "|", scalar != ")" {
            let start = self.position
            if let (least, most) = try self.repetition() {
                guard let operand = nodes.popLast() else {
                    throw self.error(
                        "nothing stands before this repetition; write \\\(scalar) for the character",
                        at: start
                    )
                }
                guard !lastIsRepetition else {
                    throw self.error("a repetition cannot be repeated; put the first in (?:...)", at: start)
                }
                let isLazy = self.take("?") != self.flags.isUngreedy
                nodes.append(.repetition(operand, least: least, most: most, isLazy: isLazy))
                lastIsRepetition = true
            } else if self.take("\\Q") {
                let text = self.take(until: "\\E") ?? self.takeRest()
                nodes += text.unicodeScalars.map { self.literal($0) }
                lastIsRepetition = false
            } else if let atom = try self.atom() {
                nodes.append(atom)
                lastIsRepetition = false
            }
        }
        return nodes.count == 1 ? nodes[0] : nodes.isEmpty ? .empty : .sequence(nodes)
    }

    private mutating func takeRest() -> String {
        var text = ""
        text.unicodeScalars.append(contentsOf: self.scalars[self.position...])
        self.position = self.scalars.count
        return text
    }

    private mutating func repetition() throws(RegexError) -> (Int, Int?)? {
        switch self.next {
        case "*":
            self.position += 1
            return (0, nil)
        case "+":
            self.position += 1
            return (1, nil)
        case "?":
            self.position += 1
            return (0, 1)
        case "{": return try self.countedRepetition()
        default: return nil
        }
    }

    /// `{n}`, `{n,}` or `{n,m}`; nil for a brace that is a character, as RE2 has it.
    private mutating func countedRepetition() throws(RegexError) -> (Int, Int?)? {
        let start = self.position
        self.position += 1
        let least = self.number()
        var most = least
        if self.take(",") { most = self.number() }
        let isOpen = self.scalars[self.position - 1] == ","
        guard let least, self.take("}") else {
            self.position = start
            return nil
        }
        if let most, most < least, !isOpen {
            throw self.error("the repetition's first number is larger than its second; swap them", at: start)
        }
        guard max(least, most ?? 0) <= BoundedRegex.maximumRepeat else {
            throw self.error("repetitions go up to \(BoundedRegex.maximumRepeat); use * or +", at: start)
        }
        return (least, isOpen ? nil : most)
    }

    /// Stops growing well above every limit.
    private mutating func number() -> Int? {
        var value: Int?
        while let digit = self.next, ("0"..."9").contains(digit) {
            value = min((value ?? 0) * 10 + Int(digit.value - 0x30), 1_000_000)
            self.position += 1
        }
        return value
    }

    /// Nil for what only sets flags.
    private mutating func atom() throws(RegexError) -> RegexNode? {
        let start = self.position
        guard let scalar = self.take() else { return nil }
        switch scalar {
        case "(": return try self.group(start)
        case "[": return .set(try self.characterClass(start))
        case ".": return .set(RegexSet(self.flags.dotIsAny ? [.range(0, 0x10_FFFF)] : [.outside([0x0A...0x0A])]))
        case "^": return .assertion(self.flags.isMultiline ? .lineStart : .textStart)
        case "$": return .assertion(self.flags.isMultiline ? .lineEnd : .textEnd)
        case "\\": return try self.escape(start)
        default: return self.literal(scalar)
        }
    }

    func literal(_ scalar: Unicode.Scalar) -> RegexNode {
        let hasCase = scalar.properties.isCased
        return .set(RegexSet([.range(scalar.value, scalar.value)], ignoresCase: self.flags.ignoresCase && hasCase))
    }

    private mutating func group(_ start: Int) throws(RegexError) -> RegexNode? {
        self.depth += 1
        defer { self.depth -= 1 }
        guard self.depth <= BoundedRegex.maximumDepth else {
            throw self.error("groups lie deeper than \(BoundedRegex.maximumDepth)", at: start)
        }
        let outer = self.flags
        var capture: Int?
        if self.take("?P<") || self.take("?<") {
            capture = try self.named(start)
        } else if self.take("?") {
            guard try self.readFlags(start) else { return nil }
        } else {
            self.groups += 1
            capture = self.groups
        }
        let node = try self.choice()
        guard self.take(")") else { throw self.error("this ( is not closed; add ) or write \\(", at: start) }
        self.flags = outer
        return capture.map { .group(node, capture: $0) } ?? node
    }

    private mutating func named(_ start: Int) throws(RegexError) -> Int {
        func isWord(_ scalar: Unicode.Scalar) -> Bool {
            scalar == "_" || scalar.properties.isAlphabetic || Self.isDigit(scalar)
        }
        guard let name = self.take(until: ">"), !name.isEmpty, name.unicodeScalars.allSatisfy(isWord) else {
            throw self.error(
                "a group's name is letters, digits and _ followed by >; lookbehind does not exist",
                at: start
            )
        }
        guard self.names.insert(name).inserted else { throw self.error("two groups are named \(name)", at: start) }
        self.groups += 1
        return self.groups
    }

    private static func isDigit(_ scalar: Unicode.Scalar) -> Bool { ("0"..."9").contains(scalar) }

    /// `i)` sets flags for the rest of the group and gives false; `i:` opens a group that has them and gives true.
    private mutating func readFlags(_ start: Int) throws(RegexError) -> Bool {
        var isOn = true
        while let flag = self.take() {
            switch flag {
            case "i": self.flags.ignoresCase = isOn
            case "m": self.flags.isMultiline = isOn
            case "s": self.flags.dotIsAny = isOn
            case "U": self.flags.isUngreedy = isOn
            case "-" where isOn: isOn = false
            case ":": return true
            case ")": return false
            default: throw self.error("after (? stand i, m, s, U, -, : or P<name>; lookahead does not exist", at: start)
            }
        }
        throw self.error("this ( is not closed; add )", at: start)
    }
}
