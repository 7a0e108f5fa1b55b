import LibP2P
import Logging
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import PacketDatagrams
import Synchronization
import Testing

@testable import EdgeTunnel

/// Two agents on loopback: `near` opens channels of packets, `far` takes them.
struct PacketFixture {
    static let nearNode = "edge-near"
    static let farNode = "edge-far"

    let near: Host
    let far: Host
    let naming: TestNaming
    let channels: PacketChannels
    let opener: PacketOpener
    let farChannels: PacketChannels
    let acceptor: PacketAcceptor
    let ways: (near: PacketWays, far: PacketWays)
    let reception = PacketReception()
    let taken = TakenPackets()

    /// - Parameters:
    ///   - accepts: the far agent takes packets.
    ///   - datagrams: which of the two send by datagrams where they can.
    ///   - use: when they do; loopback is near.
    static func with(
        limits: PacketLimits = PacketLimits(),
        accepts: Bool = true,
        datagrams: (near: Bool, far: Bool) = (false, false),
        use: TunnelSettings.PacketDatagrams = .always,
        configuration: DatagramLink.Configuration = .init(),
        _ body: (PacketFixture) async throws -> Void
    ) async throws {
        let fixture = PacketFixture(try FlowFixture.host(), try FlowFixture.host(), limits, use, configuration)
        if datagrams.near { await fixture.ways.near.start(0) }
        if datagrams.far { await fixture.ways.far.start(0) }
        let taken = fixture.taken
        if accepts { fixture.reception.set { taken.take($0) } }
        fixture.acceptor.start()
        do {
            try await fixture.near.start()
            try await fixture.far.start()
            try await body(fixture)
        } catch {
            await fixture.end()
            throw error
        }
        await fixture.end()
    }

    private init(
        _ near: Host,
        _ far: Host,
        _ limits: PacketLimits,
        _ use: TunnelSettings.PacketDatagrams,
        _ configuration: DatagramLink.Configuration
    ) {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        self.near = near
        self.far = far
        self.naming = TestNaming([Self.nearNode: near.peerID, Self.farNode: far.peerID])
        self.channels = PacketChannels(host: near, limits: limits)
        self.ways = (
            PacketWays(host: near, use: use, configuration: configuration, logger: logger),
            PacketWays(host: far, use: use, configuration: configuration, logger: logger)
        )
        self.opener = PacketOpener(host: near, channels: self.channels, limits: limits, ways: self.ways.near)
        self.farChannels = PacketChannels(host: far, limits: limits)
        self.acceptor = PacketAcceptor(
            host: far,
            naming: self.naming,
            channels: self.farChannels,
            reception: self.reception,
            limits: limits,
            ways: self.ways.far,
            logger: logger
        )
    }

    private func end() async {
        for host in [self.near, self.far] { await host.shutdown(deadline: .now()) }
        for ways in [self.ways.near, self.ways.far] { await ways.stop() }
    }

    /// The connection, once the peer has told what it speaks.
    func connect() async throws -> Connection {
        let connection = try await self.near.connect(to: self.far.peerID, addresses: self.far.listenAddresses)
        try await eventually("the far agent is identified") { connection.identification != nil }
        return connection
    }

    func open(within timeout: TimeAmount = .seconds(60)) async throws -> PacketChannel {
        let connection = try await self.connect()
        return try await self.opener.open(Self.farNode, over: connection, deadline: .now() + timeout).get()
    }

    /// A stream as a peer opens it that writes its bytes itself: it begins with the first of them, so that a refusal finds it open.
    func rawStream(_ protocolID: ProtocolID) async throws -> any Channel {
        _ = try await self.connect()
        return try await self.near.openStream(to: self.far.peerID, protocols: [protocolID]).channel
    }
}

/// Channels that were taken, and what was read from each.
final class TakenPackets: Sendable {
    private let state = Mutex<[(channel: PacketChannel, log: ReadLog)]>([])

    var all: [(channel: PacketChannel, log: ReadLog)] { self.state.withLock { $0 } }

    /// On the channel's loop.
    func take(_ channel: PacketChannel) {
        let log = ReadLog()
        try? channel.channel.record(log)
        self.state.withLock { $0.append((channel, log)) }
    }
}
