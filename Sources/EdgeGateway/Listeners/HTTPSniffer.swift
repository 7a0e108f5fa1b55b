import NIOCore

/// Tells HTTP/2 with prior knowledge from HTTP/1 by a connection's first bytes (RFC 9113 section 3.4).
enum HTTPSniffer {
    private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

    static func handler(_ worker: GatewayWorker, _ client: ClientConnection) -> FirstBytesHandler {
        FirstBytesHandler(
            timeout: worker.limits.keepAliveTimeout,
            onRefused: { _ in },
            decide: { context, _, received in
                let front = received.readableBytesView.prefix(Self.preface.count)
                let isHTTP2 = Self.preface.starts(with: front)
                guard !isHTTP2 || front.count == Self.preface.count else { return false }
                try worker.installHTTP(on: context.channel, client, isHTTP2: isHTTP2)
                return true
            }
        )
    }
}
