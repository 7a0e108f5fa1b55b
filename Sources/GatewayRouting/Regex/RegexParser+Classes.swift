/// Escapes and character classes.
extension RegexParser {
    private static let digits: [ClosedRange<UInt32>] = [0x30...0x39]
    private static let spaces: [ClosedRange<UInt32>] = [0x09...0x0A, 0x0C...0x0D, 0x20...0x20]
    private static let words: [ClosedRange<UInt32>] = [0x30...0x39, 0x41...0x5A, 0x5F...0x5F, 0x61...0x7A]

    private static let named: [String: [ClosedRange<UInt32>]] = [
        "alnum": [0x30...0x39, 0x41...0x5A, 0x61...0x7A], "alpha": [0x41...0x5A, 0x61...0x7A], "ascii": [0...0x7F],
        "blank": [0x09...0x09, 0x20...0x20], "cntrl": [0...0x1F, 0x7F...0x7F], "digit": digits, "graph": [0x21...0x7E],
        "lower": [0x61...0x7A], "print": [0x20...0x7E],
        "punct": [0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E], "space": [0x09...0x0D, 0x20...0x20],
        "upper": [0x41...0x5A], "word": words, "xdigit": [0x30...0x39, 0x41...0x46, 0x61...0x66],
    ]

    mutating func escape(_ start: Int) throws(RegexError) -> RegexNode {
        switch self.next {
        case "A": return self.assertion(.textStart)
        case "z": return self.assertion(.textEnd)
        case "b": return self.assertion(.wordBoundary)
        case "B": return self.assertion(.noWordBoundary)
        default: break
        }
        if let parts = try self.classEscape(start) { return .set(RegexSet(parts, ignoresCase: self.flags.ignoresCase)) }
        return self.literal(try self.characterEscape(start))
    }

    private mutating func assertion(_ assertion: RegexAssertion) -> RegexNode {
        self.position += 1
        return .assertion(assertion)
    }

    /// After a backslash: `d`, `W`, `pL`, `P{Lu}` and the like; nil, with nothing taken, for anything else.
    private mutating func classEscape(_ start: Int) throws(RegexError) -> [RegexSet.Part]? {
        func inside(_ ranges: [ClosedRange<UInt32>]) -> [RegexSet.Part] {
            ranges.map { .range($0.lowerBound, $0.upperBound) }
        }
        let parts: [RegexSet.Part]
        switch self.next {
        case "d": parts = inside(Self.digits)
        case "D": parts = [.outside(Self.digits)]
        case "s": parts = inside(Self.spaces)
        case "S": parts = [.outside(Self.spaces)]
        case "w": parts = inside(Self.words)
        case "W": parts = [.outside(Self.words)]
        case "p", "P": return [try self.category(start)]
        default: return nil
        }
        self.position += 1
        return parts
    }

    private mutating func category(_ start: Int) throws(RegexError) -> RegexSet.Part {
        var isNegated = self.take() == "P"
        var name = ""
        if self.take("{") {
            if self.take("^") { isNegated.toggle() }
            guard let text = self.take(until: "}") else { throw self.error("\\p{ lacks its }", at: start) }
            name = text
        } else if let scalar = self.take() {
            name.unicodeScalars.append(scalar)
        }
        guard let category = RegexCategory(rawValue: name) else {
            throw self.error("\\p knows L, Lu, Ll, M, N, Nd, P, S, Z and C; list other characters in [...]", at: start)
        }
        return .category(category, isNegated: isNegated)
    }

    /// After a backslash: one character.
    private mutating func characterEscape(_ start: Int) throws(RegexError) -> Unicode.Scalar {
        guard let scalar = self.take() else {
            throw self.error("the expression ends in a backslash; write \\\\ for the character", at: start)
        }
        switch scalar {
        case "a": return "\u{07}"
        case "f": return "\u{0C}"
        case "n": return "\n"
        case "r": return "\r"
        case "t": return "\t"
        case "v": return "\u{0B}"
        case "x": return try self.hexadecimal(start)
        case "0": return self.octal(scalar)
        case "1"..."7":
            // One digit alone would be a back reference.
            guard let second = self.next, ("0"..."7").contains(second) else {
                throw self.error("what a group captured cannot be matched again", at: start)
            }
            return self.octal(scalar)
        default:
            guard scalar.isASCII, scalar.value > 0x20, scalar.value < 0x7F, !scalar.properties.isAlphabetic,
                !("0"..."9").contains(scalar)
            else { throw self.error("\\\(scalar) means nothing; leave out the backslash", at: start) }
            return scalar
        }
    }

    /// Up to three digits in all.
    private mutating func octal(_ first: Unicode.Scalar) -> Unicode.Scalar {
        var value = first.value - 0x30
        for _ in 0..<2 {
            guard let digit = self.next, ("0"..."7").contains(digit) else { break }
            value = value * 8 + digit.value - 0x30
            self.position += 1
        }
        return Unicode.Scalar(value) ?? "\u{FFFD}"
    }

    private mutating func hexadecimal(_ start: Int) throws(RegexError) -> Unicode.Scalar {
        var text = ""
        if self.take("{") {
            text = self.take(until: "}") ?? ""
        } else {
            for _ in 0..<2 { if let digit = self.take() { text.unicodeScalars.append(digit) } }
            if text.unicodeScalars.count != 2 { text = "" }
        }
        let isHexadecimal = text.unicodeScalars.allSatisfy { $0.properties.isASCIIHexDigit }
        guard isHexadecimal, let value = UInt32(text, radix: 16), let scalar = Unicode.Scalar(value) else {
            throw self.error("\\x takes two hexadecimal digits, or {...} up to 10FFFF", at: start)
        }
        return scalar
    }

    // MARK: [...]

    mutating func characterClass(_ start: Int) throws(RegexError) -> RegexSet {
        var set = RegexSet([], isNegated: self.take("^"), ignoresCase: self.flags.ignoresCase)
        var isFirst = true
        while isFirst || self.next != "]" {
            guard self.next != nil else { throw self.error("this [ is not closed; add ] or write \\[", at: start) }
            isFirst = false
            let itemStart = self.position
            if self.take("[:") {
                set.parts += try self.namedClass(itemStart)
            } else if self.next == "\\", let parts = try self.escapedClass(itemStart) {
                set.parts += parts
            } else {
                set.parts.append(try self.range(itemStart, of: start))
            }
        }
        self.position += 1
        return set
    }

    private mutating func escapedClass(_ start: Int) throws(RegexError) -> [RegexSet.Part]? {
        self.position += 1
        if let parts = try self.classEscape(start) { return parts }
        self.position -= 1
        return nil
    }

    private mutating func namedClass(_ start: Int) throws(RegexError) -> [RegexSet.Part] {
        let isNegated = self.take("^")
        guard let name = self.take(until: ":]"), let ranges = Self.named[name] else {
            let known = Self.named.keys.sorted().joined(separator: ", ")
            throw self.error("[: starts the name of a class and :] ends it; the names are \(known)", at: start)
        }
        return isNegated ? [.outside(ranges)] : ranges.map { .range($0.lowerBound, $0.upperBound) }
    }

    private mutating func range(_ start: Int, of classStart: Int) throws(RegexError) -> RegexSet.Part {
        let first = try self.classCharacter(classStart)
        let followsDash = self.position + 1 < self.scalars.count && self.scalars[self.position + 1] != "]"
        guard self.next == "-", followsDash else { return .range(first.value, first.value) }
        self.position += 1
        let last = try self.classCharacter(classStart)
        guard first.value <= last.value else {
            throw self.error("the range's first character comes after its last; swap them", at: start)
        }
        return .range(first.value, last.value)
    }

    private mutating func classCharacter(_ classStart: Int) throws(RegexError) -> Unicode.Scalar {
        let start = self.position
        guard let scalar = self.take() else { throw self.error("this [ is not closed; add ]", at: classStart) }
        return scalar == "\\" ? try self.characterEscape(start) : scalar
    }
}
