/// A parsed expression.
indirect enum RegexNode {
    case empty
    case set(RegexSet)
    case assertion(RegexAssertion)
    case group(RegexNode, capture: Int)
    case sequence([RegexNode])
    case choice([RegexNode])
    case repetition(RegexNode, least: Int, most: Int?, isLazy: Bool)
}

enum RegexAssertion {
    case textStart, textEnd, lineStart, lineEnd, wordBoundary, noWordBoundary
}

/// A set of Unicode scalars.
struct RegexSet {
    enum Part {
        case range(UInt32, UInt32)
        /// `\p{...}`.
        case category(RegexCategory, isNegated: Bool)
        /// `\D` and the like within a class.
        case outside([ClosedRange<UInt32>])
    }

    var parts: [Part]
    var isNegated = false
    var ignoresCase = false

    init(_ parts: [Part], isNegated: Bool = false, ignoresCase: Bool = false) {
        self.parts = parts
        self.isNegated = isNegated
        self.ignoresCase = ignoresCase
    }

    /// The one scalar that it holds, if it is a literal that has no other case.
    var literal: UInt32? {
        guard self.parts.count == 1, !self.isNegated, !self.ignoresCase,
            case .range(let first, let last) = self.parts[0],
            first == last
        else { return nil }
        return first
    }

    /// How many steps it is to look whether it holds a scalar.
    var cost: Int {
        let parts = self.parts.reduce(0) { sum, part in
            switch part {
            case .range: sum + 1
            case .category: sum + 8
            case .outside(let ranges): sum + ranges.count
            }
        }
        // With other cases each part is looked at for up to three scalars.
        return self.ignoresCase ? 3 * parts : parts
    }

    func contains(_ scalar: UInt32) -> Bool {
        if self.holds(scalar) { return !self.isNegated }
        guard self.ignoresCase else { return self.isNegated }
        return Self.otherCases(of: scalar).contains(where: self.holds) != self.isNegated
    }

    private func holds(_ scalar: UInt32) -> Bool {
        for part in self.parts {
            switch part {
            case .range(let first, let last): if first <= scalar, scalar <= last { return true }
            case .category(let category, let isNegated): if category.contains(scalar) != isNegated { return true }
            case .outside(let ranges): if !ranges.contains(where: { $0.contains(scalar) }) { return true }
            }
        }
        return false
    }

    private static func otherCases(of scalar: UInt32) -> [UInt32] {
        if scalar < 0x80 {
            switch scalar {
            case 0x41...0x5A: return [scalar | 0x20]
            case 0x61...0x7A: return [scalar & ~0x20]
            default: return []
            }
        }
        guard let value = Unicode.Scalar(scalar) else { return [] }
        let mapped = [value.properties.lowercaseMapping, value.properties.uppercaseMapping].map(\.unicodeScalars)
        return mapped.compactMap { $0.count == 1 ? $0.first?.value : nil }
    }
}

/// A general category of Unicode, or a group of them, by the names of `\p{...}`.
enum RegexCategory: String {
    case letter = "L"
    case upper = "Lu"
    case lower = "Ll"
    case mark = "M"
    case number = "N"
    case decimal = "Nd"
    case punctuation = "P"
    case symbol = "S"
    case separator = "Z"
    case other = "C"

    func contains(_ scalar: UInt32) -> Bool {
        guard let category = Unicode.Scalar(scalar)?.properties.generalCategory else { return false }
        switch category {
        case .uppercaseLetter: return self == .letter || self == .upper
        case .lowercaseLetter: return self == .letter || self == .lower
        case .titlecaseLetter, .modifierLetter, .otherLetter: return self == .letter
        case .nonspacingMark, .spacingMark, .enclosingMark: return self == .mark
        case .decimalNumber: return self == .number || self == .decimal
        case .letterNumber, .otherNumber: return self == .number
        case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation,
            .finalPunctuation, .otherPunctuation:
            return self == .punctuation
        case .mathSymbol, .currencySymbol, .modifierSymbol, .otherSymbol: return self == .symbol
        case .spaceSeparator, .lineSeparator, .paragraphSeparator: return self == .separator
        case .control, .format, .surrogate, .privateUse, .unassigned: return self == .other
        @unknown default: return false
        }
    }
}
