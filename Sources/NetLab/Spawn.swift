import CLinux
import Glibc

/// How a process ended.
public enum ExitStatus: Sendable, Hashable, CustomStringConvertible {
    case exited(Int32)
    case signalled(Int32)

    public var isSuccess: Bool { self == .exited(0) }

    public var description: String {
        switch self {
        case .exited(let code): "exit code \(code)"
        case .signalled(let number): "signal \(number)"
        }
    }

    init(waitStatus status: Int32) {
        let signal = status & 0x7f
        self = signal == 0 ? .exited((status >> 8) & 0xff) : .signalled(signal)
    }
}

/// One process to be started, maybe inside a host of a lab.
struct SpawnRequest {
    var arguments: [String]
    /// The program, if it is not `arguments[0]`.
    var program: String?
    var environment: [String: String]
    /// A descriptor of the network namespace to run in; nil to stay in this process's.
    var namespace: Int32?
    /// What it sees in other places of the file system; only with a namespace.
    var mounts: [Mount] = []
    var standardInput: Int32
    var standardOutput: Int32
    var standardError: Int32
    var newSession = true

    struct Mount {
        var source: String
        /// Has to exist.
        var target: String
    }

    /// Starts it. The caller has to wait for the returned process.
    func start() throws(LabError) -> pid_t {
        guard let program = self.program ?? self.arguments.first else {
            throw LabError(.usage, "no command given")
        }
        var failedStep: UnsafePointer<CChar>?
        var error: Int32 = 0
        let child = withCStrings(self.arguments) { argv in
            withCStrings(self.environment.map { "\($0.key)=\($0.value)" }) { envp in
                withCStrings([program] + self.mounts.flatMap { [$0.source, $0.target] }) { texts in
                    let mounts = self.mounts.indices.map { index in
                        clinux_lab_mount(source: texts[1 + 2 * index], target: texts[2 + 2 * index])
                    }
                    return mounts.withUnsafeBufferPointer { mounts in
                        var request = clinux_lab_spawn()
                        request.program = UnsafePointer(texts[0])
                        request.argv = argv
                        request.envp = envp
                        request.netns = self.namespace ?? -1
                        request.mounts = mounts.baseAddress
                        request.mount_count = UInt32(mounts.count)
                        request.stdin_fd = self.standardInput
                        request.stdout_fd = self.standardOutput
                        request.stderr_fd = self.standardError
                        request.new_session = self.newSession ? 1 : 0
                        let child = clinux_lab_spawn(&request, &failedStep)
                        error = errno
                        return child
                    }
                }
            }
        }
        guard child > 0 else {
            let step = failedStep.map { String(cString: $0) } ?? "start"
            throw LabError(
                .spawnFailed,
                "cannot run '\(self.arguments.joined(separator: " "))': failed to \(step) (is it installed? see scripts/bootstrap)",
                cause: describe(errno: error)
            )
        }
        return child
    }
}

/// Calls `body` with a null-terminated array of C strings.
private func withCStrings<Result>(
    _ strings: [String],
    _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
    let copies = strings.map { strdup($0) } + [nil]
    defer { for copy in copies { free(copy) } }
    return copies.withUnsafeBufferPointer { buffer in
        // The array holds at least the terminator, so it has a base address.
        guard let base = buffer.baseAddress else { preconditionFailure("an array with an element has no address") }
        return body(base)
    }
}

/// Environment of processes in labs: little of ours, and the mark by which `LabCleaner` finds them.
func labEnvironment(lab: String?, adding additions: [String: String]) -> [String: String] {
    var environment = ["PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"]
    for name in ["PATH", "HOME", "TERM", "LD_LIBRARY_PATH", "SWIFT_BACKTRACE"] {
        if let value = getenv(name) { environment[name] = String(cString: value) }
    }
    if !(environment["PATH"]?.contains("/usr/sbin") ?? false) { environment["PATH", default: ""] += ":/usr/sbin:/sbin" }
    if let lab { environment[LabState.environmentMark] = lab }
    environment.merge(additions) { _, new in new }
    return environment
}
