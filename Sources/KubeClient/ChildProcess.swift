import Glibc
import MeshCore

/// Runs a command to its end with its output bounded in size and time. Blocks the calling thread.
struct ChildProcess: Sendable {
    /// More output than this is an error.
    static let outputLimit = 1 << 20

    var command: String
    var arguments: [String]
    /// `NAME=value`, added to the environment this process was started with.
    var variables: [String]
    var timeLimit: Duration

    func run() throws(KubeError) -> [UInt8] {
        var output = try Pipe()
        defer { output.close() }
        var errors = try Pipe()
        defer { errors.close() }
        let pid = try self.spawn(output: output.writeEnd, errors: errors.writeEnd)
        output.closeWriteEnd()
        errors.closeWriteEnd()
        let deadline = MonotonicTime.now() + self.timeLimit
        var failure: KubeError?
        var printed: [UInt8] = []
        var complaint: [UInt8] = []
        do throws(KubeError) {
            try self.collect(output, into: &printed, errors, into: &complaint, until: deadline)
        } catch {
            failure = error
            kill(-pid, SIGKILL)
        }
        let status = self.wait(pid, until: deadline)
        if let failure { throw failure }
        guard status == 0 else {
            let said = String(decoding: complaint.suffix(500), as: UTF8.self)
            throw KubeError(.credentials, "exec plugin \(self.command) failed with status \(status): \(said)")
        }
        return printed
    }

    private func spawn(output: Int32, errors: Int32) throws(KubeError) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, output, 1)
        posix_spawn_file_actions_adddup2(&actions, errors, 2)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // A group of its own, so that a time-out kills the children of a shell script too; no signal stays blocked.
        posix_spawnattr_setpgroup(&attributes, 0)
        var mask = sigset_t()
        sigemptyset(&mask)
        posix_spawnattr_setsigmask(&attributes, &mask)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK))

        let names = self.variables.map { $0.prefix { $0 != "=" } + "=" }
        let inherited = Self.environment().filter { line in !names.contains { line.hasPrefix($0) } }
        var argv = ([self.command] + self.arguments).map { strdup($0) }
        var envp = (inherited + self.variables).map { strdup($0) }
        defer { for pointer in argv + envp { free(pointer) } }
        argv.append(nil)
        envp.append(nil)
        var pid: pid_t = 0
        let code = posix_spawnp(&pid, self.command, &actions, &attributes, argv, envp)
        guard code == 0 else {
            throw KubeError(.credentials, "cannot run exec plugin \(self.command): \(String(cString: strerror(code)))")
        }
        return pid
    }

    /// The environment of this process as the kernel keeps it: `environ` is a mutable global, out of reach of Swift 6.
    private static func environment() -> [String] {
        guard let bytes = try? SmallFile.read("/proc/self/environ") else { return [] }
        return bytes.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
    }

    private func collect(
        _ output: borrowing Pipe,
        into printed: inout [UInt8],
        _ errors: borrowing Pipe,
        into complaint: inout [UInt8],
        until deadline: MonotonicTime
    ) throws(KubeError) {
        var polls = [
            pollfd(fd: output.readEnd, events: Int16(POLLIN), revents: 0),
            pollfd(fd: errors.readEnd, events: Int16(POLLIN), revents: 0),
        ]
        var chunk = [UInt8](repeating: 0, count: 16_384)
        while polls.contains(where: { $0.fd >= 0 }) {
            let left = (deadline - .now()).inSeconds
            guard left > 0 else {
                throw KubeError(.timeout, "exec plugin \(self.command) ran longer than \(self.timeLimit)")
            }
            guard poll(&polls, 2, Int32(min(left * 1000 + 1, 60_000))) > 0 else { continue }
            for index in polls.indices where polls[index].revents != 0 {
                let count = read(polls[index].fd, &chunk, chunk.count)
                if count < 0 && errno == EINTR { continue }
                if count <= 0 {
                    polls[index].fd = -1
                } else if index == 0 {
                    printed.append(contentsOf: chunk[..<count])
                } else {
                    complaint = Array((complaint + chunk[..<count]).suffix(4096))
                }
            }
            guard printed.count <= Self.outputLimit else {
                throw KubeError(.tooLarge, "exec plugin \(self.command) printed more than \(Self.outputLimit) bytes")
            }
        }
    }

    /// The exit status, or 128 and the signal. A process that closed its output but stays is killed at the deadline.
    private func wait(_ pid: pid_t, until deadline: MonotonicTime) -> Int32 {
        var status: Int32 = 0
        while true {
            let ended = waitpid(pid, &status, WNOHANG)
            if ended == pid { break }
            if ended < 0 && errno != EINTR { return -1 }
            if MonotonicTime.now() >= deadline { kill(-pid, SIGKILL) }
            usleep(2_000)
        }
        let signal = status & 0x7F
        return signal == 0 ? (status >> 8) & 0xFF : 128 + signal
    }
}

/// A pipe whose ends are not inherited, unless a spawn duplicates them.
private struct Pipe {
    private(set) var readEnd: Int32
    private(set) var writeEnd: Int32

    init() throws(KubeError) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else {
            throw KubeError(.credentials, "cannot make a pipe: \(String(cString: strerror(errno)))")
        }
        self.readEnd = ends[0]
        self.writeEnd = ends[1]
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    }

    mutating func closeWriteEnd() {
        if self.writeEnd >= 0 { Glibc.close(self.writeEnd) }
        self.writeEnd = -1
    }

    mutating func close() {
        self.closeWriteEnd()
        Glibc.close(self.readEnd)
    }
}
