import Dispatch
import Glibc
import Logging
import Multiformats

/// The peers that are revoked, one on each line of a file, so that they stay so when the agent starts anew.
///
/// It is written on a queue of its own: a slow disk stalls no loop.
final class RevocationFile: Sendable {
    /// A file of `PeerDirectory.maximumRevoked` peers is shorter.
    static let maximumLength = 1 << 20

    private let path: String
    private let logger: Logger
    private let queue = DispatchQueue(label: "edgemesh.revocations")

    init(path: String, logger: Logger) {
        self.path = path
        self.logger = logger
    }

    /// The peers in the file; a line that is none is passed over. What cannot be read is said, as then those who were revoked are
    /// strangers only.
    func read() -> [PeerID] {
        do {
            let bytes = try WholeFile.read(self.path, atMost: Self.maximumLength)
            return bytes.split(separator: UInt8(ascii: "\n")).compactMap {
                try? PeerID(String(decoding: $0, as: UTF8.self))
            }
        } catch {
            guard error.number != ENOENT else { return [] }
            self.logger.error(
                "revoked keys are not known",
                metadata: ["path": "\(self.path)", "error": "\(error)"]
            )
            return []
        }
    }

    func write(_ peers: [PeerID]) {
        let text = peers.map { "\($0)\n" }.joined()
        self.queue.async {
            do {
                try WholeFile.write(Array(text.utf8), to: self.path)
            } catch {
                self.logger.error(
                    "revoked keys are forgotten at the next start",
                    metadata: ["path": "\(self.path)", "error": "\(error)"]
                )
            }
        }
    }

    /// Waits for what is being written.
    func finish() async {
        await withCheckedContinuation { continuation in self.queue.async { continuation.resume() } }
    }
}

/// Small files as a whole. Blocks.
enum WholeFile {
    struct Failure: Error, CustomStringConvertible {
        let what: String
        let number: CInt

        init(_ what: String, _ number: CInt) {
            self.what = what
            self.number = number
        }

        var description: String {
            "\(self.what) (\(strerror(self.number).map { String(cString: $0) } ?? "error \(self.number)"))"
        }
    }

    /// - Returns: the bytes, or more than `limit` of them if there are more.
    static func read(_ path: String, atMost limit: Int) throws(Failure) -> [UInt8] {
        let file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else { throw Failure("cannot be opened", errno) }
        defer { close(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while bytes.count <= limit {
            let count = Glibc.read(file, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw Failure("cannot be read", errno) }
            if count == 0 { break }
            bytes += chunk[..<count]
        }
        return bytes
    }

    /// Writes beside `path` and renames, so that a crash leaves the old file or the new one.
    static func write(_ bytes: [UInt8], to path: String) throws(Failure) {
        let temporary = path + ".new"
        let file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard file >= 0 else { throw Failure("cannot be created", errno) }
        defer { close(file) }
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(file, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw Failure("cannot be written", errno) }
            rest = rest.dropFirst(count)
        }
        guard fsync(file) == 0 else { throw Failure("cannot be written", errno) }
        guard rename(temporary, path) == 0 else { throw Failure("cannot be put in place", errno) }
    }
}
