import Glibc
public import LinuxNetwork
public import MeshCore
import NIOCore

/// What the checks read of the machine. A protocol, so that each check has a table test without the machine.
public protocol HostReading: Sendable {
    /// The whole file, at most 1 MB of it; nil if it cannot be read.
    func file(_ path: String) -> String?
    /// Runs a program with bounded output; nil if it is not there.
    func run(_ program: String, _ arguments: [String], input: String) async -> CommandResult?
    /// Why an address and port cannot be bound: the errno; nil if they can.
    func bindError(_ address: TransportAddress, _ transport: TransportProtocol) -> Int32?
    /// The processes that hold an address and port, or all addresses with that port; none if that cannot be found out.
    func holders(_ address: TransportAddress, _ transport: TransportProtocol) async -> [SocketHolder]
    /// An HTTP GET to a local port: the body; nil if nothing answers.
    func localHTTP(port: UInt16, path: String) -> String?
    /// What the kernel and the tools of packet filtering can do, tried out where it disturbs nobody.
    func kernelCapabilities() async -> KernelCapabilities
    /// The soft limit of open files.
    var fileLimit: UInt64 { get }
}

/// The process behind a socket.
public struct SocketHolder: Hashable, Sendable, CustomStringConvertible {
    public var name: String
    public var processID: Int32

    public init(name: String, processID: Int32) {
        self.name = name
        self.processID = processID
    }

    /// Those of a line of `ss -Hlnp`: `… users:(("dnsmasq",pid=71,fd=4),…)`.
    static func all(inLine line: some StringProtocol) -> [SocketHolder] {
        line.split(separator: "(\"").dropFirst().compactMap { text in
            let parts = text.split(separator: "\",pid=", maxSplits: 1)
            guard parts.count == 2, let processID = Int32(parts[1].prefix { $0.isNumber }) else { return nil }
            return SocketHolder(name: String(parts[0]), processID: processID)
        }
    }

    public var description: String { "\(self.name) (process \(self.processID))" }
}

public struct CommandResult: Hashable, Sendable {
    public var status: Int32
    public var output: String

    public init(status: Int32, output: String) {
        self.status = status
        self.output = output
    }
}

/// The machine itself. Blocking: meant for the command line.
public struct LiveHost: HostReading {
    private static let fileBound = 1 << 20

    public init() {}

    public func file(_ path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        return Self.readAll(descriptor)
    }

    private static func readAll(_ descriptor: Int32) -> String? {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 * 1024)
        while bytes.count < Self.fileBound {
            let count = read(descriptor, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { return nil }
            if count == 0 { break }
            bytes += chunk[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    public func bindError(_ address: TransportAddress, _ transport: TransportProtocol) -> Int32? {
        let kind = transport == .udp ? SOCK_DGRAM : SOCK_STREAM
        let family = address.address.family == .v4 ? AF_INET : AF_INET6
        let descriptor = socket(family, Int32(kind.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return errno }
        defer { close(descriptor) }
        // A port is free for the agent even if no device carries the address yet.
        var one: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_IP), IP_FREEBIND, &one, socklen_t(MemoryLayout<Int32>.size))
        let result = Self.withSocketAddress(address) { bind(descriptor, $0, $1) }
        return result == 0 ? nil : errno
    }

    public func holders(_ address: TransportAddress, _ transport: TransportProtocol) async -> [SocketHolder] {
        let kind = transport == .udp ? "-u" : "-t"
        let listing = await self.run("ss", ["-Hlnp", kind, "'sport = :\(address.port)'"], input: "")?.output ?? ""
        func holders(of hosts: Set<String>) -> [SocketHolder] {
            listing.split(separator: "\n").flatMap { line -> [SocketHolder] in
                guard let local = line.split(separator: " ").dropFirst(3).first,
                    let colon = local.lastIndex(of: ":"),
                    // Interfaces stand behind addresses as `%lo`.
                    hosts.contains(String(local[..<colon].prefix { $0 != "%" }))
                else { return [] }
                return SocketHolder.all(inLine: line)
            }
        }
        let own = holders(of: ["\(address.address)", "[\(address.address)]"])
        return own.isEmpty ? holders(of: ["0.0.0.0", "*", "[::]"]) : own
    }

    public func localHTTP(port: UInt16, path: String) -> String? {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var timeout = timeval(tv_sec: 2, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        let address = TransportAddress(.v4(.loopback), port)
        guard Self.withSocketAddress(address, { connect(descriptor, $0, $1) }) == 0 else { return nil }
        let request = Array("GET \(path) HTTP/1.0\r\nhost: localhost\r\n\r\n".utf8)
        guard send(descriptor, request, request.count, Int32(MSG_NOSIGNAL)) == request.count,
            let answer = Self.readAll(descriptor), let blank = answer.firstRange(of: "\r\n\r\n")
        else { return nil }
        return String(answer[blank.upperBound...])
    }

    private static func withSocketAddress(
        _ address: TransportAddress,
        _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        guard let address = try? SocketAddress(ipAddress: address.address.description, port: Int(address.port)) else {
            return -1
        }
        return address.withSockAddr { body($0, socklen_t($1)) }
    }

    public func kernelCapabilities() async -> KernelCapabilities { await KernelCapabilities.probe() }

    public var fileLimit: UInt64 {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        return UInt64(limit.rlim_cur)
    }

    /// Programs and arguments are those of the checks, never a user's words: the shell adds nothing to them.
    public func run(_ program: String, _ arguments: [String], input: String) async -> CommandResult? {
        let marker = "EDGEMESH_INPUT"
        let line = ([program] + arguments).joined(separator: " ")
        guard let pipe = popen("\(line) 2>&1 <<'\(marker)'\n\(input)\(marker)\n", "r") else { return nil }
        let output = Self.readAll(fileno(pipe)) ?? ""
        let status = pclose(pipe)
        let commandNotFound: Int32 = 127
        let code = (status >> 8) & 0xFF
        return code == commandNotFound ? nil : CommandResult(status: code, output: output)
    }
}
