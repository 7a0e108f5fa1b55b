import KubeModel
import MeshCore

/// Decides what a reflector asks of the API server next, without doing it: list in pages, watch from where the list or
/// the last watch ended, and after each failure how long to wait and whether the listing must be made anew.
struct ReflectorStateMachine {
    struct Configuration: Sendable {
        var pageSize = 500
        /// The server is asked to end a watch after a random time in this range, so that a fleet does not renew in
        /// step.
        var watchSeconds = 300...600
        var backoff = Backoff(base: .milliseconds(500), cap: .seconds(30))
        /// Between tries while a permission is missing.
        var forbiddenRetry: Duration = .seconds(30)
        /// Between tries while the server does not have an optional resource.
        var absentRetry: Duration = .seconds(300)
        /// No `Retry-After` is believed beyond this.
        var longestRetryAfter: Duration = .seconds(300)
        /// An empty list is believed only when it stays empty for this long, if objects were known before. Nil: at
        /// once.
        var emptyListDoubt: Duration?
        /// So many unreadable answers to a watch in a row make it list anew.
        var malformedLimit = 3
    }

    struct ListRequest: Equatable {
        var resource: APIResource
        /// Nil: the whole list at once.
        var limit: Int?
        var continueToken: String?
        /// Empty: not sent.
        var resourceVersion: String
    }

    struct WatchRequest: Equatable {
        var resource: APIResource
        var resourceVersion: String
        var timeoutSeconds: Int
    }

    enum Step: Equatable {
        case list(ListRequest)
        case watch(WatchRequest)
        case wait(Duration)
    }

    enum Failure: Equatable {
        /// HTTP 410 or a watch event that says the same: the resource version or the continue token is too old.
        case gone
        case unauthorized(String)
        case forbidden(String)
        case notFound
        /// The server asked for patience (429, 5xx), for how long if it said so.
        case throttled(retryAfter: Duration?, String)
        case malformed(String)
        case disconnected(String)
    }

    enum Health: Equatable, Sendable {
        case connecting
        case synced
        /// Followed as far as the server permits; the mesh works without the rest.
        case limited(String)
        case failing(String)
    }

    enum Effect: Equatable {
        case syncBegan(ObjectKind)
        case syncEnded(ObjectKind)
        case refreshCredentials
        case health(Health)
    }

    private enum Phase {
        case listing(continueToken: String?, resourceVersion: String, isPaged: Bool)
        case watching(resourceVersion: String)
    }

    /// The original lists at version 0 first: whatever the server has at hand, which spares it a quorum read.
    private static let firstList = Phase.listing(continueToken: nil, resourceVersion: "0", isPaged: true)

    private let resource: WatchedResource
    private let configuration: Configuration
    private var generator: SeededGenerator
    private var backoff: Backoff
    private var candidate = 0
    private var phase = Self.firstList
    private var pendingWait: Duration?
    private var listedItems = 0
    private var knownItems: Int
    private var doubtedSince: MonotonicTime?
    private var watchIsEstablished = false
    private var hasListed = false
    /// Why a later candidate is in use though the server has an earlier one.
    private var limitation: String?
    private var unauthorizedInARow = 0
    private var malformedInARow = 0

    /// - Parameter knownItems: how many objects of this kind the last good state on disk holds.
    init(resource: WatchedResource, configuration: Configuration, knownItems: Int, seed: UInt64) {
        self.resource = resource
        self.configuration = configuration
        self.knownItems = knownItems
        self.backoff = configuration.backoff
        self.generator = SeededGenerator(seed: seed)
    }

    private var healthy: Health { self.limitation.map { .limited($0) } ?? .synced }

    /// The collection in use now.
    var current: APIResource { self.resource.candidates[self.candidate] }

    mutating func nextStep() -> Step {
        if let wait = self.pendingWait {
            self.pendingWait = nil
            return .wait(wait)
        }
        switch self.phase {
        case .listing(let token, let version, let isPaged):
            return .list(
                ListRequest(
                    resource: self.current,
                    limit: isPaged ? self.configuration.pageSize : nil,
                    continueToken: token,
                    resourceVersion: version
                )
            )
        case .watching(let version):
            let seconds = Int.random(in: self.configuration.watchSeconds, using: &self.generator)
            return .watch(
                WatchRequest(resource: self.current, resourceVersion: version, timeoutSeconds: seconds)
            )
        }
    }

    /// A page began to arrive.
    mutating func pageBegan() -> [Effect] {
        guard case .listing(nil, _, _) = self.phase else { return [] }
        self.listedItems = 0
        return [.syncBegan(self.current.kind)]
    }

    /// A page arrived whole.
    mutating func pageEnded(
        items: Int,
        continueToken: String?,
        resourceVersion: String?,
        now: MonotonicTime
    ) -> [Effect] {
        guard case .listing(_, _, let isPaged) = self.phase else { return [] }
        self.listedItems += items
        self.unauthorizedInARow = 0
        self.malformedInARow = 0
        if let continueToken, !continueToken.isEmpty {
            // The token carries the version; servers refuse to be given both.
            self.phase = .listing(continueToken: continueToken, resourceVersion: "", isPaged: isPaged)
            return []
        }
        if let doubt = self.configuration.emptyListDoubt, self.listedItems == 0, self.knownItems > 0 {
            let since = self.doubtedSince ?? now
            if now - since < doubt {
                self.doubtedSince = since
                self.phase = Self.firstList
                self.pendingWait = self.backoff.next(using: &self.generator)
                let message =
                    "lists no \(self.current) where \(self.knownItems) were known: they are kept for up to \(doubt)"
                return [.health(.failing(message))]
            }
        }
        self.doubtedSince = nil
        self.knownItems = self.listedItems
        self.hasListed = true
        self.phase = .watching(resourceVersion: resourceVersion.flatMap { $0.isEmpty ? nil : $0 } ?? "0")
        return [.syncEnded(self.current.kind)] + self.emptySyncs(except: self.current.kind)
            + [.health(self.healthy)]
    }

    /// The server accepted the watch.
    mutating func watchBegan() -> [Effect] {
        self.watchIsEstablished = true
        self.unauthorizedInARow = 0
        return [.health(self.healthy)]
    }

    /// An event or a bookmark told a newer version; nil if it told none.
    mutating func observed(resourceVersion: String?) {
        self.backoff.reset()
        self.malformedInARow = 0
        guard let resourceVersion, !resourceVersion.isEmpty else { return }
        self.phase = .watching(resourceVersion: resourceVersion)
    }

    /// The server ended the watch in good order.
    mutating func watchEnded(after lived: Duration, sawEvents: Bool) {
        self.watchIsEstablished = false
        if lived >= .seconds(5) { self.backoff.reset() }
        // A server that ends watches at once must not be asked in a tight loop.
        if !sawEvents && lived < .seconds(1) { self.waitForBackoff() }
    }

    mutating func failed(_ failure: Failure) -> [Effect] {
        let wasEstablished = self.watchIsEstablished
        self.watchIsEstablished = false
        switch failure {
        case .gone:
            return self.listAnew()
        case .unauthorized(let message):
            self.unauthorizedInARow += 1
            if self.unauthorizedInARow > 1 { self.waitForBackoff() }
            let advice = "refuses the credentials (401); check the token or certificate: \(message)"
            return [.refreshCredentials] + (self.unauthorizedInARow > 1 ? [.health(.failing(advice))] : [])
        case .forbidden(let message):
            return self.resourceIsForbidden(message)
        case .notFound:
            return self.resourceIsAbsent()
        case .throttled(let retryAfter, let message):
            self.waitForBackoff()
            if let retryAfter {
                let patience = min(retryAfter, self.configuration.longestRetryAfter)
                self.pendingWait = max(self.pendingWait ?? .zero, patience)
            }
            return [.health(.failing(message))]
        case .malformed(let message):
            self.malformedInARow += 1
            if case .watching = self.phase, self.malformedInARow < self.configuration.malformedLimit {
                self.waitForBackoff()
                return [.health(.failing(message))]
            }
            self.malformedInARow = 0
            return self.listAnew() + [.health(.failing(message))]
        case .disconnected(let message):
            self.waitForBackoff()
            // A stream that ran and broke is resumed; only if that fails too is it worth a word.
            return wasEstablished ? [] : [.health(.failing(message))]
        }
    }

    /// Version "" asks for the latest state; a token that expired on the way means that pages come too slowly, so the
    /// list is then asked for whole.
    private mutating func listAnew() -> [Effect] {
        let tokenExpired = if case .listing(.some, _, _) = self.phase { true } else { false }
        self.phase = .listing(continueToken: nil, resourceVersion: "", isPaged: !tokenExpired)
        self.waitForBackoff()
        return []
    }

    /// A ClusterRole made for an older release may not name every resource: what it grants is used, and the rest told.
    private mutating func resourceIsForbidden(_ message: String) -> [Effect] {
        let verb = if case .watching = self.phase { "watch" } else { "list" }
        let forbidden = self.current
        let advice = "does not permit to \(verb) \(forbidden); grant list and watch in a ClusterRole: \(message)"
        if !self.hasListed, self.candidate + 1 < self.resource.candidates.count {
            self.candidate += 1
            self.phase = Self.firstList
            if self.current.kind != forbidden.kind {
                self.limitation = "\(advice); \(self.current) serve until a restart"
            }
            return []
        }
        self.pendingWait = self.jittered(self.configuration.forbiddenRetry)
        guard !self.hasListed else { return [.health(.failing(advice))] }
        self.candidate = 0
        self.limitation = nil
        self.phase = Self.firstList
        return [.health(self.resource.isOptional ? .limited(advice) : .failing(advice))]
    }

    private mutating func resourceIsAbsent() -> [Effect] {
        self.phase = Self.firstList
        guard self.candidate + 1 == self.resource.candidates.count else {
            self.candidate += 1
            return []
        }
        let missing = self.current
        self.candidate = 0
        self.limitation = nil
        guard self.resource.isOptional else {
            self.waitForBackoff()
            return [.health(.failing("does not know \(missing) (404); is it a Kubernetes API server?"))]
        }
        self.knownItems = 0
        self.pendingWait = self.jittered(self.configuration.absentRetry)
        return [.syncBegan(missing.kind), .syncEnded(missing.kind), .health(.synced)]
    }

    /// The kinds of the other candidates are not followed; what a store kept of them must go.
    private func emptySyncs(except kind: ObjectKind) -> [Effect] {
        var kinds: [ObjectKind] = []
        for other in self.resource.candidates.map(\.kind) where other != kind && !kinds.contains(other) {
            kinds.append(other)
        }
        return kinds.flatMap { [.syncBegan($0), .syncEnded($0)] }
    }

    private mutating func waitForBackoff() {
        self.pendingWait = self.backoff.next(using: &self.generator)
    }

    private mutating func jittered(_ duration: Duration) -> Duration {
        let whole = duration.saturatedNanoseconds
        return .nanoseconds(Int64.random(in: (whole / 2)...whole, using: &self.generator))
    }
}
