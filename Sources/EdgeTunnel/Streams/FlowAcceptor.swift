import ByteStreams
import LibP2P
import Logging
import MeshCore
import Multiformats
import NIOCore
import Synchronization

/// Takes the flows of other agents, of both kinds. Any thread; each flow lives on the loop of its stream, where its
/// target is dialled.
final class FlowAcceptor: Sendable {
    struct Counters: Sendable, Hashable {
        /// Flows whose target answered, and of these those of v1.17.
        var opened: UInt64 = 0
        var openedForOriginals: UInt64 = 0
        /// Requests that were told why not.
        var refused: [OpenReply.Code: UInt64] = [:]
        /// Streams that ended, or were too slow, before they asked for anything.
        var silent: UInt64 = 0
        /// Flows whose peer left before the target answered.
        var abandoned: UInt64 = 0
    }

    let access: TargetAccess
    let tally: FlowTally
    let limits: FlowLimits
    let book: FlowTrafficBook
    let dialer: TargetDialer
    let logger: Logger
    private let host: Host
    private let naming: any PeerNaming
    private let state = Mutex(Counters())
    private let observation = Mutex<Observation?>(nil)
    /// When it was last told that targets could not be dialled for want of descriptors.
    private let shortage = Mutex<NIODeadline?>(nil)

    /// A shortage that lasts is told again after this.
    private static let shortageInterval = TimeAmount.minutes(1)

    init(
        host: Host,
        naming: any PeerNaming,
        access: TargetAccess,
        limits: FlowLimits = FlowLimits(),
        dialer: TargetDialer = .sockets,
        logger: Logger
    ) {
        self.host = host
        self.naming = naming
        self.access = access
        self.limits = limits
        self.dialer = dialer
        self.logger = logger
        self.tally = FlowTally(limits)
        self.book = FlowTrafficBook(host.group)
    }

    var counters: Counters { self.state.withLock { $0 } }

    // MARK: Life

    /// Begins to take streams, and to follow the addresses of this node's interfaces.
    func start() {
        let options = HandlerOptions(allowLimitedConnection: true)
        for dialect in FlowDialect.allCases {
            self.host.handle(dialect.protocolID, options: options) { self.accept($0, dialect) }
        }
        self.readInterfaces()
        let observation = self.host.observe { [weak self] event in
            if case .addressesChanged = event { self?.readInterfaces() }
        }
        self.observation.withLock { $0 = observation }
    }

    /// Takes no new streams, and waits for the open flows until `deadline`.
    /// - Returns: how many had to be reset.
    @discardableResult
    func stop(deadline: NIODeadline) async -> Int {
        for dialect in FlowDialect.allCases { self.host.stopHandling(dialect.protocolID) }
        self.observation.withLock { $0.take() }?.cancel()
        return await self.book.drain(until: deadline)
    }

    private func readInterfaces() {
        self.access.apply(interfaces: self.host.configuration.interfaces.addresses().map(\.address))
    }

    // MARK: Flows

    private func accept(_ stream: InboundStream, _ dialect: FlowDialect) -> EventLoopFuture<Void> {
        let (channel, peer) = (stream.channel, stream.connection.remotePeer)
        if let limit = self.tally.enter(peer) {
            self.refuse(channel, dialect, .overloaded, "the agent is at its limit: \(limit)")
            return channel.eventLoop.makeSucceededVoidFuture()
        }
        let traffic = self.book.on(channel.eventLoop)
        traffic?.began(channel)
        let bound = NIOLoopBound(traffic, eventLoop: channel.eventLoop)
        channel.closeFuture.whenComplete { _ in
            self.tally.leave(peer)
            bound.value?.ended(channel)
        }
        return channel.eventLoop.makeCompletedFuture {
            guard let traffic else {
                throw LibP2PError(code: .notAllowed, message: "the stream is on no event loop of the tunnel")
            }
            let flow = InboundFlow(self, channel, peer, dialect, traffic)
            try PreambleHandler.read(on: channel, deadline: channel.eventLoop.now + self.limits.requestTimeout) {
                flow.received($0)
            }
        }
    }

    /// Says no and ends the stream.
    func refuse(_ channel: any Channel, _ dialect: FlowDialect, _ code: OpenReply.Code, _ message: String) {
        self.count { $0.refused[code, default: 0] += 1 }
        channel.writeAndFlush(dialect.refusal(code, message), promise: nil)
        channel.close(promise: nil)
    }

    /// This node lacks what a socket takes. What it refuses is counted; the log has it once in a while.
    func noteShortage(_ error: any Error, now: NIODeadline) {
        let isNews = self.shortage.withLock { told in
            if let last = told, now - last < Self.shortageInterval { return false }
            told = now
            return true
        }
        guard isNews else { return }
        self.logger.error(
            "flows of other nodes are refused: descriptors, ports or memory are short; raise LimitNOFILE, or lower tunnelLimitConfig",
            metadata: ["error": "\(error)"]
        )
    }

    func count(_ body: (inout Counters) -> Void) {
        self.state.withLock { body(&$0) }
    }

    /// The policy's word on a request; a refusal is noted.
    func refusal(of request: FlowRequest, from peer: PeerID) -> TargetRefusal? {
        let policy = self.access.policy
        let isWrongNode = policy.isWrong(node: request.node, isLenient: request.dialect == .original)
        guard
            let reason = isWrongNode
                ? .wrongNode : policy.refusal(of: request.target, request.transport, purpose: request.purpose)
        else { return nil }
        let name = self.naming.node(of: peer) ?? "\(peer)"
        self.access.note(
            TargetAccess.Refused(
                peer: name,
                target: request.target,
                transport: request.transport,
                reason: reason,
                time: self.host.configuration.unixTime()
            )
        )
        self.logger.debug(
            "a flow of another node is refused",
            metadata: ["peer": "\(name)", "target": "\(request.target)", "reason": "\(reason.rawValue)"]
        )
        return reason
    }
}
