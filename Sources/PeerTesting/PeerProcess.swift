public import Glibc

/// A program that runs beside the test, with its output in a file. It is killed when nobody holds it any more.
public final class PeerProcess: Sendable {
    public let processID: pid_t
    private let log: String

    /// - Parameter arguments: the program's path, and what it is given.
    public init(_ arguments: [String], environment: [String: String] = [:]) throws {
        var path = Array("/tmp/p2p-peer-XXXXXX".utf8CString)
        let file = mkstemp(&path)
        guard file >= 0 else { throw TestPeerError("no file for the output of \(arguments[0]): errno \(errno)") }
        defer { close(file) }
        self.log = String(decoding: path.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, file, 1)
        posix_spawn_file_actions_adddup2(&actions, file, 2)
        // Threads of a pool may block signals, and a child inherits that: one that waits for an alarm would wait for ever.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var noSignals = sigset_t()
        sigemptyset(&noSignals)
        posix_spawnattr_setsigmask(&attributes, &noSignals)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var argv: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var variables = environment
        for name in ["PATH", "HOME", "TMPDIR"] where variables[name] == nil {
            if let value = getenv(name) { variables[name] = String(cString: value) }
        }
        var envp: [UnsafeMutablePointer<CChar>?] = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for word in argv + envp { free(word) } }
        var child: pid_t = 0
        let error = posix_spawn(&child, arguments[0], &actions, &attributes, &argv, &envp)
        guard error == 0 else { throw TestPeerError("cannot start \(arguments[0]): errno \(error)") }
        self.processID = child
    }

    deinit {
        var status: Int32 = 0
        // Already gone, and reaped by `finish`, if this is not our child any more.
        if waitpid(self.processID, &status, WNOHANG) == 0 {
            kill(self.processID, SIGKILL)
            waitpid(self.processID, &status, 0)
        }
        unlink(self.log)
    }

    /// What it has written so far.
    public var output: String {
        guard let file = fopen(self.log, "r") else { return "" }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { bytes += chunk[..<count] }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Waits for a line that begins so.
    public func line(_ prefix: String, within seconds: Int = 30) async throws -> String {
        for _ in 0..<(seconds * 50) {
            let text = self.output
            // The last line may be incomplete.
            for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
            where line.hasPrefix(prefix) {
                return String(line)
            }
            if case .exited(let code) = self.state() { throw TestPeerError("it ended with \(code):\n\(text)") }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw TestPeerError("no line '\(prefix)…' within \(seconds) s:\n\(self.output)")
    }

    /// Waits for its end. Fails if it is not successful.
    /// - Returns: all it wrote.
    @discardableResult
    public func finish(within seconds: Int) async throws -> String {
        for _ in 0..<(seconds * 50) {
            if case .exited(let code) = self.state() {
                guard code == 0 else { throw TestPeerError("it ended with \(code):\n\(self.output)") }
                return self.output
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw TestPeerError("it has not ended within \(seconds) s:\n\(self.output)")
    }

    private enum State {
        case running
        case exited(Int32)
    }

    private func state() -> State {
        // Not reaped, so that the process ID stays ours until the end.
        var info = siginfo_t()
        guard waitid(P_PID, id_t(self.processID), &info, WEXITED | WNOHANG | WNOWAIT) == 0 else { return .exited(-1) }
        guard info.si_signo != 0 else { return .running }
        return .exited(info._sifields._sigchld.si_status)
    }
}
