import Multiformats
import NIOCore

/// Which address of a peer is dialled when. Pure: the caller gives the time and dials.
///
/// An address is due after its delay, or as soon as an earlier one has failed; at most `maximum` are dialled at once.
struct DialSchedule {
    enum Step: Equatable {
        case dial(Multiaddr)
        /// Nothing is due before.
        case wait(NIODeadline)
        /// All that may run runs.
        case busy
        /// Nothing is left and nothing runs.
        case exhausted
    }

    private struct Entry {
        let address: Multiaddr
        var due: NIODeadline
        /// It is not dialled before it is due, whatever becomes of the others.
        var isRetry = false
    }

    private let maximum: Int
    private var queue: [Entry] = []
    private var seen: Set<Multiaddr> = []
    private(set) var running = 0

    init(maximum: Int) {
        self.maximum = maximum
    }

    /// Addresses that were given before are not dialled again.
    mutating func add(_ addresses: [RankedAddress], now: NIODeadline) {
        for ranked in addresses where self.seen.insert(ranked.address).inserted {
            self.queue.append(Entry(address: ranked.address, due: now + ranked.delay))
        }
        self.queue = self.queue.enumerated().sorted { ($0.element.due, $0.offset) < ($1.element.due, $1.offset) }
            .map(\.element)
    }

    /// What to do now. After `dial`, the address counts as running.
    mutating func next(now: NIODeadline) -> Step {
        guard let first = self.queue.first else { return self.running > 0 ? .busy : .exhausted }
        guard self.running < self.maximum else { return .busy }
        guard first.due <= now || (self.running == 0 && !first.isRetry) else { return .wait(first.due) }
        self.queue.removeFirst()
        self.running += 1
        return .dial(first.address)
    }

    /// The address could not be dialled yet; it comes first when asked again.
    mutating func postpone(_ address: Multiaddr, now: NIODeadline) {
        self.running -= 1
        self.queue.insert(Entry(address: address, due: now), at: 0)
    }

    /// A dial has failed: the next address need not wait for its turn.
    mutating func failed(now: NIODeadline) {
        self.running -= 1
        if let next = self.queue.firstIndex(where: { !$0.isRetry }) {
            var entry = self.queue.remove(at: next)
            entry.due = min(entry.due, now)
            self.enqueue(entry)
        }
    }

    /// A dial has failed, and is to be done again.
    mutating func retry(_ address: Multiaddr, due: NIODeadline) {
        self.running -= 1
        self.enqueue(Entry(address: address, due: due, isRetry: true))
    }

    private mutating func enqueue(_ entry: Entry) {
        let place = self.queue.firstIndex { $0.due > entry.due } ?? self.queue.endIndex
        self.queue.insert(entry, at: place)
    }
}
