public import Documents
public import MeshCore

/// A field of a document, which knows its path, so that an error can name it.
///
/// It reads as the API server does: unknown fields do not matter, null is as good as absent.
public struct FieldReader: Sendable {
    private indirect enum Path: Sendable {
        case root
        case key(String, in: Path)
        case index(Int, in: Path)
    }

    /// The value; nil if it is absent or null.
    public let document: Document?
    private let path: Path
    /// The place of the value, or of what it is missing in.
    private let position: SourcePosition

    public init(_ document: Document) {
        self.init(document, path: .root, parent: document.position)
    }

    private init(_ document: Document?, path: Path, parent: SourcePosition) {
        // Not by `nil` in an expression, which is a document too.
        self.document = document?.isNull == true ? Document?.none : document
        self.path = path
        self.position = document?.position ?? parent
    }

    /// The field `key` of this object, which may be absent.
    public subscript(key: String) -> FieldReader {
        get throws(ObjectError) {
            guard let document = self.document else {
                return FieldReader(nil, path: .key(key, in: self.path), parent: self.position)
            }
            guard document.members != nil else { throw self.wrongType("an object") }
            return FieldReader(document[key], path: .key(key, in: self.path), parent: self.position)
        }
    }

    public var isPresent: Bool { self.document != nil }

    // MARK: Values; nil or empty if absent

    public func elements() throws(ObjectError) -> [FieldReader] {
        guard let document = self.document else { return [] }
        guard let elements = document.array else { throw self.wrongType("a list") }
        return elements.enumerated().map { index, element in
            FieldReader(element, path: .index(index, in: self.path), parent: self.position)
        }
    }

    public func string() throws(ObjectError) -> String? {
        guard let document = self.document else { return nil }
        guard let text = document.string else {
            throw self.wrongType("text; write it in quotes if it looks like a number")
        }
        return text
    }

    /// As `string`, with empty text taken for absent.
    public func nonEmptyString() throws(ObjectError) -> String? {
        guard let text = try self.string(), !text.isEmpty else { return nil }
        return text
    }

    public func bool() throws(ObjectError) -> Bool? {
        guard let document = self.document else { return nil }
        guard let flag = document.bool else { throw self.wrongType("true or false") }
        return flag
    }

    /// A whole number of `range`; `8e1` counts as 80.
    public func integer<Integer: FixedWidthInteger>(in range: ClosedRange<Integer>) throws(ObjectError) -> Integer? {
        guard let document = self.document else { return nil }
        let allowed = "a whole number from \(range.lowerBound) to \(range.upperBound)"
        let number: Integer?
        switch document.content {
        case .integer(let value): number = Integer(exactly: value)
        case .number(let value): number = Integer(exactly: value)
        default: throw self.wrongType(allowed)
        }
        guard let number, range.contains(number) else { throw self.badValue(allowed) }
        return number
    }

    public func port() throws(ObjectError) -> UInt16? { try self.integer(in: 1...65535) }

    /// One of the raw values of an enumeration of the API.
    public func choice<Choice: RawRepresentable<String>>(
        _ choices: [Choice]
    ) throws(ObjectError) -> Choice? {
        guard let text = try self.nonEmptyString() else { return nil }
        guard let choice = choices.first(where: { $0.rawValue == text }) else {
            throw self.badValue(choices.map(\.rawValue).joined(separator: ", "))
        }
        return choice
    }

    public func transport() throws(ObjectError) -> TransportProtocol? {
        guard let text = try self.nonEmptyString() else { return nil }
        guard let transport = TransportProtocol(text) else { throw self.badValue("TCP, UDP or SCTP") }
        return transport
    }

    public func address() throws(ObjectError) -> IPAddress? {
        guard let text = try self.nonEmptyString() else { return nil }
        guard let address = IPAddress(text) else { throw self.badValue("an IPv4 or IPv6 address") }
        return address
    }

    public func addresses() throws(ObjectError) -> [IPAddress] {
        try self.list { field throws(ObjectError) in try field.address() }
    }

    public func blocks() throws(ObjectError) -> [CIDR] {
        try self.list { field throws(ObjectError) in
            guard let text = try field.nonEmptyString() else { return nil }
            // The API server allows spaces around a block.
            guard let block = CIDR(Self.trimmed(text)) else { throw field.badValue("a block such as 10.0.0.0/8") }
            return block
        }
    }

    private func list<Value>(
        _ read: (FieldReader) throws(ObjectError) -> Value?
    ) throws(ObjectError) -> [Value] {
        var values: [Value] = []
        for element in try self.elements() {
            if let value = try read(element) { values.append(value) }
        }
        return values
    }

    private static func trimmed(_ text: String) -> Substring {
        let start = text.drop { $0 == " " }
        return start[..<(start.lastIndex { $0 != " " }.map(start.index(after:)) ?? start.startIndex)]
    }

    /// An object whose values are all text, such as labels.
    public func stringMap() throws(ObjectError) -> [String: String] {
        guard let document = self.document else { return [:] }
        guard let members = document.members else { throw self.wrongType("an object") }
        var map: [String: String] = [:]
        for member in members {
            map[member.key] = try self[member.key].string() ?? ""
        }
        return map
    }

    /// `value`, or an error that asks for what is `allowed` if it is nil.
    public func require<Value>(_ value: Value?, _ allowed: String) throws(ObjectError) -> Value {
        guard let value else {
            throw self.error(.missing, "\(self.pathText) is missing; set it to \(allowed)")
        }
        return value
    }

    // MARK: Errors

    /// An error about this field that says what it holds and what is allowed.
    public func badValue(_ allowed: String) -> ObjectError {
        self.error(.badValue, "\(self.pathText) is \(self.found); allowed: \(allowed)")
    }

    public func duplicate(_ of: String) -> ObjectError {
        self.error(.duplicate, "\(self.pathText) is \(self.found), as \(of) has it already; each must be different")
    }

    private func wrongType(_ allowed: String) -> ObjectError {
        self.error(.wrongType, "\(self.pathText) is \(self.found); it must be \(allowed)")
    }

    public func error(_ code: ObjectError.Code, _ message: String) -> ObjectError {
        ObjectError(code, field: self.pathText == Self.root ? "" : self.pathText, message: message, at: self.position)
    }

    private static let root = "the object"

    private var pathText: String {
        func text(_ path: Path) -> String {
            switch path {
            case .root: ""
            case .key(let key, let parent):
                if case .root = parent { key } else { "\(text(parent)).\(key)" }
            case .index(let index, let parent): "\(text(parent))[\(index)]"
            }
        }
        let path = text(self.path)
        return path.isEmpty ? Self.root : path
    }

    private var found: String { self.document?.brief ?? "absent" }
}
