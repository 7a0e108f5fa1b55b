import NIOCore
import Synchronization

/// What many sessions may hold together of bytes that came and were not read, or that were written and not sent. Used from any
/// event loop.
///
/// Of unread bytes it tightens in steps: from half of it on no window grows; from three quarters on, peers that hold more than the
/// others open no new streams. Of unsent ones: from half of it on a stream is writable only while it holds little, and when all
/// is used the writes of sessions that hold more than the others fail. Beyond all of it the session that holds the most resets the
/// stream that holds the most, until the rest fits. Sessions that are trusted are spared as long as others hold something. So it
/// is those who do not read that pay for it, here or there. For the time that a reset takes to reach another event loop, more may
/// be held.
public final class YamuxByteBudget: Sendable {
    /// Which bytes it is about.
    public enum Kind: Sendable, Hashable { case unread, unsent }

    /// What it has come to.
    public struct Metrics: Sendable, Hashable {
        /// Of the moment.
        public var bytes = 0
        public var growthsDenied: UInt64 = 0
        public var streamsRefused: UInt64 = 0
        public var writesFailed: UInt64 = 0
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

    public let kind: Kind
    public let maximumBytes: Int
    private let used = Atomic<Int>(0)
    /// Accounts that hold something.
    private let holders = Atomic<Int>(0)
    private let isShedding = Atomic<Bool>(false)
    private let growthsDenied = Atomic<UInt64>(0)
    private let streamsRefused = Atomic<UInt64>(0)
    private let writesFailed = Atomic<UInt64>(0)
    private let streamsReset = Atomic<UInt64>(0)
    private let accounts = Mutex<[ObjectIdentifier: Account]>([:])

    public init(_ kind: Kind, maximumBytes: Int) {
        self.kind = kind
        self.maximumBytes = maximumBytes
    }

    public var metrics: Metrics {
        Metrics(
            bytes: self.used.load(ordering: .relaxed),
            growthsDenied: self.growthsDenied.load(ordering: .relaxed),
            streamsRefused: self.streamsRefused.load(ordering: .relaxed),
            writesFailed: self.writesFailed.load(ordering: .relaxed),
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

    /// Half of it is used: nobody is to begin to hold more.
    var isTight: Bool { self.used.load(ordering: .relaxed) >= self.maximumBytes / 2 }

    /// Whether a window may grow.
    func mayGrow() -> Bool {
        guard self.isTight else { return true }
        self.growthsDenied.add(1, ordering: .relaxed)
        return false
    }

    /// Whether a stream that the peer opens is refused: three quarters are used, and not least by this session.
    func refusesStreams(of account: Account) -> Bool {
        self.isOverShare(account, from: self.maximumBytes / 4 * 3)
    }

    func countRefusal() { self.streamsRefused.add(1, ordering: .relaxed) }

    /// Whether a write fails: it finds no room, not least because of what this session holds.
    func refusesWrite(of bytes: Int, by account: Account) -> Bool {
        self.isOverShare(account, from: self.maximumBytes - bytes + 1)
    }

    func countFailedWrite() { self.writesFailed.add(1, ordering: .relaxed) }

    /// Whether a session holds at least as much as the average of those that hold something, while `limit` is used.
    private func isOverShare(_ account: Account, from limit: Int) -> Bool {
        let used = self.used.load(ordering: .relaxed)
        guard used >= limit else { return false }
        let bytes = account.bytes.load(ordering: .relaxed)
        return bytes > 0 && bytes >= used / max(1, self.holders.load(ordering: .relaxed))
    }

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
            if account.session.value.shed(self.kind, account) { self.streamsReset.add(1, ordering: .relaxed) }
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
    /// Less than this is not told to the budget, unless nothing is left.
    static let uncountedUnsentBytes = 4096

    func countUnread(_ bytes: Int) {
        self.unreadBytes += bytes
        if let account = self.unreadAccount { self.configuration.unreadBudget?.add(bytes, to: account) }
    }

    /// Most of what is written leaves within the same tick; small writes of it do not concern other event loops.
    func countUnsent(_ bytes: Int) {
        self.unsentBytes += bytes
        guard let account = self.unsentAccount else { return }
        let news = self.unsentBytes - account.bytes.load(ordering: .relaxed)
        guard abs(news) >= Self.uncountedUnsentBytes || self.unsentBytes == 0 else { return }
        self.configuration.unsentBudget?.add(news, to: account)
    }

    /// Why these bytes may not be written; nil if they may.
    func refusal(ofWriting bytes: Int) -> YamuxError? {
        guard self.unsentBytes + bytes <= self.configuration.maximumUnsentBytes else {
            return YamuxError.limit("\(self.unsentBytes) bytes wait for the peer: write less at once")
        }
        guard let account = self.unsentAccount, let budget = self.configuration.unsentBudget,
            budget.refusesWrite(of: bytes, by: account), !self.events.isTrusted()
        else { return nil }
        budget.countFailedWrite()
        return YamuxError.limit(
            "the streams of this host hold too many unsent bytes, \(self.unsentBytes) of them for this peer: write less at once"
        )
    }

    /// Whether a stream that the peer opens is refused because this session holds so much of the budget.
    var isOverShare: Bool {
        guard let account = self.unreadAccount, let budget = self.configuration.unreadBudget,
            budget.refusesStreams(of: account), !self.events.isTrusted()
        else { return false }
        budget.countRefusal()
        return true
    }

    /// Resets the stream that holds the most. False if there was none, or if the session turned out to be trusted.
    func shed(_ kind: YamuxByteBudget.Kind, _ account: YamuxByteBudget.Account) -> Bool {
        if !account.isTrusted.load(ordering: .relaxed), self.events.isTrusted() {
            account.isTrusted.store(true, ordering: .relaxed)
            return false
        }
        return self.resetFullest(kind, "the streams of this host hold too many \(kind) bytes")
    }

    /// Resets the stream that holds the most unread or unsent bytes.
    @discardableResult
    func resetFullest(_ kind: YamuxByteBudget.Kind, _ reason: String) -> Bool {
        func held(_ stream: YamuxStreamChannel) -> Int {
            kind == .unread ? stream.retainedBytes : stream.unsentBytes
        }
        guard let stream = self.streams.values.max(by: { held($0) < held($1) }), held(stream) > 0 else { return false }
        stream.reset(code: 0, error: YamuxError.limit("\(reason), \(held(stream)) of them for this stream"))
        return true
    }
}
