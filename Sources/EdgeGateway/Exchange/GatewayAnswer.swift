import NIOCore

/// A response of the gateway's own.
struct GatewayAnswer {
    var head: ResponseHead
    var body = ByteBuffer()
    var trailers: HeaderFields?

    /// A refusal with its reason as text. gRPC's clients read theirs from the head (its HTTP/2 protocol, "Responses").
    /// - Parameter detail: names the reason in a field, too.
    static func make(_ status: Int, _ reason: String, to request: RequestHead?, detail: Bool) -> GatewayAnswer {
        let text = String(reason.unicodeScalars.map { ASCII.isValue(String($0)) && $0.isASCII ? Character($0) : "?" })
        var fields = HeaderFields()
        if detail { fields.add("x-edgemesh-reason", text) }
        if let request, request.version == .http2, request.fields["content-type"]?.hasPrefix("application/grpc") == true
        {
            fields.add("content-type", "application/grpc")
            fields.add("grpc-status", String(self.grpcStatus(status)))
            fields.add("grpc-message", text.replacing("%", with: "%25"))
            return GatewayAnswer(head: ResponseHead(status: 200, fields: fields, body: .known(0)))
        }
        fields.add("content-type", "text/plain; charset=utf-8")
        let body = ByteBuffer(string: "edgemesh: \(text)\n")
        return GatewayAnswer(
            head: ResponseHead(status: status, fields: fields, body: .known(UInt64(body.readableBytes))),
            body: body
        )
    }

    /// grpc/doc/http-grpc-status-mapping.md
    private static func grpcStatus(_ status: Int) -> Int {
        switch status {
        case 400, 431: 13
        case 401: 16
        case 403: 7
        case 404: 12
        case 413: 8
        case 504: 4
        case 429, 502, 503: 14
        default: 2
        }
    }
}
