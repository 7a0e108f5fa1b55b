import GatewayRouting
import NIOCore

/// Writes HTTP/1.1 messages. Names and values are valid by then: parsers and plans let no others in.
enum HTTP1Writer {
    static func request(_ head: RequestHead, into buffer: inout ByteBuffer) {
        buffer.writeString(head.method)
        buffer.writeInteger(0x20 as UInt8)
        buffer.writeString(head.target.path)
        if let query = head.target.query {
            buffer.writeInteger(UInt8(ascii: "?"))
            buffer.writeString(query)
        }
        buffer.writeString(" HTTP/1.1\r\n")
        self.field("host", head.authority, &buffer)
        self.fields(head.fields, &buffer)
        if let upgrade = head.upgrade {
            buffer.writeString("connection: upgrade\r\n")
            self.field("upgrade", upgrade, &buffer)
        }
        switch head.body {
        case .none:
            // RFC 9110 section 8.6: a method that has content says that there is none.
            if head.method == "POST" || head.method == "PUT" || head.method == "PATCH" {
                buffer.writeString("content-length: 0\r\n")
            }
        case .known(let length): self.field("content-length", String(length), &buffer)
        case .streamed: buffer.writeString("transfer-encoding: chunked\r\n")
        }
        buffer.writeString("\r\n")
    }

    /// - Parameters:
    ///   - isChunked: a body of unknown length goes in chunks; else it ends with the connection.
    ///   - connection: the value of `Connection`, if it has one.
    static func response(_ head: ResponseHead, isChunked: Bool, connection: String?, into buffer: inout ByteBuffer) {
        buffer.writeString("HTTP/1.1 ")
        buffer.writeString(String(head.status))
        buffer.writeInteger(0x20 as UInt8)
        buffer.writeString(HTTPReason.phrase(head.status))
        buffer.writeString("\r\n")
        self.fields(head.fields, &buffer)
        if let connection { self.field("connection", connection, &buffer) }
        if !head.isInformational, head.status != 204 {
            switch head.body {
            case .none: break
            case .known(let length): self.field("content-length", String(length), &buffer)
            case .streamed: if isChunked { buffer.writeString("transfer-encoding: chunked\r\n") }
            }
        }
        buffer.writeString("\r\n")
    }

    static func chunkHead(_ size: Int, into buffer: inout ByteBuffer) {
        buffer.writeString(String(size, radix: 16))
        buffer.writeString("\r\n")
    }

    static func lastChunk(_ trailers: HeaderFields?, into buffer: inout ByteBuffer) {
        buffer.writeString("0\r\n")
        if let trailers { self.fields(trailers, &buffer) }
        buffer.writeString("\r\n")
    }

    private static func fields(_ fields: HeaderFields, _ buffer: inout ByteBuffer) {
        for field in fields.fields { self.field(field.name, field.value, &buffer) }
    }

    private static func field(_ name: String, _ value: String, _ buffer: inout ByteBuffer) {
        buffer.writeString(name)
        buffer.writeString(": ")
        buffer.writeString(value)
        buffer.writeString("\r\n")
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
