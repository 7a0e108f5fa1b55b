import Glibc
public import MeshCore
public import NIOCore

/// Where a redirected TCP connection was going before netfilter changed its destination.
public enum OriginalDestination {
    /// Reads `SO_ORIGINAL_DST` of an accepted channel, on its event loop; nil if the kernel knows of no redirection.
    ///
    /// A connection that was made to the listener itself yields the listener's own address where conntrack runs.
    public static func read(_ channel: any Channel) -> EventLoopFuture<TransportAddress?> {
        guard let socket = channel as? any SocketOptionProvider else {
            return channel.eventLoop.makeSucceededFuture(nil)
        }
        let answer: EventLoopFuture<TransportAddress?> =
            switch channel.localAddress {
            case .v4: readV4(socket).map { TransportAddress($0) }
            case .v6: readV6(socket).map { TransportAddress($0) }
            default: channel.eventLoop.makeSucceededFuture(nil)
            }
        // ENOENT: not redirected; ENOPROTOOPT: no netfilter.
        return answer.recover { _ in nil }
    }

    // Both stay non-inlinable: a generic socket option read that is inlined across modules crashes in release builds.
    @inline(never)
    private static func readV4(_ socket: any SocketOptionProvider) -> EventLoopFuture<sockaddr_in> {
        // IPPROTO_IP, SO_ORIGINAL_DST
        socket.unsafeGetSocketOption(level: NIOBSDSocket.OptionLevel(rawValue: 0), name: .init(rawValue: 80))
    }

    @inline(never)
    private static func readV6(_ socket: any SocketOptionProvider) -> EventLoopFuture<sockaddr_in6> {
        // IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST
        socket.unsafeGetSocketOption(level: NIOBSDSocket.OptionLevel(rawValue: 41), name: .init(rawValue: 80))
    }
}
