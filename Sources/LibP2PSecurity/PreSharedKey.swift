import Crypto
import Multiformats

/// The secret that all members of a private network share.
public struct PreSharedKey: Sendable {
    /// The 32 bytes of the cipher's key. Secret.
    public let bytes: [UInt8]

    /// The key that v1.17 of the original makes of its PSK file: it hands the file's SHA-256 as hexadecimal text to a reader
    /// of base64, which takes the first 32 of the 48 bytes that it sees.
    ///
    /// Every byte of the file counts, a trailing newline too. Any content is a key.
    public init(originalFileBytes: some Collection<UInt8>) {
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for byte in SHA256.hash(data: Array(originalFileBytes)) {
            text += [digits[Int(byte >> 4)], digits[Int(byte & 0xF)]]
        }
        guard let bytes = try? Base64.decode(String(decoding: text, as: UTF8.self)) else {
            preconditionFailure("64 hexadecimal digits are base64 text")
        }
        self.bytes = Array(bytes[..<32])
    }

    /// Reads a key in the form of libp2p (specs, pnet): the lines `/key/swarm/psk/1.0.0/`, `/base16/` or `/base64/`, and the
    /// key of 32 bytes in that base. White space at the ends of lines does not matter.
    /// - Throws: `malformed`. The message holds nothing of the key.
    public init(swarmKey text: some StringProtocol) throws(LibP2PSecurityError) {
        let lines = text.split(whereSeparator: \.isNewline).map { line in
            String(line.reversed().drop(while: \.isWhitespace).reversed().drop(while: \.isWhitespace))
        }
        guard lines.count == 3, lines[0] == "/key/swarm/psk/1.0.0/" else {
            throw Self.malformed("is not the line /key/swarm/psk/1.0.0/, a line with the base, and a line with the key")
        }
        let bytes: [UInt8]?
        switch lines[1] {
        case "/base16/": bytes = Self.base16(lines[2])
        case "/base64/": bytes = try? Base64.decode(lines[2])
        default: throw Self.malformed("has a base that is neither /base16/ nor /base64/")
        }
        guard let bytes else { throw Self.malformed("is not in the base that it names") }
        guard bytes.count == 32 else { throw Self.malformed("has \(bytes.count) bytes, not 32") }
        self.bytes = bytes
    }

    private static func base16(_ text: String) -> [UInt8]? {
        let digits = text.utf8.map { UInt8(String(UnicodeScalar($0)), radix: 16) }
        guard digits.count.isMultiple(of: 2) else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let high = digits[index], let low = digits[index + 1] else { return nil }
            bytes.append(high << 4 | low)
        }
        return bytes
    }

    private static func malformed(_ what: String) -> LibP2PSecurityError {
        LibP2PSecurityError(code: .malformed, message: "the swarm key \(what)")
    }
}
