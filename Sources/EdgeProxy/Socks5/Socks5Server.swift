import ByteStreams
public import Documents
import KubeModel
public import Logging
public import MeshCore
public import MeshInterfaces
public import NIOCore
import NIOPosix
public import ServiceLifecycle
import Synchronization

/// The SOCKS5 proxy of a node, by which its programs reach nodes and services of the mesh by name, such as `ssh` to a node.
///
/// Runs until shutdown; then its connections are reset.
public final class Socks5Server: ServiceLifecycle.Service, StatusReporting {
    public struct Settings: Sendable, Hashable {
        public var address: TransportAddress
        public var reach: EndpointReach
        public var clusterDomain: String
        public var dialTimeout: TimeAmount
        /// Nil if everyone on the node may use it.
        var credentials: Socks5StateMachine.Credentials?

        public init(
            address: TransportAddress,
            reach: EndpointReach,
            clusterDomain: String = "cluster.local",
            dialTimeout: TimeAmount = .seconds(10),
            user: String? = nil,
            password: String = ""
        ) {
            self.address = address
            self.reach = reach
            self.clusterDomain = clusterDomain
            self.dialTimeout = dialTimeout
            self.credentials = user.map { Socks5StateMachine.Credentials(user: $0, password: password) }
        }
    }

    enum Outcome: String, CaseIterable {
        case accepted
        case served
        case refused
        case handshakeFailed
        case overLimit
    }

    private struct State {
        var open: [ObjectIdentifier: any Channel] = [:]
        var counters: [Outcome: UInt64] = [:]
        var listener: TransportAddress?
    }

    static let handshakeTimeout = TimeAmount.seconds(30)
    /// Clients at once; more are reset.
    static let maximumConnections = 1_024

    public let statusName = "socks5Proxy"
    let settings: Settings
    private let catalog: any CatalogReading
    private let tunnel: (any NodeTunneling)?
    private let group: any EventLoopGroup
    private let logger: Logger
    private let state = Mutex(State())

    public init(
        settings: Settings,
        catalog: any CatalogReading,
        tunnel: (any NodeTunneling)?,
        group: any EventLoopGroup,
        logger: Logger
    ) {
        self.settings = settings
        self.catalog = catalog
        self.tunnel = tunnel
        self.group = group
        self.logger = logger
    }

    /// Where it listens; nil before it does.
    public var listenAddress: TransportAddress? { self.state.withLock { $0.listener } }

    public func run() async throws {
        let listener: any Channel
        do {
            listener = try await ServerBootstrap(group: self.group)
                .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                .serverChannelOption(SocketOption.keepAlive, value: 1)
                .serverChannelInitializer { [logger] channel in
                    channel.eventLoop.makeCompletedFuture {
                        CongestionControl.ofHost.begin(channel)
                        let pause = AcceptPause { error, isFirst in
                            guard isFirst else { return }
                            logger.error(
                                "the SOCKS5 proxy accepts nothing for a while: descriptors or memory are short; raise LimitNOFILE",
                                metadata: ["error": "\(error)"]
                            )
                        }
                        try channel.pipeline.syncOperations.addHandler(pause)
                    }
                }
                .childChannelInitializer { channel in self.admit(channel) }
                .bind(to: SocketAddress(self.settings.address)).get()
        } catch {
            throw ByteStreamsError(
                code: .listenFailed,
                message: "the SOCKS5 proxy cannot listen on \(self.settings.address): check that the port is free",
                cause: error
            )
        }
        self.state.withLock { $0.listener = listener.localAddress.flatMap { TransportAddress($0) } }
        self.logger.info("the SOCKS5 proxy listens", metadata: ["address": "\(self.settings.address)"])
        try? await gracefulShutdown()
        try? await listener.close()
        for channel in self.state.withLock({ Array($0.open.values) }) {
            channel.eventLoop.execute { channel.closeWithReset() }
        }
    }

    private func admit(_ channel: any Channel) -> EventLoopFuture<Void> {
        self.count(.accepted)
        guard self.track(channel) else {
            self.count(.overLimit)
            channel.closeWithReset()
            return channel.eventLoop.makeSucceededVoidFuture()
        }
        return channel.eventLoop.makeCompletedFuture {
            CongestionControl.ofHost.settle(channel)
            try StreamOptions.apply(to: channel)
            try channel.pipeline.syncOperations.addHandler(Socks5Connection(server: self))
        }
    }

    private func track(_ channel: any Channel) -> Bool {
        let id = ObjectIdentifier(channel)
        let isTaken = self.state.withLock { state in
            guard state.open.count < Self.maximumConnections else { return false }
            state.open[id] = channel
            return true
        }
        guard isTaken else { return false }
        channel.closeFuture.whenComplete { _ in self.state.withLock { $0.open[id] = nil } }
        return true
    }

    func count(_ outcome: Outcome) {
        self.state.withLock { $0.counters[outcome, default: 0] += 1 }
    }

    /// Opens the way to a destination. The future completes on the client's loop and fails with what `Socks5Reply` can tell.
    func dial(_ destination: Socks5Destination, from client: any Channel) -> EventLoopFuture<any Channel> {
        let loop = client.eventLoop
        let address = client.remoteAddress.flatMap { TransportAddress($0) }
        let deadline = NIODeadline.now() + self.settings.dialTimeout
        let promise = loop.makePromise(of: (any Channel).self)
        // A search through thousands of services is no work for a loop.
        promise.completeWithTask {
            let router = Socks5Router(
                snapshot: self.catalog.snapshot,
                reach: self.settings.reach,
                clusterDomain: self.settings.clusterDomain
            )
            switch try await Self.route(destination, from: address, by: router) {
            case .here(let target):
                return try await StreamConnector.connect(to: target, on: loop, deadline: deadline) {
                    $0.eventLoop.makeSucceededVoidFuture()
                }.get()
            case .tunnel(let target):
                guard let tunnel = self.tunnel else {
                    throw TunnelError(code: .notRunning, message: "edgeTunnel is not enabled on this node")
                }
                return try await tunnel.openStream(to: target, on: loop, deadline: deadline).get()
            }
        }
        return promise.futureResult
    }

    @concurrent
    private static func route(
        _ destination: Socks5Destination,
        from client: TransportAddress?,
        by router: Socks5Router
    ) async throws -> Socks5Router.Route {
        try router.route(destination, from: client)
    }

    // MARK: Once both ends are known

    /// On the loop of both.
    func glue(_ client: any Channel, _ target: any Channel, _ received: ByteBuffer, _ inputEnded: Bool) {
        let pair = GlueHandler.matchedPair(counters: GlueCounters(), lingerTimeout: .minutes(2))
        do {
            try target.pipeline.syncOperations.addHandler(pair.server)
            // In front of the connection's own handler, which has done its part.
            try client.pipeline.syncOperations.addHandler(pair.client, position: .first)
            pair.client.start(received: received, inputEnded: inputEnded)
        } catch {
            target.close(promise: nil)
            client.closeWithReset()
        }
    }

    /// On the client's loop; the target's is another.
    func move(_ client: any Channel, to target: any Channel, _ received: ByteBuffer, _ inputEnded: Bool) {
        SocketMove.move(client, to: target.eventLoop) { channel in
            channel.eventLoop.makeCompletedFuture { try StreamOptions.apply(to: channel) }
        }
        .whenComplete { result in
            guard case .success(let channel) = result, self.track(channel) else { return target.close(promise: nil) }
            self.glue(channel, target, received, inputEnded)
        }
    }

    // MARK: Status

    public func status() async -> Document {
        let (open, counters) = self.state.withLock { ($0.open.count, $0.counters) }
        return [
            "address": .string("\(self.listenAddress ?? self.settings.address)"),
            "counters": .object(Outcome.allCases.map { .init($0.rawValue, .integer(counters[$0] ?? 0)) }),
            "gauges": ["open": .integer(open)],
        ]
    }
}
