import DequeModule

/// Packets that wait until the channel to a peer takes them. A flow that sends more than the channel carries does not keep the others
/// waiting, and loses its own oldest packets: those are what its receiver can do least with.
///
/// Flows fall into classes by their hash, which are served in turn by bytes (deficit round robin, Shreedhar and Varghese 1995).
struct FlowQueues<Packet> {
    struct Limits: Sendable, Hashable {
        /// Bytes of all packets that wait.
        var bytes = 4 << 20
        /// Bytes of one class. At least the longest packet.
        var bytesOfClass = 1 << 20
        /// Bytes of one class beyond which senders that understand it are told to slow down, before anything is lost.
        var markedBytesOfClass = 256 << 10
        var classes = 64
        /// Bytes that a class may send before it is the next one's turn.
        var quantum = 16 << 10
    }

    private struct FlowClass {
        var packets: Deque<(packet: Packet, bytes: Int)> = []
        var bytes = 0
        var deficit = 0
    }

    let limits: Limits
    private var classes: [FlowClass]
    /// The classes that have packets, in the order of their turns.
    private var turns: Deque<Int> = []
    private(set) var bytes = 0
    private(set) var count = 0
    /// Packets that were thrown away, since the beginning.
    private(set) var dropped: UInt64 = 0

    init(limits: Limits = Limits()) {
        self.limits = limits
        self.classes = Array(repeating: FlowClass(), count: limits.classes)
    }

    var isEmpty: Bool { self.count == 0 }

    /// Adds a packet of a flow behind the others of its class, and drops old ones until the limits hold.
    mutating func append(_ packet: Packet, bytes: Int, flow: UInt32) {
        let index = Int(flow) % self.classes.count
        if self.classes[index].packets.isEmpty { self.turns.append(index) }
        self.classes[index].packets.append((packet, bytes))
        self.classes[index].bytes += bytes
        self.bytes += bytes
        self.count += 1
        while self.classes[index].bytes > self.limits.bytesOfClass { self.drop(from: index) }
        while self.bytes > self.limits.bytes { self.drop(from: self.largest) }
    }

    /// The packet whose turn it is, and whether so much waits in its class that its sender should slow down.
    mutating func next() -> (packet: Packet, isCongested: Bool)? {
        while let index = self.turns.first, let bytes = self.classes[index].packets.first?.bytes {
            if self.classes[index].deficit >= bytes {
                self.classes[index].deficit -= bytes
                let isCongested = self.classes[index].bytes > self.limits.markedBytesOfClass
                return self.take(from: index).map { ($0, isCongested) }
            }
            self.classes[index].deficit += self.limits.quantum
            self.turns.removeFirst()
            self.turns.append(index)
        }
        return nil
    }

    mutating func removeAll() {
        self = FlowQueues(limits: self.limits, dropped: self.dropped + UInt64(self.count))
    }

    private init(limits: Limits, dropped: UInt64) {
        self.init(limits: limits)
        self.dropped = dropped
    }

    private mutating func drop(from index: Int) {
        self.take(from: index)
        self.dropped += 1
    }

    /// Takes the oldest packet of a class, which has one.
    @discardableResult
    private mutating func take(from index: Int) -> Packet? {
        guard let (packet, bytes) = self.classes[index].packets.popFirst() else { return nil }
        self.classes[index].bytes -= bytes
        self.bytes -= bytes
        self.count -= 1
        if self.classes[index].packets.isEmpty {
            // A class that comes back has no credit left from before.
            self.classes[index].deficit = 0
            if let turn = self.turns.firstIndex(of: index) { self.turns.remove(at: turn) }
        }
        return packet
    }

    private var largest: Int {
        self.classes.indices.max { self.classes[$0].bytes < self.classes[$1].bytes } ?? 0
    }
}
