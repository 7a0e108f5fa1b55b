import GatewayRouting

/// What the heads of HTTP/1 messages mean: their framing (RFC 9112 section 6), target and host (section 3.2), persistence
/// (section 9.3).
enum HTTP1Semantics {
    static func request(_ head: HTTP1HeadParser.Head, scheme: String) throws(HTTP1Error) -> RequestHead {
        let version = try self.version(head.third)
        let fields = head.fields
        guard fields.hosts <= 1, version == .http10 || fields.hosts == 1 else {
            throw HTTP1Error(fields.hosts == 0 ? "no Host" : "more than one Host")
        }
        var authority = fields.host ?? ""
        guard authority.isEmpty || ASCII.isAuthority(authority) else { throw HTTP1Error("the Host is no host") }
        var target = head.second
        if target.utf8.first != UInt8(ascii: "/") {
            if target == "*" {
                guard head.first == "OPTIONS" else { throw HTTP1Error("only OPTIONS may ask for *") }
            } else if head.first == "CONNECT" {
                throw HTTP1Error(405, "the gateway is no forward proxy: CONNECT is refused")
            } else {
                // The absolute form goes before Host (RFC 9112 section 3.2.2).
                (authority, target) = try self.absolute(target)
            }
        } else if head.first == "CONNECT" {
            throw HTTP1Error(405, "the gateway is no forward proxy: CONNECT is refused")
        }
        let body = try self.requestBody(fields, version)
        var request = RequestHead(
            method: head.first,
            scheme: scheme,
            authority: authority,
            target: try RequestTarget.checked(target),
            version: version,
            fields: fields.others,
            body: body
        )
        request.keepsAlive =
            version == .http11 ? !fields.connection.contains("close") : fields.connection.contains("keep-alive")
        if let expectation = fields.expectation {
            guard ASCII.lowercased(expectation.utf8) == "100-continue" else {
                throw HTTP1Error(417, "the gateway knows no expectation but 100-continue")
            }
            request.expectsContinue = version == .http11 && body != .none
        }
        if version == .http11, body == .none, let upgrade = fields.upgrade, fields.connection.contains("upgrade"),
            ASCII.isToken(upgrade), !ASCII.lowercased(upgrade.utf8).hasPrefix("h2")
        {
            request.upgrade = upgrade
        }
        return request
    }

    private static func version(_ text: String) throws(HTTP1Error) -> HTTPVersion {
        switch text {
        case "HTTP/1.1": return .http11
        case "HTTP/1.0": return .http10
        default:
            let bytes = Array(text.utf8)
            guard bytes.count == 8, text.hasPrefix("HTTP/"), bytes[6] == 0x2E, (0x30...0x39).contains(bytes[5]),
                (0x30...0x39).contains(bytes[7])
            else { throw HTTP1Error("no request line") }
            throw HTTP1Error(505, "the gateway speaks HTTP/1.0, HTTP/1.1 and HTTP/2")
        }
    }

    private static func absolute(_ target: String) throws(HTTP1Error) -> (authority: String, target: String) {
        let lower = ASCII.lowercased(target.utf8.prefix(8))
        let skip = lower.hasPrefix("http://") ? 7 : lower == "https://" ? 8 : 0
        guard skip > 0 else { throw HTTP1Error("a target that is neither a path nor an http URI") }
        let rest = target.utf8.dropFirst(skip)
        let end = rest.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") || $0 == UInt8(ascii: "#") }
        let authority = String(rest[..<(end ?? rest.endIndex)]) ?? ""
        guard ASCII.isAuthority(authority) else { throw HTTP1Error("a target whose host is no host") }
        let path = end.flatMap { String(rest[$0...]) } ?? ""
        return (authority, path.utf8.first == UInt8(ascii: "/") ? path : "/" + path)
    }

    private static func requestBody(
        _ fields: FramingFields,
        _ version: HTTPVersion
    ) throws(HTTP1Error) -> BodyLength {
        if fields.codings > 0 {
            guard version == .http11 else { throw HTTP1Error("HTTP/1.0 has no Transfer-Encoding") }
            guard fields.lengths == 0 else {
                throw HTTP1Error("Transfer-Encoding and Content-Length in one request")
            }
            guard fields.isChunked else { throw HTTP1Error(501, "the gateway knows no transfer coding but chunked") }
            return .streamed
        }
        guard let length = try self.contentLength(fields.length, count: fields.lengths) else { return .none }
        return length == 0 ? .none : .known(length)
    }

    /// Nil if there is none. More than one is refused, equal or not.
    /// - Parameter text: the first of them.
    static func contentLength(_ text: String?, count: Int) throws(HTTP1Error) -> UInt64? {
        guard let text else { return nil }
        guard count == 1 else { throw HTTP1Error("more than one Content-Length") }
        guard (1...18).contains(text.utf8.count), text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else {
            throw HTTP1Error("a Content-Length that is no number")
        }
        return text.utf8.reduce(0) { $0 * 10 + UInt64($1 - 0x30) }
    }

    static func response(_ head: HTTP1HeadParser.Head, method: String) throws(HTTP1Error) -> ResponseHead {
        guard head.first == "HTTP/1.1" || head.first == "HTTP/1.0", let status = Int(head.second), status >= 100 else {
            throw HTTP1Error(502, "no status line of HTTP/1")
        }
        let fields = head.fields
        let length = try self.contentLength(fields.length, count: fields.lengths)
        var response = ResponseHead(status: status, fields: fields.others)
        response.keepsAlive = head.first == "HTTP/1.1" && !fields.connection.contains("close")
        response.isChunked = fields.codings > 0
        if response.isChunked {
            guard head.first == "HTTP/1.1", length == nil else {
                throw HTTP1Error(502, "a response with two lengths")
            }
            guard fields.isChunked else {
                throw HTTP1Error(502, "a response in a transfer coding that is not chunked")
            }
            response.body = .streamed
        } else if let length {
            response.body = .known(length)
        } else {
            let hasNoContent = ResponseHead.hasNoContent(status: status, method: method)
            response.body = hasNoContent ? .none : .streamed
            if !hasNoContent { response.keepsAlive = false }
        }
        if status == 101, let upgrade = fields.upgrade { response.fields.add("upgrade", upgrade) }
        return response
    }
}

/// What of a message's fields frames it or concerns one connection only, picked out as they are read; the others go on.
struct FramingFields {
    private(set) var others = HeaderFields()
    /// The first of each, and how many there are.
    private(set) var host: String?
    private(set) var hosts = 0
    private(set) var length: String?
    private(set) var lengths = 0
    private(set) var coding: String?
    private(set) var codings = 0
    private(set) var expectation: String?
    private(set) var upgrade: String?
    /// The elements of `Connection`.
    private(set) var connection: [String] = []

    var isChunked: Bool { self.codings == 1 && self.coding.map { ASCII.lowercased($0.utf8) } == "chunked" }

    private let isOfRequest: Bool

    init(ofRequest isOfRequest: Bool) {
        self.isOfRequest = isOfRequest
        self.others.fields.reserveCapacity(12)
    }

    mutating func add(_ field: HeaderFields.Field) {
        if !self.take(field) { self.others.fields.append(field) }
    }

    /// Once all are there.
    mutating func removeNominated() {
        guard !self.connection.isEmpty else { return }
        let nominated = HeaderFields.nominated(self.connection)
        if !nominated.isEmpty { self.others.fields.removeAll { nominated.contains($0.name) } }
    }

    /// Whether the field goes no further. By the length of its name first: this is asked of every field of every message.
    private mutating func take(_ field: HeaderFields.Field) -> Bool {
        switch field.name.utf8.count {
        case 4 where self.isOfRequest && field.name == "host":
            if self.hosts == 0 { self.host = field.value }
            self.hosts += 1
        case 6 where self.isOfRequest && field.name == "expect": self.expectation = self.expectation ?? field.value
        case 7 where field.name == "upgrade": self.upgrade = self.upgrade ?? field.value
        case 10 where field.name == "connection": self.connection += HeaderFields.elements(of: field.value)
        case 14 where field.name == "content-length":
            if self.lengths == 0 { self.length = field.value }
            self.lengths += 1
        case 17 where field.name == "transfer-encoding":
            if self.codings == 0 { self.coding = field.value }
            self.codings += 1
        default: return HeaderFields.isHopByHop(field.name)
        }
        return true
    }
}
