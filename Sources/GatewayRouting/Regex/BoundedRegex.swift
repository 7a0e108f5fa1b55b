/// A regular expression in RE2's syntax, without `\C`, scripts in `\p{...}` and Perl's back references.
///
/// Matching takes time in proportion to the length of the text times the size of the program. Both are bounded, and so is their
/// product, by a `MatchBudget`, so that neither a pattern nor a request can stall a loop. It works on Unicode scalars. Equal
/// patterns are equal expressions.
public struct BoundedRegex: Sendable, Hashable, CustomStringConvertible {
    public static let maximumPatternBytes = 1_024
    /// The most instructions of a program: repetitions are written out, so `(ab){1,100}` takes some 300.
    public static let maximumProgram = 1_024
    /// The largest number in `{n,m}`.
    public static let maximumRepeat = 1_000
    /// How deep groups may lie within each other.
    public static let maximumDepth = 64
    /// The most steps of one `replacing`: beyond it the text is not rewritten.
    public static let maximumSteps = MatchBudget.maximumSteps

    /// As written.
    public let pattern: String
    private let program: RegexProgram

    public init(pattern: String) throws(RegexError) {
        var parser = try RegexParser(pattern)
        let node = try parser.parse()
        self.pattern = pattern
        self.program = try RegexProgram(node, groups: parser.groups, pattern: pattern)
    }

    public var description: String { self.pattern }

    public static func == (lhs: Self, rhs: Self) -> Bool { lhs.pattern == rhs.pattern }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.pattern) }

    /// Whether the whole of `text` matches; false once the budget is used up.
    public func matchesWhole(_ text: some StringProtocol, within budget: MatchBudget = MatchBudget()) -> Bool {
        if let literal = self.program.literal {
            return budget.spend(1) && text.utf8.elementsEqual(literal.utf8)
        }
        var matcher = RegexMatcher(self.program, captures: false, maximumSteps: budget.limit)
        let isMatch = matcher.match(text.unicodeScalars, from: 0, whole: true) != nil
        return budget.spend(matcher.steps) && isMatch
    }

    /// `text` with every match, from left to right, replaced by `substitution`, as RE2's `GlobalReplace` does; nil if that took
    /// more than `maximumSteps`.
    public func replacing(in text: String, with substitution: RegexSubstitution) -> String? {
        var matcher = RegexMatcher(self.program, captures: true, maximumSteps: Self.maximumSteps)
        let bytes = text.utf8
        var result = ""
        var copied = 0
        var position = 0
        func slice(_ from: Int, _ to: Int) -> Substring {
            text[bytes.index(bytes.startIndex, offsetBy: from)..<bytes.index(bytes.startIndex, offsetBy: to)]
        }
        while position <= bytes.count {
            let rest = slice(position, bytes.count).unicodeScalars
            let before = position == 0 ? nil : slice(0, position).unicodeScalars.last?.value
            let match = matcher.match(rest, from: position, before: before, whole: false)
            guard matcher.steps <= Self.maximumSteps else { return nil }
            guard let match else { break }
            // An empty match that touches the one before does not count.
            if match[1] == match[0], match[0] == copied, copied > 0 {
                guard let next = slice(match[0], bytes.count).unicodeScalars.first else { break }
                position = match[0] + UTF8.width(next)
                continue
            }
            result += slice(copied, match[0])
            substitution.append(to: &result) { group in
                guard 2 * group + 1 < match.count, match[2 * group] >= 0, match[2 * group + 1] >= 0 else { return nil }
                return slice(match[2 * group], match[2 * group + 1])
            }
            copied = match[1]
            position = match[1]
            if match[0] == match[1] {
                guard let next = slice(position, bytes.count).unicodeScalars.first else { break }
                position += UTF8.width(next)
            }
        }
        result += slice(copied, bytes.count)
        return result
    }

    /// How many groups capture, for checking substitutions.
    public var groupCount: Int { self.program.groups }
}

/// What replaces a match: text with `\1` to `\9` for what groups captured, `\0` for the whole match and `\\` for a backslash.
public struct RegexSubstitution: Sendable, Hashable {
    private enum Part: Sendable, Hashable {
        case text(String)
        case group(Int)
    }

    private var parts: [Part] = []

    /// - Parameter groups: how many the expression has.
    public init(_ text: String, groups: Int) throws(RegexError) {
        var literal = ""
        var bytes = Array(text.unicodeScalars)[...]
        let total = bytes.count
        while let scalar = bytes.popFirst() {
            guard scalar == "\\" else {
                literal.unicodeScalars.append(scalar)
                continue
            }
            let offset = total - bytes.count - 1
            switch bytes.popFirst() {
            case "\\": literal += "\\"
            case .some(let digit) where ("0"..."9").contains(digit):
                let group = Int(digit.value - 0x30)
                guard group <= groups else {
                    throw RegexError(text, at: offset, "\\\(group) names a group that the expression does not have")
                }
                if !literal.isEmpty { self.parts.append(.text(literal)) }
                literal = ""
                self.parts.append(.group(group))
            default:
                throw RegexError(text, at: offset, "a backslash must be followed by a digit or a backslash")
            }
        }
        if !literal.isEmpty { self.parts.append(.text(literal)) }
    }

    func append(to result: inout String, group: (Int) -> Substring?) {
        for part in self.parts {
            switch part {
            case .text(let text): result += text
            case .group(let number): result += group(number) ?? ""
            }
        }
    }
}

/// Why a pattern is no expression that can be matched: where, and what to write instead.
public struct RegexError: Error, Hashable, Sendable, CustomStringConvertible {
    public var pattern: String
    /// In characters, from 0.
    public var offset: Int
    public var reason: String

    init(_ pattern: String, at offset: Int, _ reason: String) {
        self.pattern = pattern
        self.offset = offset
        self.reason = reason
    }

    public var description: String {
        "the regular expression \"\(self.pattern.prefix(200))\" is wrong at character \(self.offset + 1): \(self.reason)"
    }
}
