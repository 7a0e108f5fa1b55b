import MeshInterfaces
import NIOCore

/// A channel to the agent of another node, at the end of its pipeline. Confined to the channel's loop.
final class PeerChannel: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    let channel: any Channel
    let form: PacketChannel.Form
    /// By this agent.
    let isOpened: Bool
    private(set) var lastRead: NIODeadline
    /// Nothing more is to be sent on it.
    private(set) var isEnding = false
    private let link: PacketLink
    private var stream: PacketStream

    /// Whether packets may be sent on it.
    var isSending: Bool { !self.isEnding && (self.isOpened || self.form == .framed) }

    init(_ packets: PacketChannel, isOpened: Bool, link: PacketLink) {
        self.channel = packets.channel
        self.form = packets.form
        self.isOpened = isOpened
        self.link = link
        self.stream = PacketStream(form: packets.form)
        self.lastRead = packets.channel.eventLoop.now
    }

    /// Begins to read. Throws if the channel has ended already.
    func join() throws {
        try self.channel.pipeline.syncOperations.addHandler(self)
        // It may have become inactive on the way here: of that a handler that comes later hears nothing.
        self.channel.closeFuture.assumeIsolated().whenComplete { _ in self.ended() }
        self.channel.read()
    }

    /// The peer may send what it has begun to; it ends its half then.
    func end() {
        guard !self.isEnding else { return }
        self.isEnding = true
        self.channel.close(mode: .output, promise: nil)
    }

    func close() {
        self.isEnding = true
        self.channel.close(promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.lastRead = context.eventLoop.now
        do {
            try self.stream.take(self.unwrapInboundIn(data)) { self.link.receive($0, $1) }
        } catch {
            self.link.refuse(error)
            self.close()
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        // The device takes or drops what comes: there is nothing to wait for.
        context.read()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.link.pump()
        context.fireChannelWritabilityChanged()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { self.close() }
        if event is ChannelShouldQuiesceEvent { self.link.renew(self) }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.close() }

    func channelInactive(context: ChannelHandlerContext) {
        self.ended()
        context.fireChannelInactive()
    }

    private func ended() {
        self.isEnding = true
        self.link.ended(self)
    }
}
