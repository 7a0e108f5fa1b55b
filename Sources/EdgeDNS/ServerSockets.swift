import ByteStreams
import Glibc
import Logging
import MeshCore
import NIOCore
import NIOPosix

/// Opens the sockets of one listening address on one event loop.
enum ServerSockets {
    /// From <netinet/in.h>: an address may be bound before an interface has it.
    private static let ipFreebind: CInt = 15
    private static let ipv6Freebind: CInt = 78

    /// Puts the node's present addresses in the place of a wildcard. A socket of its own for each makes replies come from
    /// the address that was asked, which NIO cannot choose on a wildcard socket. Link-local addresses are left out.
    static func expand(_ addresses: [TransportAddress]) -> [TransportAddress] {
        addresses.flatMap { address -> [TransportAddress] in
            guard address.address.isUnspecified else { return [address] }
            let own = ((try? System.enumerateDevices()) ?? []).compactMap { device in
                device.address.flatMap { TransportAddress($0) }?.address
            }
            return Set(own).filter { $0.family == address.address.family && !$0.isLinkLocalIPv6 }.sorted()
                .map { TransportAddress($0, address.port) }
        }
    }

    /// Those to be turned on for a listening socket of either kind.
    private static func options(_ address: TransportAddress, _ isShared: Bool) -> [ChannelOptions.Types.SocketOption] {
        let freebind: ChannelOptions.Types.SocketOption =
            switch address.address.family {
            case .v4: .init(level: .ip, name: .init(rawValue: self.ipFreebind))
            case .v6: .init(level: .ipv6, name: .init(rawValue: self.ipv6Freebind))
            }
        return isShared ? [freebind, .init(level: .socket, name: .init(rawValue: SO_REUSEPORT))] : [freebind]
    }

    /// - Parameter isShared: other loops bind the same address, and the kernel spreads clients over them.
    static func bindDatagram(
        _ address: TransportAddress,
        responder: NIOLoopBound<QueryResponder>,
        on loop: any EventLoop,
        isShared: Bool
    ) -> EventLoopFuture<any Channel> {
        let readSize = DatagramServerHandler.readBatch * DatagramServerHandler.readSize
        var bootstrap = DatagramBootstrap(group: loop)
            .channelOption(.datagramVectorReadMessageCount, value: DatagramServerHandler.readBatch)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: readSize))
            // Room for a burst from many pods; the kernel grants what net.core.rmem_max allows.
            .channelOption(.socketOption(.so_rcvbuf), value: 1 << 20)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(DatagramServerHandler(responder.value))
                }
            }
        for option in self.options(address, isShared) { bootstrap = bootstrap.channelOption(option, value: 1) }
        return bootstrap.bind(to: SocketAddress(address))
    }

    static func bindStream(
        _ address: TransportAddress,
        responder: NIOLoopBound<QueryResponder>,
        connections: NIOLoopBound<ConnectionCount>,
        on loop: any EventLoop,
        isShared: Bool,
        logger: Logger
    ) -> EventLoopFuture<any Channel> {
        var bootstrap = ServerBootstrap(group: loop, childGroup: loop)
            .serverChannelOption(.backlog, value: 128)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pause = AcceptPause { error, isFirst in
                        responder.value.counters.acceptsPaused &+= 1
                        guard isFirst else { return }
                        logger.error(
                            "DNS over TCP accepts nothing for a while: descriptors or memory are short; raise LimitNOFILE",
                            metadata: ["address": "\(address)", "error": "\(error)"]
                        )
                    }
                    try channel.pipeline.syncOperations.addHandler(pause)
                }
            }
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.maxMessagesPerRead, value: 1)
            .childChannelInitializer { channel in
                let responder = responder.value
                let connections = connections.value
                guard connections.open < responder.settings.maximumConnections else {
                    responder.counters.refusedConnections &+= 1
                    return channel.close()
                }
                responder.counters.connections &+= 1
                connections.open += 1
                return channel.eventLoop.makeCompletedFuture {
                    let handler = StreamServerHandler(responder) { connections.open -= 1 }
                    try channel.pipeline.syncOperations.addHandler(handler)
                }
            }
        for option in self.options(address, isShared) { bootstrap = bootstrap.serverChannelOption(option, value: 1) }
        return bootstrap.bind(to: SocketAddress(address))
    }
}

/// TCP connections of one event loop.
final class ConnectionCount {
    var open = 0
}

extension MeshCore.IPAddress {
    /// `fe80::/10`: means nothing without an interface.
    fileprivate var isLinkLocalIPv6: Bool {
        guard case .v6(let address) = self else { return false }
        return address.high >> 54 == 0xFE80 >> 6
    }
}
