import Glibc
public import MeshCore
public import NIOCore
import NIOPosix

/// The C library's resolver, on threads of its own.
public final class SystemResolver: NameResolver {
    public static let shared = SystemResolver()

    public init() {}

    public func addresses(of name: String, family: IPFamily?, on loop: any EventLoop) -> EventLoopFuture<[IPAddress]> {
        NIOThreadPool.singleton.runIfActive(eventLoop: loop) {
            var hints = addrinfo()
            hints.ai_family =
                switch family {
                case .v4: AF_INET
                case .v6: AF_INET6
                case nil: AF_UNSPEC
                }
            hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
            var head: UnsafeMutablePointer<addrinfo>?
            let status = getaddrinfo(name, nil, &hints, &head)
            guard status == 0 else {
                throw LibP2PError(
                    code: .resolutionFailed,
                    message: "cannot resolve \(name): \(String(cString: gai_strerror(status)))"
                )
            }
            defer { freeaddrinfo(head) }
            var found: [IPAddress] = []
            var next = head
            while let entry = next?.pointee {
                next = entry.ai_next
                guard let raw = entry.ai_addr, let address = IPAddress(raw), !found.contains(address) else { continue }
                found.append(address)
            }
            return found
        }
    }

    public func texts(of name: String, on loop: any EventLoop) -> EventLoopFuture<[String]> {
        loop.makeFailedFuture(
            LibP2PError(code: .resolutionFailed, message: "the system's resolver has no TXT records for \(name)")
        )
    }
}

extension IPAddress {
    /// The address in a socket address of the kernel; nil for other families.
    init?(_ raw: UnsafeMutablePointer<sockaddr>) {
        let bytes = UnsafeRawPointer(raw)
        switch Int32(raw.pointee.sa_family) {
        case AF_INET:
            // The port lies between family and address.
            self.init(networkBytes: UnsafeRawBufferPointer(start: bytes + 4, count: 4))
        case AF_INET6:
            // Port and flow label lie between them.
            self.init(networkBytes: UnsafeRawBufferPointer(start: bytes + 8, count: 16))
        default:
            return nil
        }
    }
}

/// Seconds since 1970 by the system's clock.
public let systemUnixTime: @Sendable () -> UInt64 = {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return UInt64(max(0, now.tv_sec))
}
