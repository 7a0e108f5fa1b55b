import Glibc
import MeshTesting
import Multiformats
import Synchronization
import Testing

/// A peer of another implementation in a process of its own, which prints its addresses, then "ready".
final class ChildPeer: Sendable {
    static var path: String? { Self.variable("EDGEMESH_GO_PEER") }
    static var preSharedKeyPath: String? { Self.variable("EDGEMESH_GO_PSK") }

    private let process: pid_t
    private let text = Mutex([UInt8]())

    var output: String { self.text.withLock { String(decoding: $0, as: UTF8.self) } }

    /// Starts it and waits until it says that it is ready.
    static func run(_ arguments: [String]) async throws -> ChildPeer {
        let peer = try ChildPeer(arguments)
        do {
            try await peer.says("ready")
        } catch {
            peer.stop()
            throw error
        }
        return peer
    }

    private init(_ arguments: [String]) throws {
        let path = try #require(Self.path)
        var ends: [CInt] = [0, 0]
        try #require(pipe(&ends) == 0)
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
        posix_spawn_file_actions_adddup2(&actions, ends[1], 2)
        var words = ([path] + arguments).map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var environment: [UnsafeMutablePointer<CChar>?] = [nil]
        var process: pid_t = 0
        let result = posix_spawn(&process, path, &actions, nil, &words, &environment)
        close(ends[1])
        try #require(result == 0, "\(path) cannot be started: \(result)")
        self.process = process
        let input = ends[0]
        Thread.start {
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                let count = read(input, &buffer, buffer.count)
                guard count > 0 else { break }
                self.text.withLock { $0 += buffer[..<count] }
            }
            close(input)
        }
    }

    func says(_ what: String) async throws {
        try await eventually("the peer says “\(what)”; it said:\n\(self.output)", within: .seconds(30)) {
            let output = self.output
            if output.contains("error:"), !output.contains(what) { throw PeerFailure(description: output) }
            return output.contains(what)
        }
    }

    /// Its addresses with its peer ID.
    func addresses() throws -> [Multiaddr] {
        try self.output.split(separator: "\n").filter { $0.hasPrefix("/") }.map { try Multiaddr($0) }
    }

    func stop() {
        kill(self.process, SIGKILL)
        var status: CInt = 0
        waitpid(self.process, &status, 0)
    }

    static func contents(of path: String) throws -> [UInt8] {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        try #require(file >= 0, "\(path) cannot be read")
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 65536)
        let count = read(file, &bytes, bytes.count)
        try #require(count >= 0)
        return Array(bytes[..<count])
    }

    private static func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }
    }
}

struct PeerFailure: Error, CustomStringConvertible {
    let description: String
}

/// A thread that ends when its work does.
enum Thread {
    private final class Work {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    static func start(_ run: @escaping @Sendable () -> Void) {
        var thread = pthread_t()
        let work = Unmanaged.passRetained(Work(run))
        pthread_create(
            &thread,
            nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            },
            work.toOpaque()
        )
        pthread_detach(thread)
    }
}
