import LoadBalancing
import MeshCore
import NIOCore

/// Finds the key of a consistent hash in the first bytes of a connection, without changing them. Line by line, so each
/// byte is looked at once or twice however the bytes are cut.
struct HTTPKeySniffer {
    enum Outcome: Equatable {
        case needsMore
        case key(String)
        /// The head is complete, or cannot be read further, and has no key.
        case absent
        case notHTTP
    }

    /// Bytes of request head that are looked at.
    static let maximumHeadBytes = 16 * 1024

    private let key: ConsistentHashPolicy.Key
    private var lineStart = 0
    private var scanned = 0
    private var hasRequestLine = false

    init(_ key: ConsistentHashPolicy.Key) {
        self.key = key
    }

    /// - Parameter head: all bytes since the start of the connection.
    mutating func examine(_ head: ByteBuffer) -> Outcome {
        let bytes = head.readableBytesView
        let limit = min(bytes.count, Self.maximumHeadBytes)
        let base = bytes.startIndex
        if self.scanned == 0, limit > 0, !Self.isTokenByte(bytes[base]) { return .notHTTP }
        while let newline = bytes[(base + self.scanned)..<(base + limit)].firstIndex(of: UInt8(ascii: "\n")) {
            var end = newline
            if end > base + self.lineStart, bytes[end - 1] == UInt8(ascii: "\r") { end -= 1 }
            let line = String(decoding: bytes[(base + self.lineStart)..<end], as: UTF8.self)
            self.scanned = newline + 1 - base
            self.lineStart = self.scanned
            let outcome = self.hasRequestLine ? self.headerLine(line) : self.requestLine(line)
            if outcome != .needsMore { return outcome }
        }
        self.scanned = max(self.scanned, limit)
        guard limit == Self.maximumHeadBytes else { return .needsMore }
        return self.hasRequestLine ? .absent : .notHTTP
    }

    private mutating func requestLine(_ line: String) -> Outcome {
        let parts = line.split(separator: " ", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0].utf8.allSatisfy(Self.isTokenByte), parts[2].hasPrefix("HTTP/1.") else {
            return .notHTTP
        }
        self.hasRequestLine = true
        guard case .httpQueryParameter(let name) = self.key else { return .needsMore }
        guard let query = parts[1].split(separator: "?", maxSplits: 1).dropFirst().first else { return .absent }
        let value = Self.value(of: name, in: query.prefix { $0 != "#" }, separator: "&")
        return value.map { .key($0) } ?? .absent
    }

    private func headerLine(_ line: String) -> Outcome {
        guard !line.isEmpty else { return .absent }
        guard let colon = line.firstIndex(of: ":") else { return .needsMore }
        let name = line[..<colon].lowercased()
        let value = Self.trimmed(line[line.index(after: colon)...])
        switch self.key {
        case .httpHeader(let wanted) where name == wanted.lowercased():
            return .key(String(value))
        case .httpCookie(let wanted, _, _) where name == "cookie":
            return Self.value(of: wanted, in: value, separator: ";").map { .key($0) } ?? .needsMore
        default:
            return .needsMore
        }
    }

    private static func value(of name: String, in text: Substring, separator: Character) -> String? {
        for pair in text.split(separator: separator) {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if let first = parts.first, self.trimmed(first) == name {
                return parts.count == 2 ? String(self.trimmed(parts[1])) : ""
            }
        }
        return nil
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text.drop { $0 == " " || $0 == "\t" }
        while let last = text.last, last == " " || last == "\t" { text.removeLast() }
        return text
    }

    /// RFC 9110 section 5.6.2.
    private static func isTokenByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default:
            "!#$%&'*+-.^_`|~".utf8.contains(byte)
        }
    }
}
