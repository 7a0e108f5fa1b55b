import Glibc
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
            let own = ((try? System.enumerateDevices()) ?? []).compactMap { $0.address?.ip }
            return Set(own).filter { $0.family == address.address.family && !$0.isLinkLocalIPv6 }.sorted()
                .map { TransportAddress($0, address.port) }
        }
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

extension MeshCore.IPAddress {
    /// `fe80::/10`: means nothing without an interface.
    fileprivate var isLinkLocalIPv6: Bool {
        guard case .v6(let address) = self else { return false }
        return address.high >> 54 == 0xFE80 >> 6
    }
}
