import Glibc
public import MeshCore
public import NIOCore
import NIOPosix
import Synchronization

/// Names as this machine resolves them: host names by the C library, TXT records, of which it knows nothing, by the servers of
/// `/etc/resolv.conf`.
public final class SystemResolver: NameResolver {
    public static let shared = SystemResolver()

    /// Lookups that run or wait; more fail. Each may hold a thread for as long as the servers are silent.
    static let maximumLookups = 64

    /// Threads of their own: names of hostile peers may be slow, and others wait for NIO's.
    private static let threads: NIOThreadPool = {
        let threads = NIOThreadPool(numberOfThreads: 4)
        threads.start()
        return threads
    }()

    private let lookups = Mutex(0)

    public init() {}

    public func addresses(of name: String, family: IPFamily?, on loop: any EventLoop) -> EventLoopFuture<[IPAddress]> {
        self.run(on: loop) {
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
        self.run(on: loop) {
            TextRecordClient(servers: TextRecordClient.servers(resolvConf: Self.text(of: "/etc/resolv.conf")))
        }.flatMap { $0.texts(of: name, on: loop) }
    }

    private func run<Value: Sendable>(
        on loop: any EventLoop,
        _ body: @escaping @Sendable () throws -> Value
    ) -> EventLoopFuture<Value> {
        let isAdmitted = self.lookups.withLock { lookups in
            guard lookups < Self.maximumLookups else { return false }
            lookups += 1
            return true
        }
        guard isAdmitted else {
            return loop.makeFailedFuture(
                LibP2PError(code: .limitExceeded, message: "\(Self.maximumLookups) names are being resolved")
            )
        }
        let result = Self.threads.runIfActive(eventLoop: loop, body)
        result.whenComplete { _ in self.lookups.withLock { $0 -= 1 } }
        return result
    }

    /// Empty if the file cannot be read; cut after what such a file may sensibly hold.
    private static func text(of path: String) -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 16 * 1024)
        let count = read(descriptor, &bytes, bytes.count)
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
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
