import CLinux
import Glibc
import MeshCore
import NIOPosix
import Synchronization

/// Carries the frames between two network interfaces, later than they came or not at all. Runs on a thread of its own.
final class LinkForwarder: Sendable {
    /// What has happened to frames, both directions together.
    struct Counters: Sendable, Hashable {
        var carried = 0
        /// By chance, as asked, and for want of bandwidth.
        var lost = 0
        /// Because more were under way than a link holds, or an end was down.
        var dropped = 0
    }

    private struct Orders {
        var conditions: LinkConditions
        var hasChanged = false
        var stops = false
    }

    private let orders: Mutex<Orders>
    private let counts = Mutex(Counters())
    private let sockets: [Int32]
    /// A byte in this pipe wakes the thread.
    private let bell: [Int32]
    private let thread = NIOThreadPool(numberOfThreads: 1)

    /// Starts. Has to be called inside the network namespace of the two interfaces.
    init(between first: String, and second: String, _ conditions: LinkConditions, seed: UInt64) throws(LabError) {
        var descriptors: [Int32] = []
        for interface in [first, second] {
            let descriptor = clinux_packet_socket(interface)
            guard descriptor >= 0 else {
                let cause = describe(errno: errno)
                for descriptor in descriptors { close(descriptor) }
                throw LabError(.notPermitted, "cannot take the frames of \(interface)", cause: cause)
            }
            descriptors.append(descriptor)
        }
        var bell: [Int32] = [-1, -1]
        guard clinux_lab_pipe(&bell) == 0 else { throw Files.error("create", "pipe") }
        self.sockets = descriptors
        self.bell = bell
        self.orders = Mutex(Orders(conditions: conditions))
        self.thread.start()
        self.thread.submit { _ in self.run(seed: seed) }
    }

    var counters: Counters { self.counts.withLock { $0 } }

    func change(_ conditions: LinkConditions) {
        self.orders.withLock {
            $0.conditions = conditions
            $0.hasChanged = true
        }
        self.ring()
    }

    /// Frames that are under way are lost. Blocks until the thread has ended. Calling it again does nothing.
    func stop() {
        let isFirst = self.orders.withLock { orders in
            defer { orders.stops = true }
            return !orders.stops
        }
        guard isFirst else { return }
        self.ring()
        try? self.thread.syncShutdownGracefully()
        for descriptor in self.sockets + self.bell { close(descriptor) }
    }

    private func ring() {
        var byte: UInt8 = 0
        _ = write(self.bell[1], &byte, 1)
    }

    // MARK: On the thread

    private func run(seed: UInt64) {
        let conditions = self.orders.withLock { $0.conditions }
        var there = LinkDirection(from: self.sockets[0], to: self.sockets[1], LinkShaper(conditions, seed: seed))
        var back = LinkDirection(from: self.sockets[1], to: self.sockets[0], LinkShaper(conditions, seed: ~seed))
        let descriptors = [self.sockets[0], self.sockets[1], self.bell[0]]
        var readable: UInt32 = 0
        while true {
            if readable & 4 != 0 {
                var bytes: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0]
                _ = read(self.bell[0], &bytes, bytes.count)
                let (orders, isNew) = self.orders.withLock { orders in
                    defer { orders.hasChanged = false }
                    return (orders, orders.hasChanged)
                }
                if orders.stops { return }
                if isNew {
                    there.change(orders.conditions)
                    back.change(orders.conditions)
                }
            }
            let now = MonotonicTime.now().nanoseconds
            if readable & 1 != 0 { there.take(at: now) }
            if readable & 2 != 0 { back.take(at: now) }
            let next = min(there.give(at: now), back.give(at: now))
            if readable & 3 != 0 {
                self.counts.withLock { $0 = there.counters + back.counters }
            }
            let wait = next == .max ? -1 : Int64(clamping: next - min(next, MonotonicTime.now().nanoseconds))
            readable = clinux_packet_wait(descriptors, 3, wait)
        }
    }
}

extension LinkForwarder.Counters {
    fileprivate static func + (lhs: Self, rhs: Self) -> Self {
        Self(carried: lhs.carried + rhs.carried, lost: lhs.lost + rhs.lost, dropped: lhs.dropped + rhs.dropped)
    }
}

/// Frames on their way from one socket to another, in a ring in the order in which they came.
private struct LinkDirection: ~Copyable {
    /// Ethernet frames with an MTU of up to 2,034 bytes.
    private static let slot = 2048
    /// Frames under way at most: 120 ms of a gigabit per second. Memory is touched only as far as it is used.
    private static let capacity = 8192
    private static let batch = Int(CLINUX_PACKET_BATCH)
    /// The other end has no room now.
    private static let retry: UInt64 = 100_000

    private(set) var counters = LinkForwarder.Counters()
    private let source: Int32
    private let destination: Int32
    private var shaper: LinkShaper
    // Raw memory: the same bytes are read and written without a copy, and a debug build is to be quick too. One batch more
    // than the ring holds, for what comes when it is full.
    private let frames = UnsafeMutablePointer<UInt8>.allocate(capacity: (Self.capacity + Self.batch) * Self.slot)
    private let lengths = UnsafeMutablePointer<UInt16>.allocate(capacity: Self.capacity + Self.batch)
    private let departures = UnsafeMutablePointer<UInt64>.allocate(capacity: Self.capacity)
    private var head = 0
    private var count = 0

    init(from source: Int32, to destination: Int32, _ shaper: LinkShaper) {
        self.source = source
        self.destination = destination
        self.shaper = shaper
    }

    deinit {
        self.frames.deallocate()
        self.lengths.deallocate()
        self.departures.deallocate()
    }

    mutating func change(_ conditions: LinkConditions) {
        self.shaper.change(conditions)
    }

    /// Takes a batch of what has come.
    mutating func take(at now: UInt64) {
        let isFull = self.count == Self.capacity
        let tail = isFull ? Self.capacity : (self.head + self.count) % Self.capacity
        let room = isFull ? Self.batch : min(Self.capacity - self.count, Self.capacity - tail, Self.batch)
        let taken = Int(
            clinux_packet_receive(
                self.source,
                self.frames + tail * Self.slot,
                Self.slot,
                self.lengths + tail,
                UInt32(room)
            )
        )
        guard taken > 0 else { return }
        guard !isFull else {
            self.counters.dropped += taken
            return
        }
        for position in tail..<tail + taken {
            if let departure = self.shaper.departure(of: Int(self.lengths[position]), at: now) {
                self.departures[position] = departure
            } else {
                self.departures[position] = 0
                self.lengths[position] = 0
                self.counters.lost += 1
            }
        }
        self.count += taken
    }

    /// Gives what is due.
    ///
    /// - Returns: When there is something to do again.
    mutating func give(at now: UInt64) -> UInt64 {
        while self.count > 0 {
            var due = 0
            let limit = min(self.count, Self.capacity - self.head, Self.batch)
            while due < limit, self.departures[self.head + due] <= now { due += 1 }
            if due == 0 { return self.departures[self.head] }
            var given = Int(
                clinux_packet_send(
                    self.destination,
                    self.frames + self.head * Self.slot,
                    Self.slot,
                    self.lengths + self.head,
                    UInt32(due)
                )
            )
            if given < 0 {
                if errno == ENOBUFS || errno == EAGAIN || errno == EINTR { return now + Self.retry }
                // That end is down.
                given = 1
                self.counters.dropped += 1
            } else {
                for position in self.head..<self.head + given where self.lengths[position] > 0 {
                    self.counters.carried += 1
                }
            }
            self.head = (self.head + given) % Self.capacity
            self.count -= given
        }
        return .max
    }
}
