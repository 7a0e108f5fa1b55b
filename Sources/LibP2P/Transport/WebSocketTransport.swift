import MeshCore
public import Multiformats
public import NIOCore
import NIOHTTP1
public import NIOSSL
import NIOWebSocket
import Synchronization

/// WebSocket over TCP (RFC 6455), with TLS or without: `…/tcp/80/ws`, `…/tcp/443/wss`, `…/tcp/443/tls/ws`, and
/// `…/tcp/443/tls/sni/relay.example/ws`.
///
/// The channel of a connection is the TCP socket's; handlers in its pipeline turn frames into bytes, so that what is added behind
/// them sees a connection like any other.
public final class WebSocketTransport: Transport {
    public struct Configuration: Sendable {
        /// For listeners of `/wss`; without it they are refused.
        public var serverTLS: NIOSSLContext?
        /// For dials of `/wss`. The certificate tells nothing of the peer, whose identity is proven above it.
        public var clientTLS: TLSConfiguration
        /// The path that is asked for, and the only one that is served.
        public var path = "/"
        /// The longest frame that is taken; a frame is held until it is whole.
        public var maximumFrameBytes = 256 * 1024
        /// From TCP's connection to the end of the upgrade, for accepted connections.
        public var upgradeTimeout: TimeAmount = .seconds(10)
        /// Accepted connections that are on their way to the end of the upgrade; more are closed at once. Those of one IPv4
        /// address or one IPv6 network of 64 bits have a bound of their own.
        public var maximumUpgrades = 128
        public var maximumUpgradesPerAddress = 64

        public init(serverTLS: NIOSSLContext? = nil, clientTLS: TLSConfiguration = .makeClientConfiguration()) {
            self.serverTLS = serverTLS
            self.clientTLS = clientTLS
        }
    }

    private let configuration: Configuration
    /// Made when first needed: it holds the system's trust roots.
    private let clientContext = Mutex<NIOSSLContext?>(nil)
    private let sockets: TCPSockets
    private let upgrading: Mutex<Admission>

    public init(
        configuration: Configuration = Configuration(),
        onShortage: @escaping AcceptShortage = { _, _ in }
    ) {
        self.configuration = configuration
        self.sockets = TCPSockets(onShortage: onShortage)
        self.upgrading = Mutex(
            Admission(
                of: "WebSocket upgrades at once",
                maximum: configuration.maximumUpgrades,
                perAddress: configuration.maximumUpgradesPerAddress
            )
        )
    }

    public func canDial(_ address: Multiaddr) -> Bool {
        WebSocketEndpoint(address) != nil
    }

    public func canListen(on address: Multiaddr) -> Bool {
        guard let endpoint = WebSocketEndpoint(address), address.zone == nil else { return false }
        return !endpoint.isSecure || self.configuration.serverTLS != nil
    }

    public func dial(
        _ address: Multiaddr,
        on loop: any EventLoop,
        options: TransportDialOptions
    ) -> EventLoopFuture<RawConnection> {
        guard let endpoint = WebSocketEndpoint(address) else {
            return loop.makeFailedFuture(Self.unsupported(address))
        }
        let upgraded = loop.makePromise(of: RawConnection.self)
        let tls: NIOSSLContext?
        do {
            tls = endpoint.isSecure ? try self.clientTLS() : nil
        } catch {
            upgraded.fail(error)
            return upgraded.futureResult
        }
        let configuration = self.configuration
        let zone = address.zone
        let dialled = self.sockets.dial(endpoint.address, zone: zone, on: loop, options: options) { channel in
            channel.eventLoop.makeCompletedFuture {
                if let tls {
                    try channel.pipeline.syncOperations.addHandler(
                        NIOSSLClientHandler(context: tls, serverHostname: endpoint.serverName)
                    )
                }
                try WebSocketUpgrade.addClient(
                    to: channel,
                    host: endpoint.host,
                    configuration: configuration,
                    layers: endpoint.layers
                ).cascade(to: upgraded)
            }
        }
        dialled.whenFailure { upgraded.fail($0) }
        dialled.whenSuccess { channel in
            let deadline = loop.scheduleTask(deadline: options.deadline) {
                channel.close(promise: nil)
                upgraded.fail(LibP2PError(code: .timedOut, message: "no WebSocket upgrade by \(address) in time"))
            }
            channel.closeFuture.whenComplete { _ in
                upgraded.fail(
                    LibP2PError(code: .connectionClosed, message: "\(address) closed the connection during the upgrade")
                )
            }
            upgraded.futureResult.whenComplete { result in
                deadline.cancel()
                if case .failure = result { channel.close(promise: nil) }
            }
        }
        return upgraded.futureResult
    }

    public func listen(
        on address: Multiaddr,
        group: any EventLoopGroup,
        accept: @escaping @Sendable (RawConnection) -> Void
    ) -> EventLoopFuture<any TransportListener> {
        guard let endpoint = WebSocketEndpoint(address) else {
            return group.next().makeFailedFuture(Self.unsupported(address))
        }
        let tls = endpoint.isSecure ? self.configuration.serverTLS : nil
        guard !endpoint.isSecure || tls != nil else {
            return group.next().makeFailedFuture(
                LibP2PError(code: .listenFailed, message: "\(address) needs a certificate (serverTLS)")
            )
        }
        let configuration = self.configuration
        return self.sockets.listen(on: endpoint.address, group: group) { channel in
            channel.eventLoop.makeCompletedFuture {
                let remote = try RawConnection(tcp: channel, layers: []).remoteAddress
                try self.upgrading.withLock { upgrading throws(LibP2PError) in try upgrading.admit(remote) }
                // An upgrade that is refused, failed or late ends with its channel.
                let isUpgrading = NIOLoopBoundBox(true, eventLoop: channel.eventLoop)
                let leave = { @Sendable in
                    guard isUpgrading.value else { return }
                    isUpgrading.value = false
                    self.upgrading.withLock { $0.leave(remote) }
                }
                channel.closeFuture.whenComplete { _ in leave() }
                if let tls { try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls)) }
                let upgraded = try WebSocketUpgrade.addServer(
                    to: channel,
                    configuration: configuration,
                    layers: endpoint.layers
                )
                let deadline = channel.eventLoop.scheduleTask(in: configuration.upgradeTimeout) {
                    channel.close(promise: nil)
                }
                upgraded.whenComplete { result in
                    deadline.cancel()
                    leave()
                    switch result {
                    case .success(let connection): accept(connection)
                    case .failure: channel.close(promise: nil)
                    }
                }
            }
        }.map { SocketListener($0, layers: endpoint.layers) }
    }

    private func clientTLS() throws -> NIOSSLContext {
        try self.clientContext.withLock { context in
            if let context { return context }
            let made = try NIOSSLContext(configuration: self.configuration.clientTLS)
            context = made
            return made
        }
    }

    private static func unsupported(_ address: Multiaddr) -> LibP2PError {
        LibP2PError(code: .notAllowed, message: "\(address) is no address of WebSocket")
    }
}

/// A WebSocket's multiaddr, taken apart.
struct WebSocketEndpoint {
    let address: TransportAddress
    let isSecure: Bool
    /// The name that TLS is to prove, if the address has one.
    let serverName: String?
    /// What stands above TCP in the multiaddr.
    let layers: [Multiaddr.Component]

    init?(_ multiaddr: Multiaddr) {
        guard let (address, rest) = multiaddr.tcpEndpoint else { return nil }
        self.address = address
        self.layers = Array(rest)
        switch self.layers {
        case [.ws]: (self.isSecure, self.serverName) = (false, nil)
        case [.wss], [.tls, .ws]: (self.isSecure, self.serverName) = (true, nil)
        default:
            guard self.layers.count == 3, self.layers[0] == .tls, case .sni(let name) = self.layers[1],
                self.layers[2] == .ws
            else { return nil }
            (self.isSecure, self.serverName) = (true, name)
        }
    }

    /// The value of the Host header.
    var host: String {
        self.serverName.map { "\($0):\(self.address.port)" } ?? self.address.description
    }
}
