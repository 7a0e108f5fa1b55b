public import LibP2P
import Logging
import Multiformats
public import NIOCore
import Synchronization

/// How a host finds out whether it can be reached.
public struct AutoNATConfiguration: Sendable {
    /// After the start, for connections to come about.
    public var bootDelay: TimeAmount = .seconds(5)
    public var retryInterval: TimeAmount = .seconds(90)
    public var refreshInterval: TimeAmount = .minutes(15)
    /// Between two questions to one peer.
    public var peerInterval: TimeAmount = .seconds(90)
    public var requestTimeout: TimeAmount = .seconds(30)
    public var maximumAddresses = 16
    /// Peers at private addresses are asked, too; see `AutoNATServerConfiguration.servesPrivateNetworks`.
    public var asksPrivateNetworks = false

    /// For tests on one machine.
    var asksLoopback = false

    public init() {}
}

/// Asks peers whether they can dial this host (AutoNAT 2 where the peer has it, else 1), and tells the host what comes of it: `HostEvent`
/// `.reachabilityChanged`, and advertised addresses at which it was reached. May be used from any thread.
public final class AutoNATClient: Sendable {
    private struct State {
        var tracker: ReachabilityTracker
        var asked: [PeerID: NIODeadline] = [:]
        var reached: [Multiaddr] = []
        var isAsking = false
        /// The nonces of version 2 that may come back, and those that have.
        var nonces: [UInt64: Bool] = [:]
        /// Which address is asked about first, in version 2.
        var turn = 0
        var isStopped = false
        var observation: Observation?
        var timer: Scheduled<Void>?
    }

    private static let source = "autonat"
    private static let maximumReached = 8

    let host: Host
    let configuration: AutoNATConfiguration
    private let observed: ObservedAddresses?
    private let loop: any EventLoop
    private let state: Mutex<State>

    /// - Parameter observed: addresses that are asked about besides those that the host advertises.
    public init(
        host: Host,
        observed: ObservedAddresses? = nil,
        configuration: AutoNATConfiguration = AutoNATConfiguration()
    ) {
        self.host = host
        self.observed = observed
        self.configuration = configuration
        self.loop = host.group.next()
        let tracker = ReachabilityTracker(retry: configuration.retryInterval, refresh: configuration.refreshInterval)
        self.state = Mutex(State(tracker: tracker))
    }

    public var reachability: Reachability { self.state.withLock { $0.tracker.status } }

    public func start() {
        let observation = self.host.observe { [weak self] in self?.observe($0) }
        self.state.withLock { $0.observation = observation }
        self.handleDialBack()
        self.schedule(at: self.loop.now + self.configuration.bootDelay)
    }

    public func stop() {
        let (observation, timer) = self.state.withLock { state in
            state.isStopped = true
            return (state.observation, state.timer)
        }
        observation?.cancel()
        timer?.cancel()
        self.host.stopHandling(AutoNATServer.dialBackProtocolID)
        self.host.advertise([], source: Self.source)
    }

    private func observe(_ event: HostEvent) {
        switch event {
        case .connected(let connection):
            guard connection.direction == .inbound, !connection.isRelayed, connection.remoteAddress.isPublic else {
                return
            }
            let now = self.loop.now
            self.state.withLock { $0.tracker.acceptedConnection(now: now) }
        case .addressesChanged:
            self.state.withLock { $0.tracker.addressesChanged() }
        case .identified(_, let identification) where Self.answers(identification):
            // Somebody to ask has come.
            guard self.reachability == .unknown else { return }
        default: return
        }
        self.loop.execute { self.reschedule() }
    }

    // MARK: When to ask; on the loop

    private func schedule(at deadline: NIODeadline) {
        let timer = self.loop.scheduleTask(deadline: deadline) { [weak self] () -> Void in self?.ask() }
        let before = self.state.withLock { state -> Scheduled<Void>? in
            guard !state.isStopped else { return timer }
            defer { state.timer = timer }
            return state.timer
        }
        before?.cancel()
    }

    private func reschedule() {
        let now = self.loop.now
        let next = self.state.withLock { state -> NIODeadline? in
            state.isAsking || state.isStopped ? nil : state.tracker.nextProbe ?? now
        }
        guard let next else { return }
        // Nobody is asked more than once a second, whatever happens.
        self.schedule(at: max(next, now + .seconds(1)))
    }

    private func ask() {
        let now = self.loop.now
        guard let peer = self.chosenPeer(now: now) else {
            // Looks again when somebody comes, or when the first may be asked anew.
            return self.schedule(at: now + self.configuration.peerInterval)
        }
        self.state.withLock { state in
            state.isAsking = true
            state.asked[peer] = now
            state.tracker.asked(now: now)
        }
        self.loop.runTask { try await self.ask(peer) }.whenComplete { result in
            self.record(result, from: peer)
            self.reschedule()
        }
    }

    /// Any of the connected peers that answer and were not asked of late.
    private func chosenPeer(now: NIODeadline) -> PeerID? {
        let recent = self.state.withLock { state in
            state.asked = state.asked.filter { $0.value + self.configuration.peerInterval > now }
            return state.asked
        }
        let able = Set(
            self.host.connections.filter { connection in
                !connection.isRelayed && recent[connection.remotePeer] == nil
                    && self.isAskable(connection.remoteAddress)
                    && connection.identification.map(Self.answers) ?? false
            }.map(\.remotePeer)
        ).sorted()
        guard !able.isEmpty else { return nil }
        return able[Int(self.host.configuration.randomNumber() % UInt64(able.count))]
    }

    private func isAskable(_ address: Multiaddr) -> Bool {
        address.isPublic || (self.configuration.asksPrivateNetworks && address.isPrivate)
            || (self.configuration.asksLoopback && address.isLoopback)
    }

    // MARK: Asking

    /// What a peer's answer says.
    struct Answer: Sendable {
        var outcome: ReachabilityTracker.Outcome
        var reached: Multiaddr?
    }

    private static func answers(_ peer: Identification) -> Bool {
        !peer.protocols.isDisjoint(with: [AutoNATServer.protocolID, AutoNATServer.requestProtocolID])
    }

    private func ask(_ peer: PeerID) async throws -> Answer {
        let addresses = self.addresses
        let askable = addresses.filter(self.isAskable)
        if !askable.isEmpty, self.host.peers.protocols(of: peer).contains(AutoNATServer.requestProtocolID) {
            let nonce = self.host.configuration.randomNumber()
            let turn = self.state.withLock { state in
                state.nonces[nonce] = false
                defer { state.turn += 1 }
                return state.turn % askable.count
            }
            defer { self.state.withLock { $0.nonces[nonce] = nil } }
            return try await self.askVersion2(peer, Array(askable[turn...] + askable[..<turn]), nonce: nonce)
        }
        return try await self.askVersion1(peer, addresses)
    }

    private func askVersion1(_ peer: PeerID, _ addresses: [Multiaddr]) async throws -> Answer {
        let response = try await self.exchange(
            with: peer,
            AutoNATServer.protocolID,
            maximumLength: AutoNATMessage.maximumLength
        ) { messages in
            messages.send(AutoNATMessage.dial(peer: self.host.peerID, addresses: addresses).encoded)
            guard case .response(let response) = try AutoNATMessage(try await messages.receive().get()) else {
                throw LibP2PRelayError(code: .unexpected, message: "a question where an answer is due")
            }
            return response
        }
        switch response.status {
        case .ok: return Answer(outcome: .reachable, reached: response.address?.withoutPeerID)
        case .dialError: return Answer(outcome: .unreachable)
        case .dialRefused, .badRequest, .internalError: return Answer(outcome: .noAnswer)
        }
    }

    /// Opens a stream, on whose loop `body` runs, and ends it.
    func exchange<Result: Sendable>(
        with peer: PeerID,
        _ protocolID: ProtocolID,
        maximumLength: Int,
        _ body: @escaping @Sendable (MessageStream) async throws -> Result
    ) async throws -> Result {
        let timeout = self.configuration.requestTimeout
        let options = OpenStreamOptions(directOnly: true, dial: false, timeout: timeout)
        let stream = try await self.host.openStream(to: peer, protocols: [protocolID], options: options)
        return try await stream.channel.eventLoop.runTask {
            let messages = try MessageStream(stream, maximumLength: maximumLength, timeout: timeout)
            do {
                let result = try await body(messages)
                messages.finish()
                return result
            } catch {
                messages.reset()
                throw error
            }
        }.get()
    }

    /// True once for a nonce that was sent and has not come back yet.
    func take(nonce: UInt64) -> Bool {
        self.state.withLock { state in
            guard state.nonces[nonce] == false else { return false }
            state.nonces[nonce] = true
            return true
        }
    }

    func hasReturned(nonce: UInt64) -> Bool {
        self.state.withLock { $0.nonces[nonce] ?? false }
    }

    private var addresses: [Multiaddr] {
        var addresses: [Multiaddr] = []
        for address in self.host.advertisedAddresses + (self.observed?.candidates ?? [])
        where !address.isCircuit && !addresses.contains(address)
            && addresses.count < self.configuration.maximumAddresses
        {
            addresses.append(address)
        }
        return addresses
    }

    private func record(_ result: Result<Answer, any Error>, from peer: PeerID) {
        let answer = (try? result.get()) ?? Answer(outcome: .noAnswer)
        let (outcome, reached) = (answer.outcome, answer.reached)
        // One peer's word is not enough for an IP address that nobody else has seen.
        let known = Set(self.addresses.compactMap(\.ipAddress))
        let (changed, status, addresses) = self.state.withLock { state in
            state.isAsking = false
            let changed = state.tracker.record(outcome)
            if state.tracker.status != .publiclyReachable { state.reached = [] }
            if let reached, let ip = reached.ipAddress, known.contains(ip), !reached.isCircuit,
                !state.reached.contains(reached)
            {
                state.reached = [reached] + state.reached.prefix(Self.maximumReached - 1)
            }
            return (changed, state.tracker.status, state.reached)
        }
        self.host.logger.debug(
            "reachability",
            metadata: ["peer-id": "\(peer)", "outcome": "\(outcome)", "status": "\(status)"]
        )
        self.host.advertise(addresses, source: Self.source)
        if changed { self.host.emit(.reachabilityChanged(status)) }
    }
}
