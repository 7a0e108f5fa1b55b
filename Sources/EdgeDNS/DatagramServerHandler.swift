import ByteStreams
import DNSWire
import MeshCore
import NIOCore

/// Answers queries that come as datagrams. The replies to one burst of reads are written into one buffer, which is reused,
/// and sent with one flush.
final class DatagramServerHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>
    typealias OutboundOut = AddressedEnvelope<ByteBuffer>

    private struct PendingReply {
        var length: Int
        var remote: SocketAddress
    }

    private let responder: QueryResponder
    private var context: ChannelHandlerContext?
    private var replies = ByteBuffer()
    private var pending: [PendingReply] = []

    /// Datagrams taken by one system call, and the room for each: queries are short.
    static let readBatch = 32
    static let readSize = 2048

    init(_ responder: QueryResponder) {
        self.responder = responder
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = self.unwrapInboundIn(data)
        // Port 0 cannot be answered.
        guard let source = TransportAddress(envelope.remoteAddress), source.port != 0 else { return }
        let start = self.replies.writerIndex
        switch self.responder.limiter.admit(source.address, now: .now()) {
        case .pass:
            let disposition = envelope.data.withUnsafeReadableBytes {
                self.responder.respond(to: $0, overTCP: false, into: &self.replies)
            }
            if case .deferred(let query) = disposition {
                self.responder.resolve(query) { [weak self] reply in
                    self?.send(reply, to: envelope.remoteAddress)
                }
            }
        case .truncate:
            self.responder.counters.rateLimited &+= 1
            envelope.data.withUnsafeReadableBytes { self.replies.writeDNSTruncatedReply(to: $0) }
        case .drop:
            self.responder.counters.rateLimited &+= 1
        }
        let length = self.replies.writerIndex - start
        if length > 0 {
            self.pending.append(PendingReply(length: length, remote: envelope.remoteAddress))
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard !self.pending.isEmpty else { return }
        for reply in self.pending {
            guard let bytes = self.replies.readSlice(length: reply.length) else { break }
            let envelope = AddressedEnvelope(remoteAddress: reply.remote, data: bytes)
            context.write(self.wrapOutboundOut(envelope), promise: nil)
        }
        self.pending.removeAll(keepingCapacity: true)
        context.flush()
        // Takes the same memory again unless a reply still waits for the socket.
        self.replies.clear()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // An ICMP error for an earlier reply: the client is gone.
    }

    private func send(_ reply: ByteBuffer, to remote: SocketAddress) {
        let envelope = AddressedEnvelope(remoteAddress: remote, data: reply)
        self.context?.writeAndFlush(self.wrapOutboundOut(envelope), promise: nil)
    }
}
