import CLinux
import Glibc
public import MeshCore
import NIOPosix
import Synchronization

/// A lab that exists: network namespaces of its own on this machine, and the processes started in them.
///
/// Safe to use from anywhere. `remove()` takes everything away; if this process dies first, the next lab that is
/// created does, or `edgemesh lab clean`.
public final class Lab: Sendable {
    public let plan: LabPlan
    /// For files of the lab; removed with it.
    public let directory: String
    private let state: LabState
    private let lock: Mutex<LabLock?>
    private let namespaces: [String: NamespaceHandle]
    private let processes = Mutex<[LabProcess]>([])
    let links: LabLinks

    private init(plan: LabPlan, state: LabState, lock: consuming LabLock, namespaces: [String: NamespaceHandle]) {
        self.plan = plan
        self.state = state
        self.directory = state.directory
        self.lock = Mutex(lock)
        self.namespaces = namespaces
        self.links = LabLinks(plan)
    }

    /// Builds the lab, removing first what dead processes left. On error nothing stays behind.
    public static func create(_ plan: LabPlan) async throws -> Lab {
        try plan.validate()
        try LabPrivileges.check()
        try LabCleaner.cleanAbandoned()
        guard let lock = try LabLock.take(plan.name) else {
            throw LabError(
                .inUse,
                "lab '\(plan.name)' is run by process \(LabState.load(plan.name)?.owner ?? 0); stop it or use another name"
            )
        }
        let state = LabState(name: plan.name, owner: getpid(), namespaces: plan.namespaces)
        if let leftover = LabState.load(plan.name) { try LabCleaner.remove(leftover) }
        Files.removeTree(state.directory)
        try Files.makeDirectory(state.directory)
        try state.save()
        do {
            let namespaces = try await Self.build(plan, in: state.directory)
            return Lab(plan: plan, state: state, lock: lock, namespaces: namespaces)
        } catch {
            try? LabCleaner.remove(state)
            throw error
        }
    }

    private static func build(_ plan: LabPlan, in directory: String) async throws -> [String: NamespaceHandle] {
        let script = LabScript(plan)
        if plan.hosts.contains(where: { !$0.bridges.isEmpty }), !Files.exists("/proc/sys/net/bridge") {
            // Where this fails, setting the key below says so.
            _ = try? await Command.runLocal(["modprobe", "br_netfilter"])
        }
        try await Self.runIP(script.machine)
        var namespaces: [String: NamespaceHandle] = [:]
        for section in script.sections {
            let namespace = try NamespaceHandle(named: section.namespace)
            try await Self.runIP(in: section.namespace, section.commands)
            for sysctl in section.sysctls { try Self.apply(sysctl, in: namespace) }
            if !section.nftables.isEmpty {
                try await Command.runLocal(
                    ["ip", "netns", "exec", section.namespace, "nft", "-f", "-"],
                    input: section.nftables
                )
            }
            namespaces[section.namespace] = namespace
        }
        for host in plan.hosts {
            try Files.write(
                host.resolverConfiguration,
                to: LabState.resolverConfiguration(of: host.name, in: directory)
            )
            if host.hasOwnRunDirectory {
                try Files.makeDirectory(LabState.runDirectory)
                try Files.makeDirectory(LabState.runDirectory(of: host.name, in: directory))
            }
        }
        return namespaces
    }

    private static func runIP(in namespace: String? = nil, _ commands: [String]) async throws {
        try await NIOThreadPool.singleton.runIfActive { try Command.runIP(in: namespace, commands) }
    }

    private static func apply(_ sysctl: LabScript.Sysctl, in namespace: NamespaceHandle) throws(LabError) {
        let path = "/proc/sys/net/\(sysctl.key)"
        try namespace.perform { () throws(LabError) in
            let descriptor = open(path, O_WRONLY | O_CLOEXEC)
            guard descriptor >= 0 else {
                if sysctl.isOptional, errno == ENOENT { return }
                let mend = sysctl.key.hasPrefix("bridge/") ? " (run: modprobe br_netfilter)" : ""
                throw LabError(.notPermitted, "cannot set \(path)\(mend)", cause: describe(errno: errno))
            }
            defer { close(descriptor) }
            guard write(descriptor, sysctl.value, sysctl.value.utf8.count) > 0 else { throw Files.error("write", path) }
        }
    }

    /// Ends all processes of the lab and removes it. Calling it again does nothing.
    public func remove() throws {
        try self.lock.withLock { lock throws in
            guard lock != nil else { return }
            let processes = self.processes.withLock { $0 }
            for process in processes { process.signal(SIGKILL) }
            // They are our children: as zombies they would keep their numbers.
            let end = MonotonicTime.now() + .seconds(3)
            while processes.contains(where: \.isRunning), MonotonicTime.now() < end { usleep(1000) }
            // Their sockets would keep the namespaces alive.
            self.links.stop()
            try LabCleaner.remove(self.state)
            lock = nil
        }
    }

    /// Leaves everything where it is, as a process does that is killed.
    func abandonForTesting() {
        self.links.stop()
        self.lock.withLock { $0 = nil }
    }
}

// MARK: - Processes

extension Lab {
    /// Starts a program in a host; its output is appended to `<log>.log` in the lab's directory.
    ///
    /// - Parameter arguments: The command. `program` is the file to run if it is not `arguments[0]`.
    public func start(
        on host: String,
        _ arguments: [String],
        program: String? = nil,
        environment: [String: String] = [:],
        log: String? = nil
    ) throws(LabError) -> LabProcess {
        let logFile = "\(self.directory)/\(log ?? host).log"
        var request = try self.request(on: host, arguments, program: program, environment: environment)
        let output = open(logFile, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
        guard output >= 0 else { throw Files.error("write", logFile) }
        defer { close(output) }
        let null = open("/dev/null", O_RDONLY | O_CLOEXEC)
        defer { close(null) }
        request.standardInput = null
        request.standardOutput = output
        request.standardError = output
        let process = LabProcess(processID: try request.start(), host: host, arguments: arguments, logFile: logFile)
        self.processes.withLock { processes in
            processes.removeAll { !$0.isRunning }
            processes.append(process)
        }
        return process
    }

    /// Runs a program in a host to its end, whatever its exit code is. It is killed at the deadline.
    public func run(
        on host: String,
        _ arguments: [String],
        program: String? = nil,
        input: String = "",
        environment: [String: String] = [:],
        deadline: Duration = .seconds(10)
    ) async throws -> CommandOutput {
        let request = try self.request(on: host, arguments, program: program, environment: environment)
        return try await Command.run(request, input: input, deadline: deadline)
    }

    /// Runs a program in a host and returns its standard output; throws if its exit code is not 0.
    @discardableResult
    public func output(
        on host: String,
        _ arguments: [String],
        program: String? = nil,
        input: String = "",
        deadline: Duration = .seconds(10)
    ) async throws -> String {
        let output = try await self.run(on: host, arguments, program: program, input: input, deadline: deadline)
        guard output.status.isSuccess else {
            throw LabError(
                .commandFailed,
                "'\(arguments.joined(separator: " "))' on \(host) failed (\(output.status))",
                cause: (output.standardError + output.standardOutput).trimmed
            )
        }
        return output.standardOutput
    }

    private func request(
        on host: String,
        _ arguments: [String],
        program: String?,
        environment: [String: String]
    ) throws(LabError) -> SpawnRequest {
        SpawnRequest(
            arguments: arguments,
            program: program,
            environment: labEnvironment(lab: self.plan.name, adding: environment),
            namespace: try self.handle(of: host).descriptor,
            mounts: self.state.mounts(of: host),
            standardInput: 0,
            standardOutput: 1,
            standardError: 2
        )
    }

    func handle(of host: String) throws(LabError) -> NamespaceHandle {
        guard let handle = self.namespaces[self.plan.namespace(of: host)] else {
            let names = self.plan.hosts.map(\.name).joined(separator: ", ")
            throw LabError(.usage, "lab '\(self.plan.name)' has no host '\(host)'; it has: \(names)")
        }
        return handle
    }

    /// Calls `body` on this thread inside the host's network: sockets made there stay in it.
    public func withNetwork<Result>(
        of host: String,
        _ body: () throws(LabError) -> Result
    ) throws(LabError) -> Result {
        try self.handle(of: host).perform(body)
    }
}

// MARK: - Readiness

extension Lab {
    /// Polls until `condition` holds.
    public func wait(
        for what: String,
        within deadline: Duration = .seconds(30),
        until condition: () async throws -> Bool
    ) async throws {
        let end = MonotonicTime.now() + deadline
        while try await !condition() {
            guard MonotonicTime.now() < end else {
                throw LabError(.deadlineExceeded, "waited \(deadline) for \(what)")
            }
            try await Task.sleep(for: .milliseconds(5))
        }
    }

    /// Waits until `process` listens on a port, and fails at once if it ends before.
    public func waitForListener(
        _ process: LabProcess,
        _ transport: TransportProtocol,
        port: UInt16,
        within deadline: Duration = .seconds(10)
    ) async throws {
        do {
            try await self.wait(for: "'\(process.command)' to listen on \(transport) port \(port)", within: deadline) {
                if let status = process.exitStatus {
                    throw LabError(.commandFailed, "'\(process.command)' on \(process.host) ended with \(status)")
                }
                return process.isListening(transport, port: port)
            }
        } catch let error as LabError {
            throw LabError(error.code, error.message, cause: process.logTail())
        }
    }
}

/// An open network namespace.
final class NamespaceHandle: Sendable {
    let descriptor: Int32

    /// - Parameter process: A process in whose mount namespace it has this name, if that is not ours.
    init(named name: String, asSeenBy process: Int32? = nil) throws(LabError) {
        let path = (process.map { "/proc/\($0)/root" } ?? "") + "\(LabState.namespaceRoot)/\(name)"
        self.descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard self.descriptor >= 0 else { throw Files.error("open", path) }
    }

    /// Runs `body`, which cannot suspend, on the calling thread inside the namespace.
    func perform<Result>(_ body: () throws(LabError) -> Result) throws(LabError) -> Result {
        let previous = clinux_lab_enter_netns(self.descriptor)
        guard previous >= 0 else {
            throw LabError(.notPermitted, "cannot enter a network namespace", cause: describe(errno: errno))
        }
        defer { clinux_lab_leave_netns(previous) }
        return try body()
    }

    deinit { close(self.descriptor) }
}
