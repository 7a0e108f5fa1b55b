import GatewayRouting

/// What the heads of HTTP/1 messages mean: their framing (RFC 9112 section 6), target and host (section 3.2), persistence
/// (section 9.3).
enum HTTP1Semantics {
    static func request(_ head: HTTP1HeadParser.Head, scheme: String) throws(HTTP1Error) -> RequestHead {
        let version = try self.version(head.third)
        var fields = head.fields
        let hosts = fields.values("host")
        guard hosts.count <= 1, version == .http10 || hosts.count == 1 else {
            throw HTTP1Error(hosts.isEmpty ? "no Host" : "more than one Host")
        }
        var authority = hosts.first ?? ""
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
        let connection = fields.contains("connection") ? fields.elements("connection") : []
        var request = RequestHead(
            method: head.first,
            scheme: scheme,
            authority: authority,
            target: try RequestTarget.checked(target),
            version: version,
            fields: HeaderFields(),
            body: body
        )
        request.keepsAlive =
            version == .http11 ? !connection.contains("close") : connection.contains("keep-alive")
        if let expectation = fields["expect"] {
            guard ASCII.lowercased(expectation.utf8) == "100-continue" else {
                throw HTTP1Error(417, "the gateway knows no expectation but 100-continue")
            }
            request.expectsContinue = version == .http11 && body != .none
        }
        if version == .http11, body == .none, connection.contains("upgrade"), let upgrade = fields["upgrade"],
            ASCII.isToken(upgrade), !ASCII.lowercased(upgrade.utf8).hasPrefix("h2")
        {
            request.upgrade = upgrade
        }
        fields.fields.removeAll { $0.name == "host" || $0.name == "content-length" || $0.name == "expect" }
        fields.removeHopByHop()
        request.fields = fields
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

    private static func requestBody(_ fields: HeaderFields, _ version: HTTPVersion) throws(HTTP1Error) -> BodyLength {
        if fields.contains("transfer-encoding") {
            guard version == .http11 else { throw HTTP1Error("HTTP/1.0 has no Transfer-Encoding") }
            guard !fields.contains("content-length") else {
                throw HTTP1Error("Transfer-Encoding and Content-Length in one request")
            }
            let values = fields.values("transfer-encoding")
            guard values.count == 1, ASCII.lowercased(values[0].utf8) == "chunked" else {
                throw HTTP1Error(501, "the gateway knows no transfer coding but chunked")
            }
            return .streamed
        }
        guard let length = try self.contentLength(fields) else { return .none }
        return length == 0 ? .none : .known(length)
    }

    /// Nil if there is none. More than one is refused, equal or not.
    static func contentLength(_ fields: HeaderFields) throws(HTTP1Error) -> UInt64? {
        let values = fields.values("content-length")
        guard let text = values.first else { return nil }
        guard values.count == 1 else { throw HTTP1Error("more than one Content-Length") }
        guard (1...18).contains(text.utf8.count), text.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            let length = UInt64(text)
        else { throw HTTP1Error("a Content-Length that is no number") }
        return length
    }

    static func response(_ head: HTTP1HeadParser.Head, method: String) throws(HTTP1Error) -> ResponseHead {
        guard head.first == "HTTP/1.1" || head.first == "HTTP/1.0", let status = Int(head.second), status >= 100 else {
            throw HTTP1Error(502, "no status line of HTTP/1")
        }
        var fields = head.fields
        let connection = fields.contains("connection") ? fields.elements("connection") : []
        let length = try self.contentLength(fields)
        var response = ResponseHead(status: status)
        response.keepsAlive = head.first == "HTTP/1.1" && !connection.contains("close")
        if fields.contains("transfer-encoding") {
            guard head.first == "HTTP/1.1", length == nil else {
                throw HTTP1Error(502, "a response with two lengths")
            }
            let values = fields.values("transfer-encoding")
            guard values.count == 1, ASCII.lowercased(values[0].utf8) == "chunked" else {
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
        let isChunked = fields.contains("transfer-encoding")
        let upgrade = status == 101 ? fields["upgrade"] : nil
        fields.fields.removeAll { $0.name == "content-length" }
        fields.removeHopByHop()
        if let upgrade { fields.add("upgrade", upgrade) }
        response.fields = fields
        response.isChunked = isChunked
        return response
    }
}
