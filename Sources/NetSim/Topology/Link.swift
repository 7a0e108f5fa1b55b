public import NIOCore

/// What a link does to packets, in each of its directions.
public struct Link: Sendable, Hashable {
    public var delay: TimeAmount
    /// Up to this much is added to the delay, evenly distributed; packets may overtake each other.
    public var jitter: TimeAmount
    /// The share of packets that get lost; of a segment of TCP, however many packets it takes.
    public var loss: Double
    /// Bits in a second; nil for a link that is never busy.
    public var bandwidth: Int?
    /// Bytes that wait at a busy link; packets beyond are dropped.
    public var queue: Int
    public var mtu: Int
    /// Longer packets vanish, instead of being fragmented or answered by what path MTU discovery needs.
    public var dropsLongPackets: Bool

    public init(
        delay: TimeAmount = .milliseconds(5),
        jitter: TimeAmount = .zero,
        loss: Double = 0,
        bandwidth: Int? = nil,
        queue: Int = 1 << 20,
        mtu: Int = 1500,
        dropsLongPackets: Bool = false
    ) {
        self.delay = delay
        self.jitter = jitter
        self.loss = loss
        self.bandwidth = bandwidth
        self.queue = queue
        self.mtu = mtu
        self.dropsLongPackets = dropsLongPackets
    }

    /// A wire between machines in one room.
    public static let wire = Link(delay: .microseconds(100))
}

/// One direction of a link: a queue that empties at the link's bandwidth.
struct LinkQueue {
    private var idleAt = NIODeadline.uptimeNanoseconds(0)

    /// When the last byte of a packet that comes at `time` has left, or why it does not.
    mutating func send(
        _ size: Int,
        longest: Int,
        over link: Link,
        at time: NIODeadline,
        using generator: inout some RandomNumberGenerator
    ) -> Result<NIODeadline, LinkDrop> {
        if link.dropsLongPackets, longest > link.mtu { return .failure(LinkDrop(reason: .tooLong)) }
        if link.loss > 0, Double.random(in: 0..<1, using: &generator) < link.loss {
            return .failure(LinkDrop(reason: .loss))
        }
        var arrival = time + link.delay
        if link.jitter > .zero {
            arrival = arrival + .nanoseconds(Int64.random(in: 0...link.jitter.nanoseconds, using: &generator))
        }
        guard let bandwidth = link.bandwidth, bandwidth > 0 else { return .success(arrival) }
        let start = max(time, self.idleAt)
        let waiting = Double((start - time).nanoseconds) * Double(bandwidth) / 8e9
        guard waiting <= Double(link.queue) else { return .failure(LinkDrop(reason: .congestion)) }
        self.idleAt = start + .nanoseconds(Int64(Double(size) * 8e9 / Double(bandwidth)))
        return .success(arrival + (self.idleAt - time))
    }
}

struct LinkDrop: Error { let reason: DropReason }
