import Glibc
import LinuxNetwork
import NIOCore
import NIOPosix
import PacketWire

/// One queue of the device on an event loop.
///
/// A channel reads it, one packet with its header at a time and many for each wake-up. Nothing is written through the channel: it
/// would join what waits into one system call, which to the device is one packet. `TunDevice.write` does that, from the same loop.
enum TunQueue {
    /// Packets that are read before the loop looks after others.
    static let batch = 64

    /// Opens queue `index` on a loop. The channel ends when the device does; the device outlives the channel.
    static func open(
        _ device: TunDevice,
        queue index: Int,
        on loop: any EventLoop,
        reader: some TunReading
    ) -> EventLoopFuture<any Channel> {
        let descriptor = fcntl(device.queues[index], F_DUPFD_CLOEXEC, 0)
        guard descriptor >= 0 else {
            return loop.makeFailedFuture(
                IOError(errnoCode: errno, reason: "cannot duplicate a queue of \(device.name)")
            )
        }
        return NIOPipeBootstrap(group: loop)
            .channelOption(.maxMessagesPerRead, value: UInt(Self.batch))
            // What does not fit is cut off without a word: room for the longest packet. The buffer is used again where the
            // reader keeps nothing of it.
            .channelOption(
                .recvAllocator,
                value: FixedSizeRecvByteBufferAllocator(capacity: VirtioNetHeader.length + 65_535)
            )
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(TunQueueHandler(reader))
                }
            }
            .takingOwnershipOfDescriptor(input: descriptor)
            .map { $0 }
    }
}

/// Takes what a queue reads, on its loop.
protocol TunReading: Sendable {
    /// A header and a packet. What is kept or changed of it has to be copied: the buffer is large, and used again if nobody has it.
    func read(_ buffer: ByteBuffer)
    /// There are no more for the moment: what was gathered can go.
    func readComplete()
}

private final class TunQueueHandler<Reader: TunReading>: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let reader: Reader

    init(_ reader: Reader) {
        self.reader = reader
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.reader.read(self.unwrapInboundIn(data))
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.reader.readComplete()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}
