/// What a parser accepts at most, so that a hostile text costs a bounded amount of memory and time.
public struct DocumentLimits: Hashable, Sendable {
    /// The size of the text.
    public var bytes: Int
    /// How deep arrays and objects may nest.
    public var depth: Int
    /// Values in all documents of the text together.
    public var values: Int
    /// What YAML aliases may add: one for each value repeated, and one for each byte of its text.
    public var aliasExpansion: Int
    /// Whether an object of YAML may repeat a key with the same value, as the output of some templates does.
    public var allowsEqualRepeats: Bool

    public static let `default` = DocumentLimits()

    public init(
        bytes: Int = 16 << 20,
        depth: Int = 64,
        values: Int = 2 << 20,
        aliasExpansion: Int = 1 << 20,
        allowsEqualRepeats: Bool = false
    ) {
        self.bytes = bytes
        self.depth = depth
        self.values = values
        self.aliasExpansion = aliasExpansion
        self.allowsEqualRepeats = allowsEqualRepeats
    }
}

/// Why a text is no document, and where.
public struct DocumentError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable {
        case syntax
        /// The text ends inside a value.
        case unexpectedEnd
        /// More text follows the one value of a JSON document.
        case trailingBytes
        case invalidUTF8
        case duplicateKey
        case numberOutOfRange
        /// A YAML alias without its anchor, a tag or a key that has no form in JSON.
        case unsupported
        /// One of `DocumentLimits` is exceeded.
        case limit
    }

    public var code: Code
    /// What is wrong and what is allowed, without the place.
    public var message: String
    public var position: SourcePosition

    public init(_ code: Code, _ message: String, at position: SourcePosition) {
        self.code = code
        self.message = message
        self.position = position
    }

    /// `file:line:column: message`, the form that editors jump to.
    public func describe(in file: String) -> String { "\(file):\(self.position): \(self.message)" }

    public var description: String { "\(self.position): \(self.message)" }
}

/// The members of an object while it is read. A repeated key is refused, with both places.
struct ObjectBuilder {
    private(set) var members: [Document.Member] = []
    /// Made when the object outgrows a linear scan.
    private var indexByKey: [String: Int] = [:]
    private static let scannedMembers = 16

    mutating func append(_ member: Document.Member) throws(DocumentError) {
        if let first = self.index(of: member.key) {
            throw DocumentError(
                .duplicateKey,
                "the key \(Document.string(member.key).brief) is already used at \(self.members[first].keyPosition); remove one of the two",
                at: member.keyPosition
            )
        }
        if self.members.isEmpty { self.members.reserveCapacity(4) }
        self.members.append(member)
        if self.members.count > Self.scannedMembers {
            if self.indexByKey.isEmpty {
                for (index, member) in self.members.enumerated() { self.indexByKey[member.key] = index }
            } else {
                self.indexByKey[member.key] = self.members.count - 1
            }
        }
    }

    func index(of key: String) -> Int? {
        guard self.indexByKey.isEmpty else { return self.indexByKey[key] }
        return self.members.indices.first { self.members[$0].key == key }
    }
}
