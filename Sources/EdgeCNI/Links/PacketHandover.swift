import NIOCore
import PacketWire

/// Packets that one loop has read for a node whose channel lives on another. Confined to the first.
final class PacketHandover {
    /// Frames one behind the other, and of each the flow and the length with its header.
    struct Batch: Sendable {
        var frames = ByteBuffer()
        var packets: [(flow: UInt32, length: Int)] = []
    }

    private let node: String
    private let target: PacketWorkerHandle
    private var batch = Batch()

    init(node: String, target: PacketWorkerHandle) {
        self.node = node
        self.target = target
    }

    /// - Parameter write: appends the frame.
    func add(flow: UInt32, limit: Int, _ write: (inout ByteBuffer) -> Void) {
        let before = self.batch.frames.readableBytes
        write(&self.batch.frames)
        self.batch.packets.append((flow, self.batch.frames.readableBytes - before))
        if self.batch.frames.readableBytes >= limit { self.flush() }
    }

    func flush() {
        guard !self.batch.packets.isEmpty else { return }
        let batch = self.batch
        self.batch = Batch()
        self.batch.frames.reserveCapacity(batch.frames.readableBytes)
        self.batch.packets.reserveCapacity(batch.packets.count)
        self.target.run { [node] worker in worker.take(batch, to: node) }
    }
}
