import DequeModule
import MeshCore
import Multiformats
import NIOCore
import PeerIdentity

/// The tables of a host, behind its one mutex. Nothing is called while it is held.
struct HostState {
    enum Phase { case running, stopping, stopped }

    struct Listener {
        let listener: any TransportListener
        /// Where it was asked to listen; the port may be zero.
        let requested: Multiaddr
    }

    struct Handler {
        let options: HandlerOptions
        let handler: StreamHandler
    }

    /// Joins of one dial: those that ask for the same.
    struct DialKey: Hashable {
        let peer: PeerID
        let directOnly: Bool
    }

    struct RunningDial {
        let future: EventLoopFuture<Connection>
        /// Empty after the dial has ended. Its contents belong to the dial's loop.
        let dial: NIOLoopBoundBox<PeerDial?>
        let loop: any EventLoop
    }

    var phase = Phase.running
    var transports: [any Transport] = []
    var listeners: [Listener] = []
    var handlers: [ProtocolID: Handler] = [:]
    var connections = ConnectionTable()
    var nextConnectionID: UInt64 = 1
    /// Channels between their acceptance or dial and the end of their handshake.
    var handshakes: [UInt64: any Channel] = [:]
    var nextHandshakeID: UInt64 = 1
    var inboundHandshakes: Admission
    var expected: ExpectedSources

    // Dials. `dials` are those that may be joined; all of them are in `allDials`.
    var dials: [DialKey: UInt64] = [:]
    var allDials: [UInt64: RunningDial] = [:]
    var nextDialID: UInt64 = 1
    /// Addresses that are being dialled, and dials that wait for their turn to dial one.
    var addressesInDial = 0
    var dialsWaiting = Deque<UInt64>()
    var backoff: DialBackoff
    var routing: (any PeerRouting)?

    // Addresses.
    var listenAddresses: [Multiaddr] = []
    var advertisedAddresses: [Multiaddr] = []
    var advertisedBySource: [String: [Multiaddr]] = [:]
    /// What peers are told of them, signed: once for all peers.
    var sealedRecord: (record: PeerRecord, bytes: [UInt8])?
    var isPushScheduled = false
    private(set) var told = ToldIdentity()

    // Observation.
    var observers: [UInt64: @Sendable (HostEvent) -> Void] = [:]
    var nextObserverID: UInt64 = 1
    var streams: [UInt64: AsyncStream<HostEvent>.Continuation] = [:]
    var metrics = HostMetrics()
    var refusalLog: TokenBucket
    var refusalsUnlogged = 0
    var maintenance: RepeatedTask?

    /// The protocols that identify tells.
    var advertisedProtocols: [ProtocolID] {
        self.handlers.filter { $0.value.options.isAdvertised }.keys.sorted()
    }

    /// What peers are to be told from here on, with a revision of its own if it is not what they were told before.
    /// - Parameter time: in seconds since 1970.
    mutating func updateTold(at time: UInt64) -> ToldIdentity {
        let protocols = self.advertisedProtocols
        let isMoved = self.told.addresses != self.advertisedAddresses || self.told.revision == 0
        guard isMoved || self.told.protocols != protocols else { return self.told }
        if isMoved {
            self.told.addresses = self.advertisedAddresses
            // Greater than any that this host has told before it was started anew.
            self.told.recordSequence = max(self.told.recordSequence + 1, time)
        }
        self.told.protocols = protocols
        self.told.revision += 1
        return self.told
    }

    init(configuration: HostConfiguration, now: NIODeadline) {
        self.inboundHandshakes = Admission(
            of: "inbound connections in their handshake",
            maximum: configuration.maximumInboundHandshakes,
            perAddress: configuration.maximumInboundHandshakesPerAddress
        )
        self.expected = ExpectedSources(maximum: configuration.simultaneousOpen.maximumExpected)
        self.backoff = DialBackoff(configuration: configuration.dial)
        self.refusalLog = TokenBucket(rate: 0.2, burst: 3, now: MonotonicTime(now))
    }
}

extension MonotonicTime {
    /// NIO's deadlines are of the same clock; of a simulated loop, of its own.
    init(_ deadline: NIODeadline) {
        self.init(nanoseconds: deadline.uptimeNanoseconds)
    }
}

/// What a host tells its peers of itself. Who was told one revision need not be told that again.
struct ToldIdentity {
    var addresses: [Multiaddr] = []
    var protocols: [ProtocolID] = []
    var revision: UInt64 = 0
    /// Of the signed record of the addresses.
    var recordSequence: UInt64 = 0
}
