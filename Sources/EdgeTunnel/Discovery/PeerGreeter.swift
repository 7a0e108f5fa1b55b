import DequeModule
import LibP2P
import Logging
import Multiformats
import NIOCore
import Synchronization

/// Connects to peers that were discovered and exchanges names with them: agents of v1.17 know this node only by that if its key is not
/// that of its name, and the first flow finds its connection made. Any thread.
final class PeerGreeter: Sendable {
    struct Configuration: Sendable {
        var maximumConcurrent = 8
        /// Peers that wait to be greeted; more are dropped, and found again.
        var maximumWaiting = 256
        /// Connected peers beyond which nobody of the local network is greeted whose node is known already: of a thousand nodes each
        /// needs few of the others.
        var enoughPeers = 64
        /// The same for those that the DHT has found, many of whom are reached by a relay alone: what keeps a connection to one of
        /// them alive costs 60 KB an hour, and a flow that needs it has it after some round trips.
        var enoughDistantPeers = 16
        var timeout: TimeAmount = .seconds(15)
    }

    struct Counters: Sendable, Hashable {
        var greeted: UInt64 = 0
        var failed: UInt64 = 0
        var dropped: UInt64 = 0
    }

    private struct State {
        var waiting = Deque<DiscoveredPeer>()
        /// Being greeted, or waiting for it.
        var known: Set<PeerID> = []
        var running = 0
        var counters = Counters()
        var observation: Observation?
    }

    private let host: Host
    private let naming: any PeerNaming
    private let exchange: DiscoveryExchange
    /// Whether the name of this node does not tell its key, so that others must be told.
    private let mustBeTold: Bool
    private let configuration: Configuration
    private let logger: Logger
    private let state = Mutex(State())

    init(
        host: Host,
        naming: any PeerNaming,
        exchange: DiscoveryExchange,
        mustBeTold: Bool,
        configuration: Configuration = Configuration(),
        logger: Logger
    ) {
        self.host = host
        self.naming = naming
        self.exchange = exchange
        self.mustBeTold = mustBeTold
        self.configuration = configuration
        self.logger = logger
    }

    var counters: Counters { self.state.withLock { $0.counters } }

    func start() {
        let observation = self.host.observe { [weak self] event in
            switch event {
            case .discovered(let found): self?.discovered(found)
            case .identified(let connection, let identification): self?.identified(connection, identification)
            default: break
            }
        }
        self.state.withLock { $0.observation = observation }
    }

    func stop() {
        let observation = self.state.withLock { state in
            state.waiting = []
            return state.observation.take()
        }
        observation?.cancel()
    }

    /// An agent of v1.17 that came by another way than discovery does not know this node's key either.
    private func identified(_ connection: Connection, _ identification: Identification) {
        guard self.mustBeTold, identification.protocols.contains(TunnelProtocol.discovery),
            !identification.protocols.contains(TunnelProtocol.flow),
            self.state.withLock({ !$0.known.contains(connection.remotePeer) })
        else { return }
        self.exchange.ask(connection, .dht).whenComplete { _ in }
    }

    private func discovered(_ found: DiscoveredPeer) {
        guard found.peer != self.host.peerID, self.host.bestConnection(to: found.peer) == nil else { return }
        let isNamed = self.naming.node(of: found.peer) != nil
        let enough = found.source == .mdns ? self.configuration.enoughPeers : self.configuration.enoughDistantPeers
        if isNamed, !self.mustBeTold, self.host.metrics.openConnections >= enough { return }
        self.state.withLock { state in
            guard !state.known.contains(found.peer) else { return }
            guard state.waiting.count < self.configuration.maximumWaiting else {
                state.counters.dropped += 1
                return
            }
            state.known.insert(found.peer)
            state.waiting.append(found)
        }
        self.next()
    }

    private func next() {
        let found = self.state.withLock { state -> DiscoveredPeer? in
            guard state.running < self.configuration.maximumConcurrent, let found = state.waiting.popFirst() else {
                return nil
            }
            state.running += 1
            return found
        }
        guard let found else { return }
        let options = DialOptions(timeout: self.configuration.timeout)
        let connected: EventLoopFuture<Connection> = self.host.connect(
            to: found.peer,
            addresses: found.addresses,
            options: options
        )
        connected.flatMap { connection in
            self.exchange.ask(connection, found.source == .mdns ? .mdns : .dht)
        }.whenComplete { result in
            self.state.withLock { state in
                state.running -= 1
                state.known.remove(found.peer)
                switch result {
                case .success: state.counters.greeted += 1
                case .failure: state.counters.failed += 1
                }
            }
            if case .failure(let error) = result {
                self.logger.debug(
                    "a discovered peer was not greeted",
                    metadata: ["peer-id": "\(found.peer)", "error": "\(error)"]
                )
            }
            self.next()
        }
    }
}

extension HostMetrics {
    var openConnections: Int { self.openConnectionsInbound + self.openConnectionsOutbound }
}
