import ByteStreams
import Glibc
import MeshCore
import Multiformats
import NIOCore
import NIOPosix
import Synchronization

/// The TCP sockets of a transport: dials that can leave from its listening ports (SO_REUSEADDR and SO_REUSEPORT), and
/// listeners. Channels come out without handlers but the given ones.
final class TCPSockets: Sendable {
    /// Connections that the kernel holds for a listener whose loop is busy.
    private static let backlog: Int32 = 512
    /// The most that one read takes, and one round of reading. What decryption adds in buffers stays below malloc's mmap threshold,
    /// beyond which every page of every read was a page fault, and all of it within the second-level cache.
    private static let readLimit = 128 * 1024
    private static let readsAtOnce: UInt = 1
    /// Bytes that wait in user space for a slow peer before writers are told to stop.
    private static let waterMark = ChannelOptions.Types.WriteBufferWaterMark(low: 64 * 1024, high: 256 * 1024)

    private static let onlyV6 = ChannelOptions.Types.SocketOption(
        level: .init(rawValue: CInt(IPPROTO_IPV6)),
        name: .init(rawValue: IPV6_V6ONLY)
    )

    /// Where the transport listens, for dials that reuse a port.
    private let listening = Mutex<[TransportAddress]>([])
    private let onShortage: AcceptShortage

    init(onShortage: @escaping AcceptShortage) { self.onShortage = onShortage }

    /// Connects; the channel's initializer runs before it is active. Completes on `loop`.
    func dial(
        _ address: TransportAddress,
        zone: String?,
        on loop: any EventLoop,
        options: TransportDialOptions,
        initializer: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        let timeout = options.deadline - loop.now
        guard timeout > .zero else { return loop.makeFailedFuture(Self.late(address)) }
        let scope = zone.map { if_nametoindex($0) } ?? 0
        guard zone == nil || scope > 0 else {
            return loop.makeFailedFuture(
                LibP2PError(
                    code: .dialFailed,
                    message: "\(address) is of an interface that is not there: \(zone ?? "")"
                )
            )
        }
        let reused = options.localPort ?? (options.reusePort ? self.reusablePort(for: address) : nil)
        let dial = { @Sendable (port: UInt16?) -> EventLoopFuture<any Channel> in
            var bootstrap = ClientBootstrap(group: loop)
                .connectTimeout(timeout)
                .channelOption(SocketOption.noDelay, value: 1)
                .channelOption(SocketOption.keepAlive, value: 1)
                .channelOption(.recvAllocator, value: GlueReceiveAllocator(limit: Self.readLimit))
                .channelOption(.maxMessagesPerRead, value: Self.readsAtOnce)
                .channelOption(.writeBufferWaterMark, value: Self.waterMark)
                .channelInitializer { channel in
                    CongestionControl.ofHost.begin(channel)
                    options.channelMade?(channel)
                    return initializer(channel)
                }
            if let port {
                let any: IPAddress = address.address.family == .v4 ? .v4(.any) : .v6(.any)
                bootstrap =
                    bootstrap
                    .channelOption(.socketOption(.so_reuseaddr), value: 1)
                    .channelOption(SocketOption.reusePort, value: 1)
                    .bind(to: SocketAddress(TransportAddress(any, port)))
            }
            return bootstrap.connect(to: SocketAddress(address, scope: scope)).map { channel in
                CongestionControl.ofHost.settle(channel)
                return channel
            }
        }
        return dial(reused).flatMapError { error in
            // A connection from that port to that address exists or lingers. Any other port will do, unless one was asked for.
            guard reused != nil, options.localPort == nil, Self.isPortTaken(error) else {
                return loop.makeFailedFuture(error)
            }
            return dial(nil)
        }.flatMapErrorThrowing { error in
            if case .connectTimeout? = error as? ChannelError { throw Self.late(address) }
            throw error
        }
    }

    /// Listens; `initializer` runs for each accepted channel, on its loop, before it is active. Fails if another socket listens
    /// on the port.
    func listen(
        on address: TransportAddress,
        group: any EventLoopGroup,
        initializer: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<TCPListener> {
        do {
            try Self.checkFree(address)
        } catch {
            return group.any().makeFailedFuture(error)
        }
        let onShortage = self.onShortage
        var bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: Self.backlog)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(SocketOption.reusePort, value: 1)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    CongestionControl.ofHost.begin(channel)
                    let pause = AcceptPause { error, isFirst in if isFirst { onShortage(address, error) } }
                    try channel.pipeline.syncOperations.addHandler(pause)
                }
            }
            .childChannelOption(SocketOption.noDelay, value: 1)
            .childChannelOption(SocketOption.keepAlive, value: 1)
            .childChannelOption(.recvAllocator, value: GlueReceiveAllocator(limit: Self.readLimit))
            .childChannelOption(.maxMessagesPerRead, value: Self.readsAtOnce)
            .childChannelOption(.writeBufferWaterMark, value: Self.waterMark)
            .childChannelInitializer { channel in
                CongestionControl.ofHost.settle(channel)
                return initializer(channel)
            }
        if address.address.family == .v6 {
            // A listener of `::` leaves the port of IPv4 to another listener.
            bootstrap = bootstrap.serverChannelOption(Self.onlyV6, value: 1)
        }
        return bootstrap.bind(to: SocketAddress(address)).flatMapThrowing { channel in
            guard let bound = channel.localAddress.flatMap({ TransportAddress($0) }) else {
                throw LibP2PError(code: .listenFailed, message: "the listener on \(address) has no address")
            }
            self.listening.withLock { $0.append(bound) }
            channel.closeFuture.whenComplete { _ in
                self.listening.withLock { listening in
                    if let index = listening.firstIndex(of: bound) { listening.remove(at: index) }
                }
            }
            return TCPListener(channel: channel, bound: bound)
        }
    }

    /// Binds without SO_REUSEPORT: with it, which dials from the port need, the kernel would let another process that listens
    /// there share its connections with us, and say nothing.
    private static func checkFree(_ address: TransportAddress) throws(LibP2PError) {
        guard address.port != 0 else { return }
        let family = address.address.family == .v4 ? AF_INET : AF_INET6
        let descriptor = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        // Whatever else is wrong, the listener's own socket tells.
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        var yes: Int32 = 1
        let size = socklen_t(MemoryLayout<Int32>.size)
        // Connections of a listener before us, in TIME_WAIT or open, are no conflict.
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, size)
        if family == AF_INET6 { setsockopt(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &yes, size) }
        let result = SocketAddress(address).withSockAddr { bind(descriptor, $0, socklen_t($1)) }
        guard result != 0, errno == EADDRINUSE else { return }
        throw LibP2PError(
            code: .listenFailed,
            message: "another socket listens on \(address): stop its process, or configure another port (ss -ltnp)"
        )
    }

    /// The port of a listener that packets to `address` could come from.
    private func reusablePort(for address: TransportAddress) -> UInt16? {
        let isLoopback = address.address.isLoopback
        return self.listening.withLock { listening in
            listening.first { listener in
                guard listener.address.family == address.address.family else { return false }
                // From a port to the same port of this host, a socket would connect to itself.
                guard !isLoopback || listener.port != address.port else { return false }
                return listener.address.isUnspecified || listener.address.isLoopback == isLoopback
            }?.port
        }
    }

    private static func isPortTaken(_ error: any Error) -> Bool {
        guard let error = error as? IOError else { return false }
        return error.errnoCode == EADDRNOTAVAIL || error.errnoCode == EADDRINUSE
    }

    private static func late(_ address: TransportAddress) -> LibP2PError {
        LibP2PError(
            code: .timedOut,
            message: "no answer from \(address): check that it runs and that no firewall drops its packets"
        )
    }
}

struct TCPListener: Sendable {
    let channel: any Channel
    let bound: TransportAddress
}

extension Multiaddr {
    /// The address and port of a TCP socket that the multiaddr begins with, behind a zone perhaps, and what follows it.
    var tcpEndpoint: (address: TransportAddress, rest: ArraySlice<Component>)? {
        let parts = self.components.dropFirst(self.zone == nil ? 0 : 1)
        guard parts.count >= 2, case .tcp(let port) = parts[parts.startIndex + 1] else { return nil }
        switch (parts.first, self.zone) {
        case (.ip4(let address), nil): return (TransportAddress(.v4(address), port), parts.dropFirst(2))
        case (.ip6(let address), _): return (TransportAddress(.v6(address), port), parts.dropFirst(2))
        default: return nil
        }
    }

    init(tcp address: TransportAddress, _ rest: [Component] = []) {
        switch address.address {
        case .v4(let v4): self.init([.ip4(v4), .tcp(address.port)] + rest)
        case .v6(let v6): self.init([.ip6(v6), .tcp(address.port)] + rest)
        }
    }
}
