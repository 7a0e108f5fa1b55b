import Glibc
import MeshCore

/// What a resolver configuration file says (resolv.conf(5)).
struct ResolvConf: Hashable, Sendable {
    var nameServers: [TransportAddress] = []
    var search: [String] = []
    /// Lines that name a server in a way that cannot be used, as written.
    var unusable: [String] = []

    /// Unknown lines are passed over, as the C library does.
    init(parsing text: String) {
        for line in text.split(whereSeparator: \.isNewline) {
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            guard let keyword = words.first, let argument = words.dropFirst().first else { continue }
            switch keyword {
            case "nameserver":
                if let address = IPAddress(argument) {
                    self.nameServers.append(TransportAddress(address, 53))
                } else {
                    self.unusable.append(String(line))
                }
            case "search", "domain":
                self.search = words.dropFirst().map(String.init)
            default:
                continue
            }
        }
    }

    /// The cluster domain that the search list of a node set up by the kubelet shows: `X` of `svc.X` or `<ns>.svc.X`.
    var clusterDomain: String? {
        for entry in self.search {
            let labels = entry.split(separator: ".").map { $0.lowercased() }
            if let index = labels.prefix(2).firstIndex(of: "svc"), index + 1 < labels.count {
                return labels[(index + 1)...].joined(separator: ".")
            }
        }
        return nil
    }
}

/// A file that is read again when it changes.
struct WatchedFile: Sendable {
    /// A resolver configuration is a few hundred bytes; more than this is not one.
    static let maximumSize = 65_536

    enum Content: Equatable, Sendable {
        case missing
        case unreadable(errno: Int32)
        case text(String)
    }

    private struct Identity: Equatable {
        var device: UInt64
        var inode: UInt64
        var size: Int
        var seconds: Int
        var nanoseconds: Int
    }

    let path: String
    private var identity: Identity?
    private var isRead = false

    init(path: String) {
        self.path = path
    }

    /// The content if it is the first time or the file is another than last time, else nil.
    mutating func readIfChanged() -> Content? {
        var status = stat()
        guard stat(self.path, &status) == 0 else {
            let code = errno
            guard !self.isRead || self.identity != nil else { return nil }
            self.isRead = true
            self.identity = nil
            return code == ENOENT ? .missing : .unreadable(errno: code)
        }
        let identity = Identity(
            device: UInt64(status.st_dev),
            inode: UInt64(status.st_ino),
            size: Int(status.st_size),
            seconds: status.st_mtim.tv_sec,
            nanoseconds: status.st_mtim.tv_nsec
        )
        guard identity != self.identity else { return nil }
        self.identity = identity
        self.isRead = true
        return WatchedFile.read(self.path)
    }

    private static func read(_ path: String) -> Content {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return .unreadable(errno: errno) }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: maximumSize)
        var count = 0
        while count < bytes.count {
            let result = bytes.withUnsafeMutableBytes {
                Glibc.read(descriptor, $0.baseAddress?.advanced(by: count), $0.count - count)
            }
            if result < 0, errno == EINTR { continue }
            guard result >= 0 else { return .unreadable(errno: errno) }
            guard result > 0 else { break }
            count += result
        }
        return .text(String(decoding: bytes[..<count], as: UTF8.self))
    }
}
