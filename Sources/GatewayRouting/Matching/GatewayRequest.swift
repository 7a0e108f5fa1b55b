/// What of a request decides about its way.
public protocol GatewayRequest {
    var method: String { get }
    /// As `RequestTarget` has it.
    var path: String { get }
    /// As `RequestTarget` has it.
    var query: String? { get }
    /// The `Host` or `:authority`, with its port if it has one.
    var authority: String { get }
    /// `http` or `https`, as the client speaks.
    var scheme: String { get }
    /// Of the listener.
    var port: UInt16 { get }
    /// All values of a header, joined by `,`; nil without one.
    /// - Parameter name: in lower case.
    func header(_ name: String) -> String?
}

extension GatewayRequest {
    /// The first value of a parameter of the query, with its escapes undone.
    func queryValue(_ name: String) -> String? {
        guard let query = self.query else { return nil }
        for pair in query.utf8.split(separator: UInt8(ascii: "&")) {
            let key = pair.prefix { $0 != UInt8(ascii: "=") }
            guard let found = Self.unescaped(key), found == name else { continue }
            return Self.unescaped(pair.dropFirst(key.count + 1))
        }
        return nil
    }

    /// As forms are written: `+` for a space. An escape that is none stays as it is.
    private static func unescaped(_ text: Substring.UTF8View) -> String? {
        guard text.contains(where: { $0 == UInt8(ascii: "%") || $0 == UInt8(ascii: "+") }) else {
            return String(Substring(text))
        }
        var bytes: [UInt8] = []
        var rest = text
        while let byte = rest.popFirst() {
            let digits = rest.prefix(2)
            if byte == UInt8(ascii: "+") {
                bytes.append(UInt8(ascii: " "))
            } else if byte == UInt8(ascii: "%"), digits.count == 2, digits.first != UInt8(ascii: "+"),
                digits.first != UInt8(ascii: "-"), let value = UInt8(Substring(digits), radix: 16)
            {
                bytes.append(value)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// The host and port of an authority, as matching wants them.
public struct RequestHost: Sendable, Hashable {
    /// In lower case, without port and final dot; an IPv6 address without its brackets.
    public let name: String
    public let port: UInt16?

    /// Nil if it is no host with, or without, a port: the request is to be refused with 400.
    public init?(_ authority: some StringProtocol) { self.init(String(authority)) }

    /// Nil if it is no host with, or without, a port: the request is to be refused with 400.
    public init?(_ authority: String) {
        var host = authority[...].utf8
        if host.first == UInt8(ascii: "[") {
            guard let end = host.firstIndex(of: UInt8(ascii: "]")) else { return nil }
            let port = host[host.index(after: end)...]
            host = host[..<end].dropFirst()
            guard port.isEmpty || port.first == UInt8(ascii: ":") else { return nil }
            guard let number = Self.port(port.dropFirst()) else { return nil }
            self.port = number
        } else {
            let colon = host.firstIndex(of: UInt8(ascii: ":"))
            guard let number = Self.port(colon.map { host[host.index(after: $0)...] } ?? host[host.endIndex...]) else {
                return nil
            }
            self.port = number
            host = host[..<(colon ?? host.endIndex)]
        }
        if host.last == UInt8(ascii: ".") { host = host.dropLast() }
        guard (1...253).contains(host.count), host.allSatisfy(Self.isAllowed) else { return nil }
        let hasCapitals = host.contains { (0x41...0x5A).contains($0) }
        self.name =
            hasCapitals
            ? String(decoding: host.map { (0x41...0x5A).contains($0) ? $0 | 0x20 : $0 }, as: UTF8.self)
            : String(Substring(host))
    }

    /// Nil if it is none; `.some(nil)` if there is none.
    private static func port(_ text: Substring.UTF8View) -> UInt16?? {
        if text.isEmpty { return .some(nil) }
        guard text.allSatisfy({ (0x30...0x39).contains($0) }), let number = UInt16(Substring(text)) else { return nil }
        return .some(number)
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
            UInt8(ascii: ":"):
            true
        default: false
        }
    }
}
