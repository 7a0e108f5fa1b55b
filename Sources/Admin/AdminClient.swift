public import Documents
import Glibc

/// The command line's side of the admin socket: one blocking request per connection, bounded in time and size.
public struct AdminClient: Sendable {
    public static let defaultSocketPath = "/run/edgemesh/admin.sock"
    /// `sun_path` of the kernel's `sockaddr_un`.
    static let maximumPathLength = 108
    /// The longest answer that is read: a status of 10,000 services is well below.
    static let answerLimit = 64 * 1024 * 1024

    public var socketPath: String
    /// For each wait, in seconds.
    public var timeoutSeconds: Int

    public init(socketPath: String = Self.defaultSocketPath, timeoutSeconds: Int = 5) {
        self.socketPath = socketPath
        self.timeoutSeconds = timeoutSeconds
    }

    /// Whether anything accepts connections on the socket.
    public var isAnswered: Bool {
        guard let descriptor = try? self.connected() else { return false }
        close(descriptor)
        return true
    }

    /// The process that made the socket; nil if nothing accepts connections on it.
    public var agentProcess: Int32? {
        guard let descriptor = try? self.connected() else { return nil }
        defer { close(descriptor) }
        // `struct ucred`: process, user, group.
        var credentials: (Int32, UInt32, UInt32) = (0, 0, 0)
        var length = socklen_t(MemoryLayout.size(ofValue: credentials))
        guard getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0, credentials.0 > 0 else {
            return nil
        }
        return credentials.0
    }

    /// Sends a request and reads the JSON answer. Throws if the status is not 2xx, with the agent's own words.
    public func json(_ method: AdminRequest.Method = .get, _ target: String) throws(AdminError) -> Document {
        let (status, body) = try self.request(method, target)
        guard (200..<300).contains(status) else {
            throw AdminError(code: .badAnswer, message: Self.words(of: body))
        }
        do {
            return try Document.parseJSON(body)
        } catch {
            throw AdminError(code: .badAnswer, message: "the agent's answer is no JSON: \(error)")
        }
    }

    /// What an answer that is no document says.
    public static func words(of body: [UInt8]) -> String {
        let text = body.prefix(2048)
        return String(decoding: text.last == UInt8(ascii: "\n") ? text.dropLast() : text, as: UTF8.self)
    }

    /// Sends a request and reads the whole answer.
    public func request(_ method: AdminRequest.Method, _ target: String) throws(AdminError) -> (Int, [UInt8]) {
        let descriptor = try self.connected()
        defer { close(descriptor) }
        // HTTP/1.0 answers end with the connection: nothing to frame.
        let request = Array("\(method.rawValue) \(target) HTTP/1.0\r\nhost: edgemesh\r\n\r\n".utf8)
        guard send(descriptor, request, request.count, Int32(MSG_NOSIGNAL)) == request.count else {
            throw self.failure("cannot be written to")
        }
        var answer: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 * 1024)
        while true {
            let count = recv(descriptor, &chunk, chunk.count, 0)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw self.failure("did not answer within \(self.timeoutSeconds) s") }
            if count == 0 { break }
            answer += chunk[..<count]
            guard answer.count <= Self.answerLimit else { throw self.failure("answered with too much") }
        }
        return try self.parsed(answer)
    }

    private func parsed(_ answer: [UInt8]) throws(AdminError) -> (Int, [UInt8]) {
        let separator = Array("\r\n\r\n".utf8)
        guard answer.starts(with: Array("HTTP/1.".utf8)), answer.count > 12,
            let status = Int(String(decoding: answer[9..<12], as: UTF8.self)),
            let end = answer.indices.first(where: { answer[$0...].starts(with: separator) })
        else {
            throw self.failure("does not speak HTTP")
        }
        return (status, Array(answer[(end + separator.count)...]))
    }

    private func connected() throws(AdminError) -> Int32 {
        let path = Array(self.socketPath.utf8)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.count < Self.maximumPathLength else { throw self.failure("has too long a path") }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path) }
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw self.failure("cannot be opened: errno \(errno)") }
        var timeout = timeval(tv_sec: self.timeoutSeconds, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, size)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, size)
        let result = withUnsafePointer(to: address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else {
            let reason = errno
            close(descriptor)
            switch reason {
            case ENOENT, ECONNREFUSED:
                throw AdminError(
                    code: .notRunning,
                    message: "no agent answers on \(self.socketPath): is edgemesh-agent running on this node?"
                )
            case EACCES, EPERM:
                throw AdminError(
                    code: .forbidden,
                    message: "may not use \(self.socketPath): run this as the agent's user (root)"
                )
            default:
                throw self.failure("cannot be reached: errno \(reason)")
            }
        }
        return descriptor
    }

    private func failure(_ what: String) -> AdminError {
        AdminError(code: .badAnswer, message: "the agent on \(self.socketPath) \(what)")
    }
}
