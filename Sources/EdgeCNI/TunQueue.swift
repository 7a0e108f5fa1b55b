import Glibc
import LinuxNetwork
import NIOCore
import NIOPosix
import PacketWire

/// One queue of the device on an event loop.
///
/// A channel tells when there are packets, and reads the first with its header: it takes a read that does not fill the buffer, as none
/// does here, for the last one. The handler reads the others from the device itself, so that what came together leaves together.
/// Nothing is written through the channel: it would join what waits into one system call, which to the device is one packet.
/// `TunDevice.write` does that, from the same loop.
enum TunQueue {
    /// Packets that are read before the loop looks after others.
    static let batch = 64
    /// What does not fit is cut off without a word.
    static let longestRead = VirtioNetHeader.length + 65_535

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
            // The buffer is used again where the reader keeps nothing of it.
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: Self.longestRead))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let handler = TunQueueHandler(device, queue: index, reader)
                    try channel.pipeline.syncOperations.addHandler(handler)
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

    private let device: TunDevice
    private let queue: Int32
    private let reader: Reader
    private var buffer = ByteBuffer()

    init(_ device: TunDevice, queue index: Int, _ reader: Reader) {
        self.device = device
        self.queue = device.queues[index]
        self.reader = reader
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.reader.read(self.unwrapInboundIn(data))
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        for _ in 1..<TunQueue.batch {
            // New, if the reader has kept the last one.
            self.buffer.clear()
            let count = self.buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: TunQueue.longestRead) {
                TunDevice.read($0, from: self.queue) ?? 0
            }
            // What keeps the device from being read is for the channel to find.
            guard count > 0 else { break }
            self.reader.read(self.buffer)
        }
        self.reader.readComplete()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}
