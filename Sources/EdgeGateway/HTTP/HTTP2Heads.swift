import GatewayRouting
import NIOHPACK

/// Heads of HTTP/2 (RFC 9113 section 8). The order and number of pseudo-header fields, names, and connection-specific fields are
/// checked by the connection before they come here.
enum HTTP2Heads {
    static func request(
        _ headers: HPACKHeaders,
        ends: Bool,
        limits: GatewayLimits
    ) throws(HTTP1Error) -> RequestHead {
        var (method, scheme, path) = ("", "", "")
        var authority: String?
        var tunnel: String?
        var expectsContinue = false
        var fields = HeaderFields()
        var cookies: [String] = []
        var hosts: [String] = []
        var (length, lengths) = (nil as String?, 0)
        var bytes = 0
        guard headers.count <= limits.headFields + 5 else { throw HTTP1Error(431, "too many fields") }
        for (name, value, _) in headers {
            bytes += name.utf8.count + value.utf8.count + 32
            guard ASCII.isValue(value) else { throw HTTP1Error("a field's value has a control character") }
            switch name {
            case ":method": method = value
            case ":scheme": scheme = value
            case ":path": path = value
            case ":authority": authority = value
            case ":protocol": tunnel = value
            case "host": hosts.append(value)
            case "content-length":
                length = length ?? value
                lengths += 1
            case "cookie": cookies.append(String(value.trimmingBlanks))
            case "te": if ASCII.lowercased(value.utf8) == "trailers" { fields.add("te", "trailers") }
            case "expect": expectsContinue = ASCII.lowercased(value.utf8) == "100-continue"
            default:
                guard name.utf8.allSatisfy({ ASCII.isTokenByte($0) && ASCII.lower($0) == $0 }), !name.isEmpty else {
                    throw HTTP1Error(
                        "a field whose name is none, or a pseudo-header field that the gateway does not know"
                    )
                }
                fields.add(name, String(value.trimmingBlanks))
            }
        }
        guard bytes <= limits.headBytes else {
            throw HTTP1Error(431, "the head is longer than \(limits.headBytes) bytes")
        }
        if let tunnel {
            guard method == "CONNECT", !ends else { throw HTTP1Error(":protocol without CONNECT, or at the end") }
            guard tunnel == "websocket" else { throw HTTP1Error(501, "the gateway tunnels no protocol but websocket") }
            // As an HTTP/1.1 client asks for it.
            method = "GET"
        }
        guard method != "CONNECT" else { throw HTTP1Error(405, "the gateway is no forward proxy: CONNECT is refused") }
        guard ASCII.isToken(method), scheme == "http" || scheme == "https" else {
            throw HTTP1Error("no method or scheme")
        }
        guard path.utf8.count <= limits.targetBytes else {
            throw HTTP1Error(414, "the target is longer than \(limits.targetBytes) bytes")
        }
        guard path != "*" || method == "OPTIONS" else { throw HTTP1Error("only OPTIONS may ask for *") }
        guard hosts.count <= 1, let host = authority ?? hosts.first, ASCII.isAuthority(host) else {
            throw HTTP1Error("no host, or one that is none")
        }
        // RFC 9113 section 8.3.1: they must not differ.
        guard hosts.first.map({ $0 == host }) ?? true else { throw HTTP1Error(":authority and Host differ") }
        if !cookies.isEmpty { fields.add("cookie", cookies.joined(separator: "; ")) }
        let contentLength = try HTTP1Semantics.contentLength(length, count: lengths)
        var request = RequestHead(
            method: method,
            scheme: scheme,
            authority: host,
            target: try RequestTarget.checked(path),
            version: .http2,
            fields: fields,
            body: ends || tunnel != nil ? .none : contentLength.map { .known($0) } ?? .streamed
        )
        request.upgrade = tunnel
        request.expectsContinue = expectsContinue && request.body != .none
        return request
    }

    static func response(_ headers: HPACKHeaders, ends: Bool, limits: GatewayLimits) -> ResponseHead? {
        var status: Int?
        var fields = HeaderFields()
        var length: UInt64?
        guard headers.count <= limits.headFields + 1 else { return nil }
        for (name, value, _) in headers {
            guard ASCII.isValue(value) else { return nil }
            switch name {
            case ":status": status = value.utf8.count == 3 ? Int(value) : nil
            case "content-length": length = UInt64(value)
            default: fields.add(name, String(value.trimmingBlanks))
            }
        }
        guard let status, status >= 100, status != 101 else { return nil }
        let body: BodyLength = length.map { .known($0) } ?? (ends ? .known(0) : .streamed)
        return ResponseHead(status: status, fields: fields, body: body)
    }

    static func trailers(_ headers: HPACKHeaders) -> HeaderFields? {
        var trailers = HeaderFields()
        for (name, value, _) in headers where !name.hasPrefix(":") && ASCII.isValue(value) && ASCII.isToken(name) {
            trailers.add(name, value)
        }
        trailers.removeForbiddenInTrailers()
        return trailers.fields.isEmpty ? nil : trailers
    }

    static func encode(_ head: RequestHead) -> HPACKHeaders {
        var headers = HPACKHeaders()
        headers.reserveCapacity(head.fields.fields.count + 5)
        headers.add(name: ":method", value: head.method)
        headers.add(name: ":scheme", value: head.scheme)
        headers.add(name: ":authority", value: head.authority)
        headers.add(name: ":path", value: head.target.text)
        if case .known(let length) = head.body { headers.add(name: "content-length", value: String(length)) }
        self.add(head.fields, to: &headers)
        return headers
    }

    static func encode(_ head: ResponseHead) -> HPACKHeaders {
        var headers = HPACKHeaders()
        headers.reserveCapacity(head.fields.fields.count + 2)
        headers.add(name: ":status", value: String(head.status))
        if case .known(let length) = head.body, !head.isInformational, head.status != 204 {
            headers.add(name: "content-length", value: String(length))
        }
        self.add(head.fields, to: &headers)
        return headers
    }

    static func encode(_ fields: HeaderFields) -> HPACKHeaders {
        var headers = HPACKHeaders()
        self.add(fields, to: &headers)
        return headers
    }

    private static func add(_ fields: HeaderFields, to headers: inout HPACKHeaders) {
        for field in fields.fields { headers.add(name: field.name, value: field.value) }
    }
}

extension String {
    fileprivate var trimmingBlanks: Substring {
        guard let first = self.utf8.first, let last = self.utf8.last, ASCII.isBlank(first) || ASCII.isBlank(last) else {
            return self[...]
        }
        return Substring(ASCII.trimmed(self.utf8))
    }
}
