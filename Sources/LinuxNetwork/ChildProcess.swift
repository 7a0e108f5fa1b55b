import Dispatch
import Glibc
import MeshCore

/// A tool of the system, run to its end with its output and its time bounded. No shell is involved.
public struct ChildProcess: Sendable {
    /// What a tool may print in all; a table of 10,000 services takes about 10 MB.
    static let outputLimit = 64 << 20

    public struct Output: Sendable {
        /// The exit code, or 128 and the signal.
        public var status: Int32
        public var standardOutput: [UInt8]
        /// The end of it, at most 4 KiB.
        public var standardError: String

        var text: String { String(decoding: self.standardOutput, as: UTF8.self) }
    }

    /// A path, or a name that is looked up in `PATH`.
    var program: String
    var arguments: [String]
    /// Its variables; nil for a search path and English messages, which the callers read.
    var environment: [String: String]?
    var input: [UInt8]
    var timeLimit: Duration

    public init(
        program: String,
        arguments: [String] = [],
        environment: [String: String]? = nil,
        input: [UInt8] = [],
        timeLimit: Duration = .seconds(30)
    ) {
        self.program = program
        self.arguments = arguments
        self.environment = environment
        self.input = input
        self.timeLimit = timeLimit
    }

    /// Runs it on a thread that may block, in a network namespace if one is given.
    func run(in namespace: NetworkNamespace? = nil) async throws -> Output {
        try await withCheckedThrowingContinuation { continuation in
            DispatchQueue.global().async {
                continuation.resume(
                    with: Result { try namespace.map { try $0.run { try self.runBlocking() } } ?? self.runBlocking() }
                )
            }
        }
    }

    /// Blocks the calling thread. Throws if the tool cannot be started, prints too much or takes too long; its exit code
    /// is the caller's to judge.
    public func runBlocking() throws(LinuxNetworkError) -> Output {
        // The input goes through a socket: a write to a tool that is gone is then an error, not a signal.
        let input = try DescriptorPair.socket()
        let output = try DescriptorPair.pipe()
        let errors = try DescriptorPair.pipe()
        let child = try self.spawn(input: input.far, output: output.far, errors: errors.far)
        for pair in [input, output, errors] { pair.closeFar() }
        let deadline = MonotonicTime.now() + self.timeLimit
        do {
            let (printed, complaint) = try self.exchange(input, output, errors, until: deadline)
            let status = Self.wait(child, until: deadline)
            return Output(
                status: status,
                standardOutput: printed,
                standardError: String(decoding: complaint, as: UTF8.self)
            )
        } catch {
            kill(-child, SIGKILL)
            _ = Self.wait(child, until: deadline)
            throw error
        }
    }

    private func spawn(input: Int32, output: Int32, errors: Int32) throws(LinuxNetworkError) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (index, descriptor) in [input, output, errors].enumerated() {
            posix_spawn_file_actions_adddup2(&actions, descriptor, Int32(index))
        }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // A group of its own, so that a time-out also kills what the tool started; no signal stays blocked.
        posix_spawnattr_setpgroup(&attributes, 0)
        var mask = sigset_t()
        sigemptyset(&mask)
        posix_spawnattr_setsigmask(&attributes, &mask)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK))

        let words = [self.program] + self.arguments
        let variables = (self.environment ?? ["PATH": Self.searchPath, "LC_ALL": "C"]).map { "\($0.key)=\($0.value)" }
        let argv: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        let envp: [UnsafeMutablePointer<CChar>?] = variables.map { strdup($0) } + [nil]
        defer { for pointer in argv + envp { free(pointer) } }
        var child: pid_t = 0
        guard let path = Self.find(self.program) else {
            throw LinuxNetworkError(.system(ENOENT), "\(self.program) is not installed (looked in \(Self.searchPath))")
        }
        let code = posix_spawn(&child, path, &actions, &attributes, argv, envp)
        guard code == 0 else { throw LinuxNetworkError(.system(code), "cannot run \(path)") }
        return child
    }

    private func exchange(
        _ input: DescriptorPair,
        _ output: DescriptorPair,
        _ errors: DescriptorPair,
        until deadline: MonotonicTime
    ) throws(LinuxNetworkError) -> (printed: [UInt8], complaint: [UInt8]) {
        var rest = self.input[...]
        var printed: [UInt8] = []
        var complaint: [UInt8] = []
        var polls = [
            pollfd(fd: output.near, events: Int16(POLLIN), revents: 0),
            pollfd(fd: errors.near, events: Int16(POLLIN), revents: 0),
            pollfd(fd: input.near, events: Int16(POLLOUT), revents: 0),
        ]
        if rest.isEmpty {
            input.closeNear()
            polls[2].fd = -1
        }
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while polls[0].fd >= 0 || polls[1].fd >= 0 {
            let left = (deadline - .now()).inSeconds
            guard left > 0 else {
                throw LinuxNetworkError(.timeout, "\(self.program) ran longer than \(self.timeLimit) and was killed")
            }
            guard poll(&polls, 3, Int32(min(left * 1000 + 1, 60_000))) > 0 else { continue }
            for index in 0...1 where polls[index].fd >= 0 && polls[index].revents != 0 {
                let count = read(polls[index].fd, &chunk, chunk.count)
                if count < 0, errno == EINTR { continue }
                if count <= 0 {
                    polls[index].fd = -1
                } else if index == 0 {
                    printed += chunk[..<count]
                } else {
                    complaint = Array((complaint + chunk[..<count]).suffix(4096))
                }
            }
            if polls[2].fd >= 0, polls[2].revents != 0 {
                let flags = Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)
                let count = rest.withUnsafeBytes { send(polls[2].fd, $0.baseAddress, $0.count, flags) }
                if count > 0 { rest = rest.dropFirst(count) }
                // A tool that stopped reading says why by its exit code.
                if rest.isEmpty || (count < 0 && errno != EAGAIN && errno != EINTR) {
                    input.closeNear()
                    polls[2].fd = -1
                }
            }
            guard printed.count <= Self.outputLimit else {
                throw LinuxNetworkError(.tooLarge, "\(self.program) printed more than \(Self.outputLimit) bytes")
            }
        }
        return (printed, complaint)
    }

    /// A process that closed its output but stays is killed at the deadline.
    private static func wait(_ child: pid_t, until deadline: MonotonicTime) -> Int32 {
        var status: Int32 = 0
        while true {
            let ended = waitpid(child, &status, WNOHANG)
            if ended == child { break }
            if ended < 0, errno != EINTR { return -1 }
            if MonotonicTime.now() >= deadline { kill(-child, SIGKILL) }
            usleep(1_000)
        }
        let signal = status & 0x7F
        return signal == 0 ? (status >> 8) & 0xFF : 128 + signal
    }

    /// A daemon may be started without a `PATH`, or without the directories of system tools in it.
    static var searchPath: String {
        let own = getenv("PATH").map { String(cString: $0) } ?? ""
        return own.isEmpty ? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" : own
    }

    /// The file that a name stands for; nil if there is none.
    static func find(_ program: String, in path: String = searchPath) -> String? {
        guard !program.contains("/") else { return access(program, X_OK) == 0 ? program : nil }
        return path.split(separator: ":").lazy.map { "\($0)/\(program)" }.first { access($0, X_OK) == 0 }
    }
}

/// Two connected descriptors, neither inherited: the near one is ours, the far one is duplicated for the child.
private final class DescriptorPair {
    private(set) var near: Int32
    private(set) var far: Int32

    private init(near: Int32, far: Int32) {
        self.near = near
        self.far = far
        // pipe2 is out of Swift's reach. A child that another thread starts in this instant may inherit the descriptor;
        // it then delays the end of input or output until it ends itself, at most the time limit.
        for descriptor in [near, far] { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
    }

    deinit {
        self.closeNear()
        self.closeFar()
    }

    /// The far end writes.
    static func pipe() throws(LinuxNetworkError) -> DescriptorPair {
        var ends: [Int32] = [-1, -1]
        guard Glibc.pipe(&ends) == 0 else { throw systemError("cannot make a pipe") }
        return DescriptorPair(near: ends[0], far: ends[1])
    }

    static func socket() throws(LinuxNetworkError) -> DescriptorPair {
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw systemError("cannot make a pair of sockets")
        }
        return DescriptorPair(near: ends[0], far: ends[1])
    }

    func closeNear() {
        if self.near >= 0 { close(self.near) }
        self.near = -1
    }

    func closeFar() {
        if self.far >= 0 { close(self.far) }
        self.far = -1
    }
}
