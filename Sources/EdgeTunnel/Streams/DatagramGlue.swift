import ByteStreams
import NIOCore

/// Joins a stream of datagrams with the connected socket of its target. Confined to the loop that both share.
///
/// A datagram that the other side has no room for is dropped, as on any link. The flow ends when a side does, or when it was
/// silent for its timeout, which is longer once the target has answered.
final class DatagramGlue {
    private let stream: any Channel
    private let socket: any Channel
    private let traffic: FlowTraffic
    private let unrepliedTimeout: TimeAmount
    private let assuredTimeout: TimeAmount
    private var lastUsed: NIODeadline
    private var isAssured = false
    private var isOver = false
    private var timer: Scheduled<Void>?

    private init(stream: any Channel, socket: any Channel, traffic: FlowTraffic, limits: FlowLimits) {
        self.stream = stream
        self.socket = socket
        self.traffic = traffic
        self.unrepliedTimeout = limits.unrepliedTimeout
        self.assuredTimeout = limits.assuredTimeout
        self.lastUsed = stream.eventLoop.now
    }

    /// Adds its handlers at the ends of both pipelines and begins to read.
    static func join(stream: any Channel, socket: any Channel, traffic: FlowTraffic, limits: FlowLimits) throws {
        let glue = DatagramGlue(stream: stream, socket: socket, traffic: traffic, limits: limits)
        try stream.pipeline.syncOperations.addHandler(PeerSide(glue))
        try socket.pipeline.syncOperations.addHandler(TargetSide(glue))
        glue.schedule()
        try socket.syncOptions?.setOption(.autoRead, value: true)
        try stream.syncOptions?.setOption(.autoRead, value: true)
    }

    private func schedule() {
        let timeout = self.isAssured ? self.assuredTimeout : self.unrepliedTimeout
        let loop = self.stream.eventLoop
        self.timer = loop.assumeIsolated().scheduleTask(deadline: self.lastUsed + timeout) {
            // Moved only here, not with each datagram.
            let timeout = self.isAssured ? self.assuredTimeout : self.unrepliedTimeout
            if loop.now >= self.lastUsed + timeout { self.end() } else { self.schedule() }
        }
    }

    private func forward(
        _ datagram: ByteBuffer,
        to channel: any Channel,
        counter: WritableKeyPath<DatagramCounters, UInt64>
    ) {
        guard !self.isOver else { return }
        self.lastUsed = channel.eventLoop.now
        guard channel.isWritable else {
            self.traffic.datagrams.dropped &+= 1
            return
        }
        self.traffic.datagrams[keyPath: counter] &+= 1
        channel.write(datagram, promise: nil)
    }

    /// - Parameter failed: the peer is to see that the target is gone.
    private func end(failed: Bool = false) {
        guard !self.isOver else { return }
        self.isOver = true
        self.timer?.cancel()
        self.timer = nil
        if failed { self.stream.closeWithReset() } else { self.stream.close(promise: nil) }
        self.socket.close(promise: nil)
    }

    private final class PeerSide: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        private let glue: DatagramGlue

        init(_ glue: DatagramGlue) { self.glue = glue }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.glue.forward(self.unwrapInboundIn(data), to: self.glue.socket, counter: \.toTarget)
        }

        func channelReadComplete(context: ChannelHandlerContext) { self.glue.socket.flush() }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if case .inputClosed? = event as? ChannelEvent { self.glue.end() }
            context.fireUserInboundEventTriggered(event)
        }

        // The peer has reset the stream, or does not keep to its form: nothing more is said on it.
        func errorCaught(context: ChannelHandlerContext, error: any Error) { self.glue.end(failed: true) }

        func channelInactive(context: ChannelHandlerContext) {
            self.glue.end()
            context.fireChannelInactive()
        }
    }

    private final class TargetSide: ChannelInboundHandler {
        typealias InboundIn = AddressedEnvelope<ByteBuffer>

        private let glue: DatagramGlue

        init(_ glue: DatagramGlue) { self.glue = glue }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.glue.isAssured = true
            self.glue.forward(self.unwrapInboundIn(data).data, to: self.glue.stream, counter: \.toPeer)
        }

        func channelReadComplete(context: ChannelHandlerContext) { self.glue.stream.flush() }

        // Nobody listens at the target any more, by ICMP.
        func errorCaught(context: ChannelHandlerContext, error: any Error) { self.glue.end(failed: true) }

        func channelInactive(context: ChannelHandlerContext) {
            self.glue.end()
            context.fireChannelInactive()
        }
    }
}
