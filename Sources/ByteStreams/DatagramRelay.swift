public import MeshCore
public import NIOCore
import Synchronization

/// One client's flow of datagrams to one server. Confined to its relay's loop.
open class DatagramSession {
    public let client: TransportAddress
    fileprivate let clientAddress: SocketAddress
    fileprivate var link: DatagramLink?
    fileprivate var pending: [ByteBuffer] = []
    fileprivate var isDirty = false
    public fileprivate(set) var isClosed = false

    public init(client: TransportAddress, clientAddress: SocketAddress) {
        self.client = client
        self.clientAddress = clientAddress
    }

    /// It is over; `failed` if the server could not be reached. Called once.
    open func ended(failed: Bool) {}
}

/// What the relays of one event loop have done.
public struct DatagramFigures: Sendable {
    public var sessionsOpened: UInt64 = 0
    public var sessionsOpen = 0
    public var sessionsEvicted: UInt64 = 0
    public var sessionsRefused: UInt64 = 0
    public var dropped: UInt64 = 0
    public var toServer: UInt64 = 0
    public var toClient: UInt64 = 0

    public init() {}
}

/// Shared by the relays of one event loop, and confined to it.
public final class DatagramCounters {
    public var figures = DatagramFigures()

    public init() {}
}

/// How many sessions are open, of all loops together. Any thread.
public final class SessionGauge: Sendable {
    fileprivate let count = Atomic<Int>(0)

    public init() {}

    public var value: Int { self.count.load(ordering: .relaxed) }
}

/// The sessions of one listening UDP socket, by client: passes datagrams on both ways, ends sessions that were silent for too
/// long, and gives up the one that can be spared best for a new one when there are too many. Confined to its loop.
public final class DatagramRelay {
    public struct Limits: Sendable, Hashable {
        /// Of all relays that share the gauge.
        public var maximumSessions: Int
        /// A session that was never answered, and one that was.
        public var unrepliedTimeout: TimeAmount
        public var assuredTimeout: TimeAmount

        public init(maximumSessions: Int, unrepliedTimeout: TimeAmount, assuredTimeout: TimeAmount) {
            self.maximumSessions = maximumSessions
            self.unrepliedTimeout = unrepliedTimeout
            self.assuredTimeout = assuredTimeout
        }
    }

    /// Datagrams that wait while the socket to the server is opened.
    private static let maximumPending = 16

    public let listener: any Channel
    private let counters: DatagramCounters
    private let gauge: SessionGauge
    private var maximumSessions: Int
    private var table: SessionTable<DatagramSession>
    private var sweep: RepeatedTask?
    private var toFlush: [DatagramSession] = []

    public init(listener: any Channel, limits: Limits, counters: DatagramCounters, gauge: SessionGauge) {
        self.listener = listener
        self.counters = counters
        self.gauge = gauge
        self.maximumSessions = limits.maximumSessions
        self.table = SessionTable(
            unrepliedTimeout: .nanoseconds(limits.unrepliedTimeout.nanoseconds),
            assuredTimeout: .nanoseconds(limits.assuredTimeout.nanoseconds)
        )
        let relay = NIOLoopBound(self, eventLoop: listener.eventLoop)
        self.sweep = listener.eventLoop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
            relay.value.expire()
        }
    }

    public var sessions: [DatagramSession] { self.table.all.map(\.value) }

    /// The client's session and when a datagram went by it last.
    public func session(of client: TransportAddress) -> (session: DatagramSession, lastUsed: MonotonicTime)? {
        self.table.entry(of: client).map { ($0.value, $0.lastUsed) }
    }

    /// Makes room for one session more.
    /// - Returns: false if there is none: another loop has all sessions.
    public func makeRoom() -> Bool {
        guard self.gauge.value >= self.maximumSessions else { return true }
        guard let evicted = self.table.evict() else {
            self.counters.figures.sessionsRefused += 1
            return false
        }
        self.counters.figures.sessionsEvicted += 1
        self.release(evicted)
        return true
    }

    /// Begins a session.
    /// - Parameter server: opens the way to the server, on this loop; the channel as `EndpointDialing` has it.
    public func open(_ session: DatagramSession, now: MonotonicTime, server: EventLoopFuture<any Channel>) {
        self.gauge.count.wrappingAdd(1, ordering: .relaxed)
        self.counters.figures.sessionsOpened += 1
        self.counters.figures.sessionsOpen += 1
        self.table.insert(session, for: session.client, now: now)
        server.assumeIsolated().whenComplete { result in
            switch result {
            case .success(let channel): self.connected(session, channel)
            case .failure: self.close(session, failed: true)
            }
        }
    }

    private func connected(_ session: DatagramSession, _ channel: any Channel) {
        guard !session.isClosed else { return channel.close(promise: nil) }
        let link = DatagramLink(channel, loop: self.listener.eventLoop)
        session.link = link
        let pending = session.pending
        session.pending = []
        for bytes in pending where link.write(bytes) { self.counters.figures.toServer += 1 }
        link.flush()
        link.receive(
            onDatagrams: { datagrams in
                for bytes in datagrams { self.replied(bytes, session) }
                self.listener.flush()
            },
            onDropped: { self.counters.figures.dropped += UInt64($0) },
            onEnd: { failed in self.close(session, failed: failed) }
        )
    }

    // MARK: Datagrams

    /// From the client; `flush` sends it on its way.
    public func forward(_ bytes: ByteBuffer, _ session: DatagramSession, now: MonotonicTime) {
        self.table.touch(session.client, isReply: false, now: now)
        guard let link = session.link else {
            if session.pending.count < Self.maximumPending {
                session.pending.append(bytes)
            } else {
                self.counters.figures.dropped += 1
            }
            return
        }
        guard link.write(bytes) else {
            self.counters.figures.dropped += 1
            return
        }
        self.counters.figures.toServer += 1
        if !session.isDirty {
            session.isDirty = true
            self.toFlush.append(session)
        }
    }

    public func flush() {
        for session in self.toFlush {
            session.isDirty = false
            session.link?.flush()
        }
        self.toFlush.removeAll(keepingCapacity: true)
    }

    private func replied(_ bytes: ByteBuffer, _ session: DatagramSession) {
        guard !session.isClosed else { return }
        self.table.touch(session.client, isReply: true, now: .now())
        guard self.listener.isWritable else {
            self.counters.figures.dropped += 1
            return
        }
        self.counters.figures.toClient += 1
        // From the listener's own address, which the client knows.
        self.listener.write(AddressedEnvelope(remoteAddress: session.clientAddress, data: bytes), promise: nil)
    }

    // MARK: The end of sessions

    public func close(_ session: DatagramSession, failed: Bool = false) {
        guard !session.isClosed else { return }
        self.table.remove(session.client)
        self.release(session, failed: failed)
    }

    /// Sessions that are open go on under the limits.
    public func replaceLimits(_ limits: Limits) {
        self.maximumSessions = limits.maximumSessions
        self.table.unrepliedTimeout = .nanoseconds(limits.unrepliedTimeout.nanoseconds)
        self.table.assuredTimeout = .nanoseconds(limits.assuredTimeout.nanoseconds)
    }

    /// Ends all sessions, for good.
    public func close() {
        self.sweep?.cancel()
        self.sweep = nil
        for session in self.sessions { self.close(session) }
    }

    private func expire() {
        for session in self.table.expire(now: .now()) { self.release(session) }
    }

    private func release(_ session: DatagramSession, failed: Bool = false) {
        session.isClosed = true
        session.pending = []
        session.ended(failed: failed)
        self.counters.figures.sessionsOpen -= 1
        self.gauge.count.wrappingSubtract(1, ordering: .relaxed)
        session.link?.close()
        session.link = nil
    }
}
