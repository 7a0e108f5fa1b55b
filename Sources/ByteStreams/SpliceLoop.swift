import CLinux
import NIOCore

/// The pairs of a splicer and what they wait for. Confined to the splicer's thread.
struct SpliceLoop {
    enum Command: Sendable {
        case carry(SplicedPair)
        case reset(UInt64)
    }

    static let wakeupKey = UInt64.max
    private static let eventsPerTurn = 64

    private let epoll: CInt
    private let wakeup: CInt
    private var pairs: [UInt64: SplicedPair] = [:]
    /// Pairs that can move bytes at once.
    private var ready: [SplicedPair] = []
    private var events = [clinux_event](repeating: clinux_event(), count: Self.eventsPerTurn)
    /// No pair's deadline is before this time.
    private var nextDeadline = NIODeadline.distantFuture
    private var moved: (toServer: UInt64, toClient: UInt64) = (0, 0)

    init(epoll: CInt, wakeup: CInt) {
        self.epoll = epoll
        self.wakeup = wakeup
    }

    mutating func obey(_ commands: [Command]) {
        for command in commands {
            switch command {
            case .carry(let pair):
                self.pairs[pair.id] = pair
                self.queue(pair)
            case .reset(let id):
                if let pair = self.pairs[id] { self.end(pair, .reset) }
            }
        }
    }

    /// Waits for events, if no pair is ready, and gives each pair that is its turn.
    mutating func turn() {
        let timeout = self.timeout
        let count = clinux_epoll_wait(self.epoll, &self.events, CInt(Self.eventsPerTurn), timeout)
        let now = NIODeadline.now()
        for index in 0..<max(0, Int(count)) { self.note(self.events[index], now) }
        let turns = self.ready
        self.ready = []
        for pair in turns {
            pair.isQueued = false
            // It may have ended since it was queued.
            if self.pairs[pair.id] != nil { self.advance(pair, now) }
        }
        if now >= self.nextDeadline { self.endLate(now) }
    }

    mutating func resetAll() {
        for pair in self.pairs.values { self.end(pair, .reset) }
    }

    /// Bytes that went to servers and to clients since the last call.
    mutating func takeMoved() -> (toServer: UInt64, toClient: UInt64) {
        defer { self.moved = (0, 0) }
        return self.moved
    }

    private var timeout: CInt {
        if !self.ready.isEmpty { return 0 }
        if self.nextDeadline == .distantFuture { return -1 }
        // Rounded up: waking early would be waking twice.
        return CInt(clamping: max(0, (self.nextDeadline - .now()).nanoseconds) / 1_000_000 + 1)
    }

    private mutating func note(_ event: clinux_event, _ now: NIODeadline) {
        guard event.key != Self.wakeupKey else { return clinux_woken(self.wakeup) }
        // A pair that is prepared, but not carried yet, looks at its sockets when it begins.
        guard let pair = self.pairs[event.key >> 1] else { return }
        if pair.note(event.events, isServer: event.key & 1 == 1, now: now) {
            self.queue(pair)
        } else {
            self.end(pair, .reset)
        }
    }

    private mutating func queue(_ pair: SplicedPair) {
        guard !pair.isQueued else { return }
        pair.isQueued = true
        self.ready.append(pair)
    }

    private mutating func advance(_ pair: SplicedPair, _ now: NIODeadline) {
        let progress = pair.move(now: now)
        let moved = pair.takeMoved()
        self.moved.toServer &+= moved.toServer
        self.moved.toClient &+= moved.toClient
        switch progress {
        case .waits:
            if let deadline = pair.deadline { self.nextDeadline = min(self.nextDeadline, deadline.time) }
        case .goesOn: self.queue(pair)
        case .finished: self.end(pair, .finished)
        case .failed: self.end(pair, .reset)
        }
    }

    /// Deadlines move on with every byte, but nobody looks at them before the earliest that was once known.
    private mutating func endLate(_ now: NIODeadline) {
        self.nextDeadline = .distantFuture
        for pair in self.pairs.values {
            guard let deadline = pair.deadline else { continue }
            if deadline.time <= now {
                self.end(pair, deadline.ending)
            } else {
                self.nextDeadline = min(self.nextDeadline, deadline.time)
            }
        }
    }

    private mutating func end(_ pair: SplicedPair, _ ending: SocketSplicer.Ending) {
        self.pairs[pair.id] = nil
        pair.close(withReset: ending == .reset || ending == .lingered)
        let onEnd = pair.onEnd
        pair.onEnd = nil
        onEnd?(ending)
    }
}
