import GatewayRouting

/// The fields of a message, in order. Names are in lower case; values have no white space around them.
struct HeaderFields: Sendable, Hashable {
    struct Field: Sendable, Hashable {
        var name: String
        var value: String
    }

    var fields: [Field] = []

    init() {}

    init(_ pairs: [(String, String)]) {
        self.fields = pairs.map { Field(name: $0.0, value: $0.1) }
    }

    /// The first value.
    subscript(name: String) -> String? {
        self.index(of: name).map { self.fields[$0].value }
    }

    func values(_ name: String) -> [String] {
        guard let first = self.index(of: name) else { return [] }
        return self.fields[first...].filter { $0.name == name }.map(\.value)
    }

    func contains(_ name: String) -> Bool { self.index(of: name) != nil }

    /// Of the first such field. Lengths are compared first: names are looked for in vain more often than not.
    func index(of name: String) -> Int? {
        let count = name.utf8.count
        return self.fields.firstIndex { $0.name.utf8.count == count && $0.name == name }
    }

    /// The elements of a list field (RFC 9110 section 5.6.1) in lower case, over all of its lines.
    func elements(_ name: String) -> [String] {
        self.fields.filter { $0.name == name }.flatMap { Self.elements(of: $0.value) }
    }

    static func elements(of value: String) -> [String] {
        switch value {
        // What nearly all say.
        case "close", "keep-alive": [value]
        default:
            value.utf8.split(separator: UInt8(ascii: ",")).map { ASCII.trimmed($0) }.filter { !$0.isEmpty }
                .map { ASCII.lowercased($0) }
        }
    }

    mutating func add(_ name: String, _ value: String) {
        self.fields.append(Field(name: name, value: value))
    }

    /// Puts one value in the place of all.
    mutating func set(_ name: String, _ value: String) {
        if let first = self.index(of: name) {
            self.fields[first].value = value
            guard let second = self.fields.indices.dropFirst(first + 1).first(where: { self.fields[$0].name == name })
            else { return }
            self.fields[second...].removeAll { $0.name == name }
        } else {
            self.add(name, value)
        }
    }

    mutating func remove(_ name: String) {
        if self.contains(name) { self.fields.removeAll { $0.name == name } }
    }
}

/// Bytes of header sections, as RFC 9110 and RFC 3986 class them.
enum ASCII {
    static func isTokenByte(_ byte: UInt8) -> Bool {
        // One bit for each byte: it is asked for every byte of every name.
        byte < 128 && (byte < 64 ? Self.lowTokens : Self.highTokens) >> UInt64(byte & 63) & 1 == 1
    }

    /// Digits and !#$%&'*+-. of the first 64 characters; letters and ^_`|~ of the next.
    private static let lowTokens: UInt64 = 0x03FF_6CFA_0000_0000
    private static let highTokens: UInt64 = 0x57FF_FFFF_C7FF_FFFE

    /// Visible characters, spaces and tabs, and bytes above 127 (`obs-text`).
    static func isValueByte(_ byte: UInt8) -> Bool {
        byte >= 0x20 && byte != 0x7F || byte == 0x09
    }

    static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }

    static func lower(_ byte: UInt8) -> UInt8 { (0x41...0x5A).contains(byte) ? byte | 0x20 : byte }

    static func lowercased(_ bytes: some Collection<UInt8>) -> String {
        String(unsafeUninitializedCapacity: bytes.count) { text in
            var count = 0
            for byte in bytes {
                text[count] = Self.lower(byte)
                count += 1
            }
            return count
        }
    }

    /// - Parameter bytes: all below 128.
    static func text(_ bytes: UnsafeRawBufferPointer) -> String {
        String(unsafeUninitializedCapacity: bytes.count) { text in
            UnsafeMutableRawBufferPointer(text).copyMemory(from: bytes)
            return bytes.count
        }
    }

    static func trimmed<Bytes: BidirectionalCollection<UInt8>>(_ bytes: Bytes) -> Bytes.SubSequence {
        var rest = bytes[...]
        while let first = rest.first, Self.isBlank(first) { rest = rest.dropFirst() }
        while let last = rest.last, Self.isBlank(last) { rest = rest.dropLast() }
        return rest
    }

    /// Whether it can be a field's name; upper case is for `HeaderEdits` of a plan.
    static func isToken(_ text: some StringProtocol) -> Bool {
        !text.isEmpty && text.utf8.allSatisfy(Self.isTokenByte)
    }

    static func isValue(_ text: some StringProtocol) -> Bool { text.utf8.allSatisfy(Self.isValueByte) }

    /// A host with an optional port: a name, an IPv4 address or an IPv6 address in brackets (RFC 3986 section 3.2), without user
    /// information. Percent signs are left out: no name that a route could have holds one.
    static func isAuthority(_ text: some StringProtocol) -> Bool {
        var bytes = text.utf8[...]
        if bytes.first == UInt8(ascii: "[") {
            guard let end = bytes.firstIndex(of: UInt8(ascii: "]")) else { return false }
            let inside = bytes[bytes.index(after: bytes.startIndex)..<end]
            guard inside.count >= 2, inside.allSatisfy({ Self.isHex($0) || $0 == 0x3A || $0 == 0x2E }) else {
                return false
            }
            bytes = bytes[bytes.index(after: end)...]
        } else {
            let name = bytes.prefix { $0 != UInt8(ascii: ":") }
            guard (1...255).contains(name.count), name.allSatisfy(RequestTarget.isUnreserved) else { return false }
            bytes = bytes[name.endIndex...]
        }
        guard let colon = bytes.first else { return true }
        let port = bytes.dropFirst()
        return colon == UInt8(ascii: ":") && port.count <= 5 && port.allSatisfy { (0x30...0x39).contains($0) }
    }

    static func isHex(_ byte: UInt8) -> Bool { Self.hexDigit(byte) != nil }

    static func hexDigit(_ byte: UInt8) -> UInt64? {
        switch byte {
        case 0x30...0x39: UInt64(byte - 0x30)
        case 0x41...0x46: UInt64(byte - 0x41 + 10)
        case 0x61...0x66: UInt64(byte - 0x61 + 10)
        default: nil
        }
    }
}
