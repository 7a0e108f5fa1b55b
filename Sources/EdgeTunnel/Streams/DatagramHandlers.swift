import ByteStreams
import Multiformats
import NIOCore

/// Turns a stream of ours into datagrams, one `ByteBuffer` each, both ways. Confined to the stream's loop.
final class FramedDatagramHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let traffic: FlowTraffic
    private var decoder = DatagramDecoder()
    private var hasDelivered = false
    private var isVoid = false

    init(_ traffic: FlowTraffic) {
        self.traffic = traffic
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isVoid else { return }
        self.decoder.append(self.unwrapInboundIn(data))
        do throws(MultiformatsError) {
            while let datagram = try self.decoder.next() {
                self.hasDelivered = true
                context.fireChannelRead(self.wrapInboundOut(datagram))
            }
        } catch {
            self.isVoid = true
            context.fireErrorCaught(error)
            context.channel.closeWithReset()
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard !self.isVoid || self.hasDelivered else { return }
        // Whoever is told may read at once.
        let hasDelivered = self.hasDelivered
        self.hasDelivered = false
        context.completeRead(hasDelivered)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard let framed = DatagramFraming.frame(self.unwrapOutboundIn(data), allocator: context.channel.allocator)
        else {
            self.traffic.datagrams.unfit &+= 1
            promise?.fail(ChannelError.writeMessageTooLarge)
            return
        }
        context.write(self.wrapOutboundOut(framed), promise: promise)
    }
}

extension ChannelHandlerContext {
    /// Ends a read of which something was passed on; asks for more otherwise, as the read that was asked for is not answered yet.
    func completeRead(_ hasDelivered: Bool) {
        if hasDelivered { self.fireChannelReadComplete() } else { self.read() }
    }
}

/// Keeps the datagrams of a flow with v1.17 to what that can carry: each is one frame of the multiplexer, and its agent reads no
/// more than this of one. Confined to the stream's loop.
final class UnframedDatagramHandler: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    static let maximumLength = 4096

    private let traffic: FlowTraffic

    init(_ traffic: FlowTraffic) {
        self.traffic = traffic
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let datagram = self.unwrapOutboundIn(data)
        guard (1...Self.maximumLength).contains(datagram.readableBytes) else {
            self.traffic.datagrams.unfit &+= 1
            promise?.fail(ChannelError.writeMessageTooLarge)
            return
        }
        // A socket's datagram lies in a buffer for the longest one.
        var copy = context.channel.allocator.buffer(capacity: datagram.readableBytes)
        copy.writeImmutableBuffer(datagram)
        context.write(self.wrapOutboundOut(copy), promise: promise)
    }
}
