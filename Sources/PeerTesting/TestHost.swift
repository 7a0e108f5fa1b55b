import Glibc
public import LibP2P
import LibP2PSecurity
public import Logging
import Multiformats
public import NIOCore
import PeerIdentity

/// How a host for tests and benchmarks is set up: any number of streams, one transport of each kind.
public struct TestHost: Sendable {
    public var listen = ["/ip4/127.0.0.1/tcp/0"]
    public var security: [HostConfiguration.Security] = [.noise, .tls]
    /// The bytes of a PSK file, as v1.17 of the original reads it.
    public var psk: [UInt8]?
    public var logLevel = Logger.Level.critical
    /// The node whose derived identity it has, as v1.17 derives it; nil for an identity of its own.
    public var nodeName: String?
    /// Told to peers as addresses of this host, beside those of its interfaces.
    public var announce: [String] = []

    public init(
        listen: [String] = ["/ip4/127.0.0.1/tcp/0"],
        security: [HostConfiguration.Security] = [.noise, .tls],
        psk: [UInt8]? = nil
    ) {
        self.listen = listen
        self.security = security
        self.psk = psk
    }

    /// Makes and starts the host; it serves the test protocols. Whoever calls shuts it down.
    public func start(on group: any EventLoopGroup) async throws -> Host {
        var configuration = HostConfiguration(listenAddresses: try self.listen.map { try Multiaddr($0) })
        configuration.agentVersion = "p2p-peer"
        configuration.security = self.security
        configuration.preSharedKey = self.psk.map { PreSharedKey(originalFileBytes: $0) }
        // The limits of streams are those of every host. Benchmarks make many connections of one pair of peers.
        configuration.limits.systemConnections = .init(inbound: 16_384, outbound: 16_384)
        configuration.limits.peerConnections = configuration.limits.systemConnections
        configuration.limits.connectionsPerAddress = 16_384
        configuration.limits.memoryBytes = 1 << 30
        configuration.maximumInboundHandshakes = 1024
        let announced = try self.announce.map { try Multiaddr($0) }
        configuration.addressFilter = { $0 + announced }
        var logger = Logger(label: "p2p-peer")
        logger.logLevel = self.logLevel
        let identity = try self.nodeName.map { try KeyPair.derived(nodeName: $0) } ?? .generate()
        let host = try Host(identity: identity, configuration: configuration, group: group, logger: logger)
        host.add(transport: TCPTransport())
        host.add(transport: WebSocketTransport())
        TestProtocol.serveAll(on: host)
        try await host.start()
        return host
    }
}
