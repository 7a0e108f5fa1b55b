import NIOCore
import PacketWire

/// Packets that one loop has read for a node whose channel lives on another. Confined to the first.
final class PacketHandover {
    /// Frames one behind the other, and of each the flow and the length with its header.
    struct Batch: Sendable {
        var frames = FrameBatch()
        var packets: [(flow: UInt32, length: Int)] = []
    }

    private let node: String
    private let target: PacketWorkerHandle
    private var batch = Batch()

    init(node: String, target: PacketWorkerHandle) {
        self.node = node
        self.target = target
    }

    /// - Parameter append: appends the packet; returns whether it has joined the one before it.
    func add(flow: UInt32, limit: Int, _ append: (inout FrameBatch) -> Bool) {
        let before = self.batch.frames.count
        let hasJoined = append(&self.batch.frames)
        let added = self.batch.frames.count - before
        if hasJoined, let last = self.batch.packets.indices.last {
            self.batch.packets[last].length += added
        } else {
            self.batch.packets.append((flow, added))
        }
        if self.batch.frames.count >= limit { self.flush() }
    }

    func flush() {
        guard !self.batch.packets.isEmpty else { return }
        let batch = self.batch
        self.batch = Batch()
        self.batch.frames = FrameBatch(capacity: batch.frames.count)
        self.batch.packets.reserveCapacity(batch.packets.count)
        self.target.run { [node] worker in worker.take(batch, to: node) }
    }
}
