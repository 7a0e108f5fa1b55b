/// A place in a text, both counted from 1: columns in bytes for JSON, in characters for YAML. Zero means "not read from
/// a text".
public struct SourcePosition: Hashable, Sendable, Comparable, CustomStringConvertible {
    // Half the width of `Int`: every value of a document carries one.
    private var storedLine: UInt32
    private var storedColumn: UInt32

    public static let none = SourcePosition(line: 0, column: 0)

    public init(line: Int, column: Int) {
        self.storedLine = UInt32(clamping: line)
        self.storedColumn = UInt32(clamping: column)
    }

    public var line: Int { Int(self.storedLine) }
    public var column: Int { Int(self.storedColumn) }

    /// `line:column`.
    public var description: String { "\(self.line):\(self.column)" }

    public static func < (lhs: SourcePosition, rhs: SourcePosition) -> Bool {
        (lhs.storedLine, lhs.storedColumn) < (rhs.storedLine, rhs.storedColumn)
    }
}

/// One node of a YAML or JSON document, with the place it was read from, so that an error can name it.
public struct Document: Sendable, Hashable {
    public enum Content: Sendable, Hashable {
        case null
        case bool(Bool)
        case integer(Int64)
        case number(Double)
        case string(String)
        case array([Document])
        case object([Member])
    }

    /// A key with its value. Objects keep their order and hold a key once.
    public struct Member: Sendable, Hashable {
        public var key: String
        public var keyPosition: SourcePosition
        public var value: Document

        public init(_ key: String, _ value: Document, keyPosition: SourcePosition = .none) {
            self.key = key
            self.keyPosition = keyPosition
            self.value = value
        }
    }

    public var content: Content
    public var position: SourcePosition

    public init(_ content: Content, position: SourcePosition = .none) {
        self.content = content
        self.position = position
    }

    /// The member `key` of an object; nil if this is no object or has no such key.
    public subscript(key: String) -> Document? {
        guard case .object(let members) = self.content else { return nil }
        // By index: a member that is not the one must not be copied.
        for index in members.indices where members[index].key == key { return members[index].value }
        return nil
    }

    public var isNull: Bool { self.content == .null }

    public var string: String? {
        guard case .string(let text) = self.content else { return nil }
        return text
    }

    // Swift 6.3's optimiser fails an ownership check where `integer` and `bool` are inlined behind an optional chain.
    @inline(never)
    public var integer: Int64? {
        guard case .integer(let number) = self.content else { return nil }
        return number
    }

    @inline(never)
    public var bool: Bool? {
        guard case .bool(let flag) = self.content else { return nil }
        return flag
    }

    public var array: [Document]? {
        guard case .array(let elements) = self.content else { return nil }
        return elements
    }

    public var members: [Member]? {
        guard case .object(let members) = self.content else { return nil }
        return members
    }
}

extension Document: ExpressibleByStringInterpolation {
    public init(stringLiteral value: String) { self.init(.string(value)) }
}

extension Document: ExpressibleByIntegerLiteral {
    public init(integerLiteral value: Int64) { self.init(.integer(value)) }
}

extension Document: ExpressibleByFloatLiteral {
    public init(floatLiteral value: Double) { self.init(.number(value)) }
}

extension Document: ExpressibleByBooleanLiteral {
    public init(booleanLiteral value: Bool) { self.init(.bool(value)) }
}

extension Document: ExpressibleByNilLiteral {
    public init(nilLiteral: ()) { self.init(.null) }
}

extension Document: ExpressibleByArrayLiteral {
    public init(arrayLiteral elements: Document...) { self.init(.array(elements)) }
}

extension Document: ExpressibleByDictionaryLiteral {
    public init(dictionaryLiteral elements: (String, Document)...) {
        self.init(.object(elements.map { Member($0.0, $0.1) }))
    }
}

extension Document {
    public static func string(_ text: String) -> Document { Document(.string(text)) }
    public static func integer(_ number: some BinaryInteger) -> Document { Document(.integer(Int64(clamping: number))) }
    public static func array(_ elements: [Document]) -> Document { Document(.array(elements)) }
    public static func object(_ members: [Member]) -> Document { Document(.object(members)) }
}

extension Document {
    /// The value in a few words, for error messages: a scalar as JSON has it (text cut at 60 characters, control
    /// characters escaped), else its kind.
    public var brief: String {
        switch self.content {
        case .null: "null"
        case .bool(let flag): "\(flag)"
        case .integer(let number): "\(number)"
        case .number(let number): "\(number)"
        case .string(let text): Document.string(text.count > 60 ? text.prefix(60) + "..." : text).jsonText()
        case .array: "a list"
        case .object: "an object"
        }
    }

    /// This document without its places, to compare documents by what they say.
    public var withoutPositions: Document {
        switch self.content {
        case .array(let elements): .array(elements.map(\.withoutPositions))
        case .object(let members): .object(members.map { Member($0.key, $0.value.withoutPositions) })
        default: Document(self.content)
        }
    }
}
