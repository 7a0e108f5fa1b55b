public import LibP2P
import Logging
import Multiformats
public import NIOCore
import PeerIdentity
import Synchronization

/// What a server of AutoNAT does for others.
public struct AutoNATServerConfiguration: Sendable {
    public var dialsPerMinute = 60
    public var dialsPerPeerAndMinute = 3
    /// Peers whose share is remembered.
    public var maximumPeers = 4096
    public var maximumAddresses = 16
    public var dialTimeout: TimeAmount = .seconds(15)
    public var requestTimeout: TimeAmount = .seconds(60)
    /// Peers seen at private addresses are served, too: in a network without the internet, "reachable" means from there.
    public var servesPrivateNetworks = false

    /// For tests on one machine.
    var servesLoopback = false

    public init() {}
}

/// Tells peers whether they can be dialled (`/libp2p/autonat/1.0.0`, and version 2), by dialling them.
///
/// The dials come from a host of its own, with another identity and other ports, so that neither an open connection nor a
/// hole in the peer's NAT makes a success of them. May be used from any thread.
public final class AutoNATServer: Sendable {
    public static let protocolID: ProtocolID = "/libp2p/autonat/1.0.0"

    let host: Host
    let configuration: AutoNATServerConfiguration
    private let dialer: Host
    private let policy: Mutex<DialBackPolicy>

    /// - Parameter transports: those that dial.
    public init(
        host: Host,
        transports: [any Transport],
        configuration: AutoNATServerConfiguration = AutoNATServerConfiguration()
    ) throws {
        self.host = host
        self.dialer = try host.makeDialer(transports: transports)
        self.configuration = configuration
        self.policy = Mutex(DialBackPolicy(configuration: configuration, now: host.group.next().now))
    }

    public func start() async throws {
        try await self.dialer.start()
        self.host.handle(Self.protocolID) { [weak self] stream in
            let loop = stream.channel.eventLoop
            guard let self else {
                return loop.makeFailedFuture(LibP2PRelayError(code: .unexpected, message: "the service has ended"))
            }
            return loop.runTask { try await self.answer(stream) }
        }
        self.handleVersion2()
    }

    public func stop() async {
        self.host.stopHandling(Self.protocolID)
        self.host.stopHandling(Self.requestProtocolID)
        await self.dialer.shutdown(deadline: self.host.group.next().now)
    }

    private func answer(_ stream: InboundStream) async throws {
        let messages = try MessageStream(
            stream,
            maximumLength: AutoNATMessage.maximumLength,
            timeout: self.configuration.requestTimeout
        )
        do {
            guard case .dial(let named, let told) = try AutoNATMessage(try await messages.receive().get()) else {
                throw LibP2PRelayError(code: .unexpected, message: "an answer where a question is due")
            }
            let response = await self.response(to: stream.connection, named: named, told: told)
            messages.send(AutoNATMessage.response(response).encoded)
            messages.finish()
        } catch {
            messages.reset()
            throw error
        }
    }

    private func response(
        to connection: Connection,
        named: PeerID?,
        told: [Multiaddr]
    ) async -> AutoNATMessage.Response {
        let peer = connection.remotePeer
        guard named == nil || named == peer else {
            return AutoNATMessage.Response(status: .badRequest, text: "this is the peer ID of another")
        }
        guard !connection.isRelayed,
            let addresses = DialBackPolicy.addresses(
                told,
                observed: connection.remoteAddress,
                own: self.host.listenAddresses,
                configuration: self.configuration
            ), !addresses.isEmpty
        else { return AutoNATMessage.Response(status: .dialRefused, text: "not from where the peer is seen") }
        let loop = connection.eventLoop
        guard self.admit(peer, now: loop.now) else {
            return AutoNATMessage.Response(status: .dialRefused, text: "too many dials")
        }
        do {
            let back = try await self.dial(peer, addresses, on: loop)
            defer { back.close() }
            return AutoNATMessage.Response(status: .ok, address: back.remoteAddress)
        } catch {
            return AutoNATMessage.Response(status: .dialError, text: "no address could be dialled")
        }
    }

    // MARK: Both versions

    func admit(_ peer: PeerID, now: NIODeadline) -> Bool {
        self.policy.withLock { $0.admit(peer, now: now) }
    }

    /// Dials as a stranger. A failure takes the whole time: it would tell closed ports from dropped packets.
    func dial(_ peer: PeerID, _ addresses: [Multiaddr], on loop: any EventLoop) async throws -> Connection {
        let end = loop.now + self.configuration.dialTimeout
        let options = DialOptions(
            reuse: .never,
            onlyGivenAddresses: true,
            directOnly: true,
            reusePort: false,
            ignoreBackoff: true,
            timeout: self.configuration.dialTimeout,
            eventLoop: loop
        )
        do {
            return try await self.dialer.connect(to: peer, addresses: addresses, options: options)
        } catch {
            try await loop.scheduleTask(deadline: end) {}.futureResult.get()
            throw error
        }
    }
}

extension Host {
    /// A host like this one but for its identity, that only dials.
    func makeDialer(transports: [any Transport]) throws -> Host {
        var configuration = self.configuration
        configuration.listenAddresses = []
        configuration.dial.reusePort = false
        configuration.dial.ranking = .noDelay
        let dialer = try Host(
            identity: .generate(),
            configuration: configuration,
            group: self.group,
            logger: self.logger
        )
        for transport in transports { dialer.add(transport: transport) }
        return dialer
    }
}
