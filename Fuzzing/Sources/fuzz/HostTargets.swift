import LibP2P
import LibP2PDiscovery
import LibP2PSecurity
import Logging
import MeshCore
import Multiformats
import NIOCore
import NIOEmbedded
import PeerIdentity
import Synchronization
import Yamux

@testable import LibP2PRelay

extension FuzzTarget {
    /// The handshakes of a whole host, dialled or dialling, in a private network or none: garbage in place of a peer, or an
    /// honest peer whose bytes are changed or end on the way.
    static let handshake = FuzzTarget(name: "handshake") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard bytes.count >= 3 else { return 0 }
        let (mode, step, moves) = (bytes[0], Int(bytes[1]), Int(bytes[2]) % 16)
        let input = bytes.dropFirst(3)
        let isPrivate = mode & 1 != 0
        let (victim, honest) = (HostFixture.host(isPrivate, 0), HostFixture.host(isPrivate, 1))
        let (near, far) = (HostFixture.channel(), HostFixture.channel())
        let before = victim.metrics.connectionsAccepted
        HostFixture.start(victim, honest, near, dials: mode & 2 != 0)
        if mode & 4 == 0 {
            for piece in pieces(of: input, step) { HostFixture.feed(piece, to: near) }
            precondition(victim.connections.isEmpty, "a connection out of nothing")
        } else {
            HostFixture.start(honest, victim, far, dials: mode & 2 == 0)
            var changes = input.makeIterator()
            for _ in 0..<moves {
                while let sent = try? near.readOutbound(as: ByteBuffer.self) { HostFixture.feed(sent, to: far) }
                while let sent = try? far.readOutbound(as: ByteBuffer.self) {
                    let changed = sent.readableBytesView.map { $0 ^ (changes.next() ?? 0) }
                    changed.withUnsafeBytes { changed in
                        for piece in pieces(of: changed[...], step) { HostFixture.feed(piece, to: near) }
                    }
                }
            }
        }
        HostFixture.end(near, far)
        HostFixture.check(victim)
        HostFixture.check(honest)
        precondition(victim.metrics.connectionsAccepted <= before + 1)
        return 0
    }

    /// What a peer whose identity is proven sends to the multiplexer of its connection.
    static let session = FuzzTarget(name: "session") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard let step = bytes.first else { return 0 }
        HostFixture.withConnection { channel in
            for piece in pieces(of: bytes.dropFirst(), Int(step)) { HostFixture.feed(piece, to: channel) }
        }
        return 0
    }

    /// What a peer sends on a stream that it has opened, in frames of any size, and how it ends it.
    static let multistream = FuzzTarget(name: "multistream") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard bytes.count >= 2 else { return 0 }
        let (mode, step) = (bytes[0], Int(bytes[1]))
        HostFixture.withConnection { channel in
            HostFixture.feed(frame(.windowUpdate, .syn, 1), to: channel)
            if mode & 1 == 0 {
                HostFixture.feed(frame(.data, [], 1, HostFixture.line("/multistream/1.0.0")), to: channel)
            }
            for piece in pieces(of: bytes.dropFirst(2), step) {
                HostFixture.feed(frame(.data, [], 1, piece), to: channel)
            }
            if mode & 2 == 0 { HostFixture.feed(frame(.windowUpdate, mode & 4 == 0 ? .fin : .rst, 1), to: channel) }
        }
        return 0
    }

    /// What a peer says to the services of a host, each of which reads messages behind their length: the second byte chooses one.
    static let services = FuzzTarget(name: "services") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard bytes.count >= 3 else { return 0 }
        let (mode, service, step) = (bytes[0], Int(bytes[1]), Int(bytes[2]))
        let name = HostFixture.services[service % HostFixture.services.count]
        var input = ByteBuffer()
        if mode & 1 == 0 {
            input.writeVarintPrefixed(ByteBuffer(bytes: bytes.dropFirst(3)))
        } else {
            input.writeBytes(bytes.dropFirst(3))
        }
        HostFixture.withConnection(serves: true) { channel in
            HostFixture.feed(frame(.windowUpdate, .syn, 1), to: channel)
            var opening = HostFixture.line("/multistream/1.0.0")
            opening.writeImmutableBuffer(HostFixture.line(name))
            HostFixture.feed(frame(.data, [], 1, opening), to: channel)
            input.withUnsafeReadableBytes { input in
                for piece in pieces(of: input[...], step) { HostFixture.feed(frame(.data, [], 1, piece), to: channel) }
            }
            if mode & 2 == 0 { HostFixture.feed(frame(.windowUpdate, mode & 4 == 0 ? .fin : .rst, 1), to: channel) }
        }
        return 0
    }

    /// What a peer says of itself: as the answer that the host asked for, as a push, or within a record that it signed.
    static let identify = FuzzTarget(name: "identify") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard bytes.count >= 2 else { return 0 }
        let (mode, step) = (bytes[0], Int(bytes[1]))
        var message = ByteBuffer(bytes: bytes.dropFirst(2))
        if mode & 2 != 0 {
            let record = try? SignedEnvelope.seal(
                payload: message.readableBytesView,
                type: PeerRecord.payloadType,
                domain: PeerRecord.domain,
                key: HostFixture.peer
            )
            var writer = ProtobufWriter()
            writer.write(bytes: record?.bytes ?? [], to: 8)
            message = writer.buffer
        }
        if mode & 4 == 0 {
            var prefixed = ByteBuffer()
            prefixed.writeVarintPrefixed(message)
            message = prefixed
        }
        HostFixture.withConnection { channel in
            // The host is the server: its first stream, on which it asks, is 2.
            let isPush = mode & 1 != 0
            let id: UInt32 = isPush ? 1 : 2
            HostFixture.feed(frame(.windowUpdate, isPush ? .syn : .ack, id), to: channel)
            var opening = HostFixture.line("/multistream/1.0.0")
            opening.writeImmutableBuffer(HostFixture.line(isPush ? "/ipfs/id/push/1.0.0" : "/ipfs/id/1.0.0"))
            HostFixture.feed(frame(.data, [], id, opening), to: channel)
            message.withUnsafeReadableBytes { message in
                for piece in pieces(of: message[...], step) {
                    HostFixture.feed(frame(.data, [], id, piece), to: channel)
                }
            }
            HostFixture.feed(frame(.windowUpdate, .fin, id), to: channel)
        }
        return 0
    }
}

/// Hosts on one simulated event loop that live through all runs: what a run leaves behind is found by the next.
private enum HostFixture {
    static let loop = EmbeddedEventLoop()
    static let peer = KeyPair.generate()
    private static let address = Multiaddr([.ip4(IPv4Address(192, 0, 2, 1)), .tcp(20006)])
    private static let dialled = GivenConnections()
    private static let hosts: [Host] = [(false, 0), (false, 1), (true, 0), (true, 1)].map { isPrivate, index in
        var configuration = HostConfiguration()
        configuration.preSharedKey = isPrivate ? PreSharedKey(originalFileBytes: "fuzz".utf8) : nil
        configuration.security = index == 0 ? [.noise, .tls] : [.tls, .noise]
        configuration.dial.ranking = .noDelay
        var logger = Logger(label: "fuzz")
        logger.logLevel = .critical
        guard
            let host = try? Host(identity: .generate(), configuration: configuration, group: Self.loop, logger: logger)
        else { fatalError("no host") }
        host.add(transport: Self.dialled)
        return host
    }

    static func host(_ isPrivate: Bool, _ index: Int) -> Host { Self.hosts[(isPrivate ? 2 : 0) + index] }

    static let services = [
        "/libp2p/circuit/relay/0.2.0/hop", "/libp2p/circuit/relay/0.2.0/stop", "/ipfs/kad/1.0.0", "/libp2p/dcutr",
        "/libp2p/autonat/1.0.0", "/libp2p/autonat/2/dial-request", "/libp2p/autonat/2/dial-back", "/ipfs/ping/1.0.0",
        "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0",
    ]

    /// A host with everything that a node serves, and what keeps that alive.
    private static let server: (host: Host, parts: [any AnyObject & Sendable]) = {
        let host = Self.host(false, 1)
        let relay = RelayService(host: host, logger: host.logger)
        let client = RelayClient(host: host, logger: host.logger)
        let puncher = HolePuncher(host: host)
        let prober = AutoNATClient(host: host)
        var reach = AutoNATServerConfiguration()
        reach.servesPrivateNetworks = true
        let dht = KademliaDHT(host: host, configuration: .wan(mode: .server))
        guard let autoNAT = try? AutoNATServer(host: host, transports: [Self.dialled], configuration: reach) else {
            fatalError("no AutoNAT")
        }
        relay.start()
        client.start()
        puncher.start()
        prober.start()
        // The loop is nobody else's: what waits for it goes on when it runs.
        let started = Self.loop.runTask {
            try await autoNAT.start()
            try await dht.start()
        }
        var isRunning = false
        started.assumeIsolated().whenSuccess { isRunning = true }
        Self.loop.run()
        precondition(isRunning, "the services do not start")
        return (host, [relay, client, puncher, prober, dht, autoNAT])
    }()

    static func channel() -> EmbeddedChannel {
        let channel = EmbeddedChannel(loop: Self.loop)
        guard let address = try? SocketAddress(ipAddress: "192.0.2.1", port: 20006) else { fatalError("no address") }
        channel.connect(to: address, promise: nil)
        return channel
    }

    private static func raw(
        _ channel: EmbeddedChannel,
        _ capability: RawConnection.Capability = .bytes
    ) -> RawConnection {
        RawConnection(
            channel: channel,
            localAddress: Self.address,
            remoteAddress: Self.address,
            capability: capability
        )
    }

    static func start(_ host: Host, _ other: Host, _ channel: EmbeddedChannel, dials: Bool) {
        if dials {
            Self.dialled.next.withLock { $0 = Self.raw(channel) }
            let options = DialOptions(reuse: .never, onlyGivenAddresses: true, ignoreBackoff: true)
            let connected: EventLoopFuture<Connection> = host.connect(
                to: other.peerID,
                addresses: [Self.address],
                options: options
            )
            connected.whenComplete { _ in }
        } else {
            host.accept(Self.raw(channel))
        }
        Self.loop.run()
    }

    /// Runs with a channel on which the host has the server's side of a session with `peer`, without encryption.
    static func withConnection(serves: Bool = false, _ body: (EmbeddedChannel) -> Void) {
        let host = serves ? Self.server.host : Self.host(false, 0)
        let channel = Self.channel()
        host.accept(Self.raw(channel, .multiplexed(PlainConnection(channel: channel))))
        Self.loop.run()
        precondition(host.connections.count == 1, "no connection to feed")
        body(channel)
        Self.end(channel)
        Self.check(host)
    }

    static func feed(_ bytes: ByteBuffer, to channel: EmbeddedChannel) {
        channel.pipeline.fireChannelRead(bytes)
        channel.pipeline.fireChannelReadComplete()
        Self.loop.run()
    }

    static func end(_ channels: EmbeddedChannel...) {
        for channel in channels { channel.close(promise: nil) }
        // Longer than any deadline of a handshake, a stream or a dial, and than TLS waits for the peer's end.
        Self.loop.advanceTime(by: .minutes(3))
        for channel in channels { _ = try? channel.finish(acceptAlreadyClosed: true) }
    }

    static func check(_ host: Host) {
        let metrics = host.metrics
        precondition(metrics.openConnectionsInbound == 0 && metrics.openConnectionsOutbound == 0, "\(metrics)")
        precondition(metrics.openStreamsInbound == 0 && metrics.openStreamsOutbound == 0, "\(metrics)")
        precondition(metrics.inboundHandshakes == 0 && metrics.openDials == 0, "\(metrics)")
    }

    /// A message of multistream-select; names here are shorter than 127 bytes.
    static func line(_ text: String) -> ByteBuffer {
        var buffer = ByteBuffer(integer: UInt8(text.utf8.count + 1))
        buffer.writeString("\(text)\n")
        return buffer
    }
}

/// Gives the connection that was laid ready to whoever dials.
private final class GivenConnections: Transport {
    let next = Mutex<RawConnection?>(nil)

    func canDial(_ address: Multiaddr) -> Bool { true }
    func canListen(on address: Multiaddr) -> Bool { false }

    func dial(
        _ address: Multiaddr,
        on loop: any EventLoop,
        options: TransportDialOptions
    ) -> EventLoopFuture<RawConnection> {
        let next = self.next.withLock { next in
            defer { next = nil }
            return next
        }
        guard let next else {
            return loop.makeFailedFuture(LibP2PError(code: .dialFailed, message: "nothing is ready"))
        }
        return loop.makeSucceededFuture(next)
    }

    func listen(
        on address: Multiaddr,
        group: any EventLoopGroup,
        accept: @escaping @Sendable (RawConnection) -> Void
    ) -> EventLoopFuture<any TransportListener> {
        group.next().makeFailedFuture(LibP2PError(code: .listenFailed, message: "nothing listens here"))
    }
}

/// A connection whose peer is known and whose bytes are plain: the host is the server of its session.
private struct PlainConnection: MultiplexedConnection {
    struct Multiplexer: StreamMultiplexer {
        let session: YamuxHandler

        var openStreams: Int { self.session.openStreams }
        var roundTripTime: TimeAmount? { self.session.roundTripTime }

        func openStream(
            _ initializer: @escaping (any Channel) -> EventLoopFuture<Void>
        ) -> EventLoopFuture<any Channel> { self.session.openStream(initializer) }

        func close(drainUntil deadline: NIODeadline?) { self.session.close(.normal, drainUntil: deadline) }
    }

    let channel: any Channel

    var securedPeer: SecuredPeer {
        SecuredPeer(remoteKey: HostFixture.peer.publicKey, earlyMuxer: nil, protocolID: "/plain")
    }
    var multiplexerName: String { "/yamux/1.0.0" }

    func start(inboundStream: @escaping (any Channel) -> EventLoopFuture<Void>) throws -> any StreamMultiplexer {
        let session = YamuxHandler(role: .server, inboundStream: inboundStream)
        try self.channel.pipeline.syncOperations.addHandler(session)
        return Multiplexer(session: session)
    }
}

private enum FrameType: UInt8 { case data, windowUpdate }

private struct FrameFlags: OptionSet {
    let rawValue: UInt16
    static let syn = FrameFlags(rawValue: 1)
    static let ack = FrameFlags(rawValue: 2)
    static let fin = FrameFlags(rawValue: 4)
    static let rst = FrameFlags(rawValue: 8)
}

private func frame(
    _ type: FrameType,
    _ flags: FrameFlags,
    _ stream: UInt32,
    _ payload: ByteBuffer = ByteBuffer()
) -> ByteBuffer {
    var frame = ByteBuffer()
    frame.writeMultipleIntegers(UInt8(0), type.rawValue, flags.rawValue, stream, UInt32(payload.readableBytes))
    frame.writeImmutableBuffer(payload)
    return frame
}
