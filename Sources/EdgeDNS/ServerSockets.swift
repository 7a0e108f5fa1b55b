import Glibc
import MeshCore
import NIOCore
import NIOPosix

/// Opens the sockets of one listening address on one event loop.
enum ServerSockets {
    /// From <netinet/in.h>: an address may be bound before an interface has it.
    private static let ipFreebind: CInt = 15
    private static let ipv6Freebind: CInt = 78

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
            // Replies to a query for a wildcard address must come from the address that was asked.
            .channelOption(.receivePacketInfo, value: address.address.isUnspecified)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(DatagramServerHandler(responder.value))
                }
            }
        if isShared { bootstrap = bootstrap.channelOption(.socketOption(.init(rawValue: SO_REUSEPORT)), value: 1) }
        bootstrap =
            address.address.family == .v4
            ? bootstrap.channelOption(.ipOption(.init(rawValue: ipFreebind)), value: 1)
            : bootstrap.channelOption(
                ChannelOptions.Types.SocketOption(level: .ipv6, name: .init(rawValue: ipv6Freebind)),
                value: 1
            )
        do {
            return bootstrap.bind(to: try SocketAddress(address))
        } catch {
            return loop.makeFailedFuture(error)
        }
    }

    static func bindStream(
        _ address: TransportAddress,
        responder: NIOLoopBound<QueryResponder>,
        connections: NIOLoopBound<ConnectionCount>,
        on loop: any EventLoop,
        isShared: Bool
    ) -> EventLoopFuture<any Channel> {
        var bootstrap = ServerBootstrap(group: loop, childGroup: loop)
            .serverChannelOption(.backlog, value: 128)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
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
        if isShared {
            bootstrap = bootstrap.serverChannelOption(.socketOption(.init(rawValue: SO_REUSEPORT)), value: 1)
        }
        bootstrap =
            address.address.family == .v4
            ? bootstrap.serverChannelOption(.ipOption(.init(rawValue: ipFreebind)), value: 1)
            : bootstrap.serverChannelOption(
                ChannelOptions.Types.SocketOption(level: .ipv6, name: .init(rawValue: ipv6Freebind)),
                value: 1
            )
        do {
            return bootstrap.bind(to: try SocketAddress(address))
        } catch {
            return loop.makeFailedFuture(error)
        }
    }
}

/// TCP connections of one event loop.
final class ConnectionCount {
    var open = 0
}
