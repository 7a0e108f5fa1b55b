import GatewayRouting
import NIOCore

/// Writes HTTP/1.1 messages. Names and values are valid by then: parsers and plans let no others in.
enum HTTP1Writer {
    static func request(_ head: RequestHead, into buffer: inout ByteBuffer) {
        let target = head.target.path.utf8.count + (head.target.query?.utf8.count ?? 0)
        let own = head.method.utf8.count + target + head.authority.utf8.count + (head.upgrade?.utf8.count ?? 0)
        HeadBytes.write(own, head.fields, into: &buffer) { bytes in
            bytes.put(head.method)
            bytes.put(" ")
            bytes.put(head.target.path)
            if let query = head.target.query {
                bytes.put("?")
                bytes.put(query)
            }
            bytes.put(" HTTP/1.1\r\n")
            bytes.field("host", head.authority)
            bytes.fields(head.fields)
            if let upgrade = head.upgrade {
                bytes.put("connection: upgrade\r\n")
                bytes.field("upgrade", upgrade)
            }
            switch head.body {
            case .none:
                // RFC 9110 section 8.6: a method that has content says that there is none.
                if head.method == "POST" || head.method == "PUT" || head.method == "PATCH" {
                    bytes.put("content-length: 0\r\n")
                }
            case .known(let length): bytes.field("content-length", String(length))
            case .streamed: bytes.put("transfer-encoding: chunked\r\n")
            }
            bytes.put("\r\n")
        }
    }

    /// - Parameters:
    ///   - isChunked: a body of unknown length goes in chunks; else it ends with the connection.
    ///   - connection: the value of `Connection`, if it has one.
    static func response(_ head: ResponseHead, isChunked: Bool, connection: String?, into buffer: inout ByteBuffer) {
        HeadBytes.write(connection?.utf8.count ?? 0, head.fields, into: &buffer) { bytes in
            bytes.put("HTTP/1.1 ")
            bytes.put(String(head.status))
            bytes.put(" ")
            bytes.put(HTTPReason.phrase(head.status))
            bytes.put("\r\n")
            bytes.fields(head.fields)
            if let connection { bytes.field("connection", connection) }
            if !head.isInformational, head.status != 204 {
                switch head.body {
                case .none: break
                case .known(let length): bytes.field("content-length", String(length))
                case .streamed: if isChunked { bytes.put("transfer-encoding: chunked\r\n") }
                }
            }
            bytes.put("\r\n")
        }
    }

    static func chunkHead(_ size: Int, into buffer: inout ByteBuffer) {
        buffer.writeString(String(size, radix: 16))
        buffer.writeString("\r\n")
    }

    static func lastChunk(_ trailers: HeaderFields?, into buffer: inout ByteBuffer) {
        HeadBytes.write(0, trailers ?? HeaderFields(), into: &buffer) { bytes in
            bytes.put("0\r\n")
            if let trailers { bytes.fields(trailers) }
            bytes.put("\r\n")
        }
    }
}

/// The bytes of a head, put behind each other in memory that is asked for at once: a buffer that is looked after for each of a
/// hundred parts costs more than all else that writing takes.
private struct HeadBytes {
    /// For a start line's own words and the fields that frame a message.
    private static let fixed = 192

    private let space: UnsafeMutableRawBufferPointer
    private var count = 0

    /// - Parameter own: how long what is neither fixed nor among the fields may be.
    static func write(
        _ own: Int,
        _ fields: HeaderFields,
        into buffer: inout ByteBuffer,
        _ body: (inout HeadBytes) -> Void
    ) {
        let size = fields.fields.reduce(Self.fixed + own) { $0 + $1.name.utf8.count + $1.value.utf8.count + 4 }
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: size) { space in
            var bytes = HeadBytes(space: space)
            body(&bytes)
            return bytes.count
        }
    }

    private init(space: UnsafeMutableRawBufferPointer) { self.space = space }

    /// Traps if there is no room.
    mutating func put(_ text: String) {
        var text = text
        text.withUTF8 { bytes in
            let end = self.count + bytes.count
            precondition(end <= self.space.count, "a head is longer than was reckoned")
            UnsafeMutableRawBufferPointer(rebasing: self.space[self.count..<end])
                .copyMemory(from: UnsafeRawBufferPointer(bytes))
            self.count = end
        }
    }

    mutating func field(_ name: String, _ value: String) {
        self.put(name)
        self.put(": ")
        self.put(value)
        self.put("\r\n")
    }

    mutating func fields(_ fields: HeaderFields) {
        for field in fields.fields { self.field(field.name, field.value) }
    }
}

/// Phrases of RFC 9110 section 15.
enum HTTPReason {
    static func phrase(_ status: Int) -> String { status == 200 ? "OK" : Self.phrases[status] ?? "" }

    private static let phrases: [Int: String] = [
        100: "Continue", 101: "Switching Protocols", 103: "Early Hints", 200: "OK", 201: "Created", 202: "Accepted",
        204: "No Content", 206: "Partial Content", 301: "Moved Permanently", 302: "Found", 303: "See Other",
        304: "Not Modified", 307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request",
        401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
        409: "Conflict", 411: "Length Required", 413: "Content Too Large", 414: "URI Too Long",
        417: "Expectation Failed", 421: "Misdirected Request", 426: "Upgrade Required", 429: "Too Many Requests",
        431: "Request Header Fields Too Large", 500: "Internal Server Error",
        502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
    ]
}
