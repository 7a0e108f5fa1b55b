import NIOCore
import Synchronization

/// What many sessions may hold together of bytes that came and were not read. Used from any event loop.
///
/// It tightens in steps: from half of it on no window grows; from three quarters on, peers that hold more than the others open no
/// new streams; beyond all of it the session that holds the most resets the stream that holds the most, until the rest fits.
/// Sessions that are trusted are spared as long as others hold something. So it is those who do not read that pay for it. For
/// the time that a reset takes to reach another event loop, more may be held.
public final class YamuxUnreadBudget: Sendable {
    /// What it has come to.
    public struct Metrics: Sendable, Hashable {
        /// Of the moment.
        public var bytes = 0
        public var growthsDenied: UInt64 = 0
        public var streamsRefused: UInt64 = 0
        public var streamsReset: UInt64 = 0
    }

    /// One session's part of it. Written on the session's event loop only.
    final class Account: Sendable {
        let bytes = Atomic<Int>(0)
        let isTrusted = Atomic<Bool>(false)
        let session: NIOLoopBound<YamuxHandler>

        init(_ session: NIOLoopBound<YamuxHandler>) {
            self.session = session
        }
    }

    public let maximumBytes: Int
    private let used = Atomic<Int>(0)
    /// Accounts that hold something.
    private let holders = Atomic<Int>(0)
    private let isShedding = Atomic<Bool>(false)
    private let growthsDenied = Atomic<UInt64>(0)
    private let streamsRefused = Atomic<UInt64>(0)
    private let streamsReset = Atomic<UInt64>(0)
    private let accounts = Mutex<[ObjectIdentifier: Account]>([:])

    public init(maximumBytes: Int) {
        self.maximumBytes = maximumBytes
    }

    public var metrics: Metrics {
        Metrics(
            bytes: self.used.load(ordering: .relaxed),
            growthsDenied: self.growthsDenied.load(ordering: .relaxed),
            streamsRefused: self.streamsRefused.load(ordering: .relaxed),
            streamsReset: self.streamsReset.load(ordering: .relaxed)
        )
    }

    // MARK: For sessions, on their event loops

    func open(for session: YamuxHandler, on loop: any EventLoop) -> Account {
        let account = Account(NIOLoopBound(session, eventLoop: loop))
        self.accounts.withLock { $0[ObjectIdentifier(account)] = account }
        return account
    }

    func close(_ account: Account) {
        self.add(-account.bytes.load(ordering: .relaxed), to: account)
        self.accounts.withLock { _ = $0.removeValue(forKey: ObjectIdentifier(account)) }
    }

    func add(_ bytes: Int, to account: Account) {
        guard bytes != 0 else { return }
        let (before, after) = account.bytes.add(bytes, ordering: .relaxed)
        if before == 0 {
            self.holders.add(1, ordering: .relaxed)
        } else if after == 0 {
            self.holders.subtract(1, ordering: .relaxed)
            account.isTrusted.store(false, ordering: .relaxed)
        }
        let used = self.used.add(bytes, ordering: .relaxed).newValue
        if bytes > 0, used > self.maximumBytes { self.shed() }
    }

    /// Whether a window may grow.
    func mayGrow() -> Bool {
        guard self.used.load(ordering: .relaxed) >= self.maximumBytes / 2 else { return true }
        self.growthsDenied.add(1, ordering: .relaxed)
        return false
    }

    /// Whether a session holds at least as much as the average of those that hold something, while there is little left.
    func isOverShare(_ account: Account) -> Bool {
        let used = self.used.load(ordering: .relaxed)
        guard used >= self.maximumBytes / 4 * 3 else { return false }
        let bytes = account.bytes.load(ordering: .relaxed)
        return bytes > 0 && bytes >= used / max(1, self.holders.load(ordering: .relaxed))
    }

    func countRefusal() { self.streamsRefused.add(1, ordering: .relaxed) }

    // MARK: Too much

    private func shed() {
        guard !self.isShedding.exchange(true, ordering: .acquiring) else { return }
        self.shedNext()
    }

    /// From session to session until what is held fits; each step marks a session as trusted or resets one of its streams.
    private func shedNext() {
        guard self.used.load(ordering: .relaxed) > self.maximumBytes, let account = self.fullest() else {
            // Whoever adds from now on begins anew.
            self.isShedding.store(false, ordering: .releasing)
            return
        }
        account.session.eventLoop.execute {
            if account.session.value.shedUnread(account) { self.streamsReset.add(1, ordering: .relaxed) }
            self.shedNext()
        }
    }

    private func fullest() -> Account? {
        self.accounts.withLock { accounts in
            accounts.values.filter { $0.bytes.load(ordering: .relaxed) > 0 }.max {
                ($0.isTrusted.load(ordering: .relaxed) ? 0 : 1, $0.bytes.load(ordering: .relaxed))
                    < ($1.isTrusted.load(ordering: .relaxed) ? 0 : 1, $1.bytes.load(ordering: .relaxed))
            }
        }
    }
}

extension YamuxHandler {
    func countUnread(_ bytes: Int) {
        self.unreadBytes += bytes
        if let account = self.account { self.configuration.unreadBudget?.add(bytes, to: account) }
    }

    /// Whether a stream that the peer opens is refused because this session holds so much of the budget.
    var isOverShare: Bool {
        guard let account = self.account, let budget = self.configuration.unreadBudget, budget.isOverShare(account),
            !self.events.isTrusted()
        else { return false }
        budget.countRefusal()
        return true
    }

    /// Resets the stream that holds the most. False if there was none, or if the session turned out to be trusted.
    func shedUnread(_ account: YamuxUnreadBudget.Account) -> Bool {
        if !account.isTrusted.load(ordering: .relaxed), self.events.isTrusted() {
            account.isTrusted.store(true, ordering: .relaxed)
            return false
        }
        return self.resetFullest("the streams of this host hold too many unread bytes")
    }

    /// Resets the stream that holds the most unread bytes.
    @discardableResult
    func resetFullest(_ reason: String) -> Bool {
        guard let stream = self.streams.values.max(by: { $0.retainedBytes < $1.retainedBytes }),
            stream.retainedBytes > 0
        else { return false }
        stream.reset(code: 0, error: YamuxError.limit("\(reason), \(stream.retainedBytes) of them for this stream"))
        return true
    }
}
