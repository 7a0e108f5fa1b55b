import Multiformats
import NIOCore

/// The messages of multistream-select 1.0: a line of text that ends in `\n`, behind its length as a varint
/// (github.com/multiformats/multistream-select).
enum MultistreamFraming {
    static let header = "/multistream/1.0.0"
    static let notAvailable = "na"
    static let list = "ls"
    /// The longest line, with its end, that is taken.
    static let maximumLine = 1024

    private static let headerMessage = [UInt8(header.utf8.count + 1)] + Array("\(header)\n".utf8)

    /// Whether the bytes begin as the header does, as far as they go.
    static func mayBeHeader(_ bytes: ByteBuffer) -> Bool {
        zip(bytes.readableBytesView, Self.headerMessage).allSatisfy { $0 == $1 }
    }

    static func write(_ line: String, to buffer: inout ByteBuffer) {
        buffer.writeUnsignedVarint(UInt64(line.utf8.count + 1))
        buffer.writeString(line)
        buffer.writeInteger(UInt8(ascii: "\n"))
    }

    /// The next line without its end; nil if it is not whole yet, and nothing is consumed then.
    static func readLine(from buffer: inout ByteBuffer) throws(LibP2PError) -> String? {
        let message: ByteBuffer?
        do {
            message = try buffer.readVarintPrefixed(maximumLength: Self.maximumLine)
        } catch {
            throw LibP2PError(code: .malformed, message: "the peer does not speak multistream-select", cause: error)
        }
        guard let message else { return nil }
        let bytes = message.readableBytesView
        guard bytes.last == UInt8(ascii: "\n"),
            let line = String(validating: bytes.dropLast(), as: UTF8.self)
        else {
            throw LibP2PError(
                code: .malformed,
                message: "the peer does not speak multistream-select: a line without end"
            )
        }
        return line
    }

    /// The answer to `ls`: all names as messages, then an empty line, within one message. Cut to what `maximumLine` holds.
    static func writeList(_ names: [String], to buffer: inout ByteBuffer) {
        var body = ByteBuffer()
        for name in names where body.readableBytes + name.utf8.count + 4 <= Self.maximumLine {
            Self.write(name, to: &body)
        }
        body.writeInteger(UInt8(ascii: "\n"))
        buffer.writeVarintPrefixed(body)
    }
}
