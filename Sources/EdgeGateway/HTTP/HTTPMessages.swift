import GatewayRouting

enum HTTPVersion: Sendable, Hashable {
    case http10
    case http11
    case http2

    var text: String {
        switch self {
        case .http10: "HTTP/1.0"
        case .http11: "HTTP/1.1"
        case .http2: "HTTP/2"
        }
    }
}

/// How long a message's content is, as far as its head tells.
enum BodyLength: Sendable, Hashable {
    case none
    case known(UInt64)
    /// Chunked, to the end of the stream, or (a response only) to the end of the connection.
    case streamed
}

/// A request as both versions of HTTP have it. What frames a message (`content-length`, `transfer-encoding`) is in `body`, not
/// among the fields, and the authority is not there as `host`.
struct RequestHead: Sendable, Hashable, GatewayRequest {
    var method: String
    var scheme: String
    /// Host and port as the client wrote them; empty if an HTTP/1.0 client named none.
    var authority: String
    /// The path is `*` for a request about the server.
    var target: RequestTarget
    var version: HTTPVersion
    var fields: HeaderFields
    var body: BodyLength
    /// The protocol to which an HTTP/1.1 client wants to switch the connection.
    var upgrade: String?
    var expectsContinue = false
    /// The connection may serve another request after this one.
    var keepsAlive = true
    /// Of the listener.
    var port: UInt16 = 0

    var path: String { self.target.path }
    var query: String? { self.target.query }

    func header(_ name: String) -> String? {
        switch name {
        case "host", ":authority": return self.authority
        default:
            guard let first = self.fields.index(of: name) else { return nil }
            let others = self.fields.fields[(first + 1)...].filter { $0.name == name }
            let value = self.fields.fields[first].value
            return others.isEmpty ? value : ([value] + others.map(\.value)).joined(separator: ",")
        }
    }

    /// RFC 9110 section 9.2.2: doing it twice is as good as once.
    var isIdempotent: Bool {
        switch self.method {
        case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE": true
        default: false
        }
    }
}

struct ResponseHead: Sendable, Hashable {
    var status: Int
    var fields: HeaderFields
    var body: BodyLength
    /// Of an HTTP/1.1 server: `body` is in chunks.
    var isChunked = false
    /// An HTTP/1.1 server's connection may have another request.
    var keepsAlive = true

    init(status: Int, fields: HeaderFields = HeaderFields(), body: BodyLength = .none) {
        self.status = status
        self.fields = fields
        self.body = body
    }

    var isInformational: Bool { (100..<200).contains(self.status) }

    /// RFC 9110 sections 9.3.2, 15.3.5, 15.4.5: such a response has no content whatever its fields say.
    static func hasNoContent(status: Int, method: String) -> Bool {
        method == "HEAD" || status < 200 || status == 204 || status == 304
    }
}

extension HeaderFields {
    /// Takes out what concerns one connection only (RFC 9110 section 7.6.1): the fields that the standard names, and those that
    /// `Connection` nominates. A nomination of what frames or routes the message is not followed: it would change what the next
    /// hop takes the message for.
    mutating func removeHopByHop() {
        let nominated = self.contains("connection") ? Self.nominated(self.elements("connection")) : []
        self.fields.removeAll { Self.isHopByHop($0.name) || nominated.contains($0.name) }
    }

    /// The fields that `Connection` takes out, of those that it names.
    static func nominated(_ elements: [String]) -> [String] {
        elements.filter { !Self.isHopByHop($0) && !Self.protected.contains($0) }
    }

    /// By the length first: this is asked of every field of every message.
    static func isHopByHop(_ name: String) -> Bool {
        switch name.utf8.count {
        case 2: name == "te"
        case 7: name == "upgrade" || name == "trailer"
        case 10: name == "connection" || name == "keep-alive"
        case 14: name == "http2-settings"
        case 16: name == "proxy-connection"
        case 17: name == "transfer-encoding"
        case 18: name == "proxy-authenticate"
        case 19: name == "proxy-authorization"
        default: false
        }
    }

    private static let protected: Set<String> = [
        "host", "content-length", "authorization", "cookie", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host",
        "x-request-id",
    ]

    /// Takes out what must not stand in trailers (RFC 9110 section 6.5.1).
    mutating func removeForbiddenInTrailers() {
        self.removeHopByHop()
        self.fields.removeAll { Self.forbiddenInTrailers.contains($0.name) }
    }

    private static let forbiddenInTrailers: Set<String> = [
        "content-length", "host", "content-encoding", "content-type", "content-range", "cache-control", "expect",
        "max-forwards", "pragma", "range", "authorization", "set-cookie", "age", "expires", "date", "location",
        "retry-after", "vary", "warning",
    ]
}

extension HeaderFields: EditableHeaders {
    mutating func remove(name: String) { self.remove(ASCII.lowercased(name.utf8)) }
    mutating func replaceOrAdd(name: String, value: String) { self.set(ASCII.lowercased(name.utf8), value) }
    mutating func add(name: String, value: String) { self.add(ASCII.lowercased(name.utf8), value) }
}

extension RequestTarget {
    /// As it is sent on.
    var text: String { self.query.map { "\(self.path)?\($0)" } ?? self.path }

    /// - Parameter text: the path and query that a client asks for.
    static func checked(_ text: some StringProtocol) throws(HTTP1Error) -> RequestTarget {
        do {
            return try RequestTarget(text)
        } catch {
            throw HTTP1Error(error == .tooLong ? 414 : 400, error.rawValue)
        }
    }
}
