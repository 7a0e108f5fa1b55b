import NIOCore

/// What a peer may send on one stream.
///
/// Invariant: `credit` + `unread` <= `size`. A window update of `size - credit - unread` is due when it is at least half of
/// the window. If the last half was used up within four round trips, the window was what held the peer back: it doubles.
struct YamuxReceiveWindow {
    private(set) var size = UInt32(YamuxConfiguration.initialWindowBytes)
    /// Bytes that the peer may send still.
    private(set) var credit = UInt32(YamuxConfiguration.initialWindowBytes)
    /// Bytes that came and were not read.
    private(set) var unread: UInt32 = 0
    private var updated: NIODeadline

    init(now: NIODeadline) {
        self.updated = now
    }

    mutating func receive(_ count: UInt32) throws(YamuxError) {
        guard count <= self.credit else {
            throw .violation("\(count) bytes of data where the window has \(self.credit)")
        }
        self.credit -= count
        self.unread += count
    }

    mutating func read(_ count: Int) {
        self.unread -= min(self.unread, UInt32(clamping: count))
    }

    var isUpdateDue: Bool { self.size - self.credit - self.unread >= self.size / 2 }

    /// Takes the window update that is due.
    /// - Parameter grow: how much of the wanted growth the session affords.
    mutating func takeUpdate(
        now: NIODeadline,
        roundTripTime: TimeAmount?,
        maximum: Int,
        grow: (_ wanted: Int) -> Int
    ) -> UInt32? {
        guard self.isUpdateDue else { return nil }
        if let roundTripTime, now - self.updated < roundTripTime * 4, Int(self.size) < maximum {
            self.size += UInt32(clamping: grow(min(Int(self.size), maximum - Int(self.size))))
        }
        self.updated = now
        let delta = self.size - self.credit - self.unread
        self.credit += delta
        return delta
    }

    /// What the window grew by.
    var growth: Int { Int(self.size) - YamuxConfiguration.initialWindowBytes }
}
