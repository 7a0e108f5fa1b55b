import Glibc
public import NIOCore

/// Socket options that NIO has no names for, as channel options.
public enum SocketOption {
    /// Several sockets of one address: the kernel spreads flows over them by their 4-tuple.
    public static var reusePort: ChannelOptions.Types.SocketOption { .init(level: .socket, name: .init(rawValue: 15)) }
    /// The firewall mark of packets that this socket sends (needs CAP_NET_ADMIN).
    public static var mark: ChannelOptions.Types.SocketOption { .init(level: .socket, name: .init(rawValue: SO_MARK)) }
    /// Binding to an address that is not, or not yet, of this host.
    public static var freeBindV4: ChannelOptions.Types.SocketOption {
        .init(level: .init(rawValue: CInt(IPPROTO_IP)), name: .init(rawValue: 15))
    }
    public static var freeBindV6: ChannelOptions.Types.SocketOption {
        .init(level: .init(rawValue: CInt(IPPROTO_IPV6)), name: .init(rawValue: 78))
    }
    public static var noDelay: ChannelOptions.Types.SocketOption {
        .init(level: .init(rawValue: CInt(IPPROTO_TCP)), name: .init(rawValue: TCP_NODELAY))
    }
    public static var keepAlive: ChannelOptions.Types.SocketOption {
        .init(level: .socket, name: .init(rawValue: SO_KEEPALIVE))
    }
    public static var keepAliveIdleSeconds: ChannelOptions.Types.SocketOption {
        .init(level: .init(rawValue: CInt(IPPROTO_TCP)), name: .init(rawValue: TCP_KEEPIDLE))
    }
    public static var keepAliveIntervalSeconds: ChannelOptions.Types.SocketOption {
        .init(level: .init(rawValue: CInt(IPPROTO_TCP)), name: .init(rawValue: TCP_KEEPINTVL))
    }
    public static var keepAliveProbes: ChannelOptions.Types.SocketOption {
        .init(level: .init(rawValue: CInt(IPPROTO_TCP)), name: .init(rawValue: TCP_KEEPCNT))
    }
    public static var receiveBufferBytes: ChannelOptions.Types.SocketOption {
        .init(level: .socket, name: .init(rawValue: SO_RCVBUF))
    }
    public static var sendBufferBytes: ChannelOptions.Types.SocketOption {
        .init(level: .socket, name: .init(rawValue: SO_SNDBUF))
    }
}

extension Channel {
    /// Makes the peer see a reset: what is unsent is dropped. On a channel that is no socket it is a plain close.
    /// On its event loop only.
    public func closeWithReset() {
        if let socket = self as? any SocketOptionProvider {
            // Closing with a zero linger time is how TCP is told to send RST.
            _ = socket.setSoLinger(linger(l_onoff: 1, l_linger: 0))
        }
        self.close(promise: nil)
    }
}

/// The file descriptors this process may open.
public enum FileDescriptorLimit {
    /// Raises the soft limit towards `wanted`, as far as the hard limit lets it, and returns what is in force.
    public static func raise(to wanted: UInt64) -> UInt64 {
        var limit = rlimit()
        // The constant is a C enum, the parameter is its raw value in another type on glibc.
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1024 }
        guard limit.rlim_cur < wanted else { return UInt64(limit.rlim_cur) }
        let before = UInt64(limit.rlim_cur)
        limit.rlim_cur = rlim_t(min(wanted, UInt64(limit.rlim_max)))
        guard setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return before }
        return UInt64(limit.rlim_cur)
    }
}
