import CLinux
import Glibc
import MeshCore
import Synchronization

/// A process that runs in a host of a lab. Safe to use from anywhere.
public final class LabProcess: Sendable {
    public let processID: Int32
    public let host: String
    public let arguments: [String]
    /// Where its output goes.
    public let logFile: String
    /// Readable once the process has ended.
    private let handle: Int32
    private let status = Mutex<ExitStatus?>(nil)

    init(processID: Int32, host: String, arguments: [String], logFile: String) {
        self.processID = processID
        self.host = host
        self.arguments = arguments
        self.logFile = logFile
        self.handle = clinux_lab_pidfd_open(processID)
    }

    deinit {
        // Nobody else can wait for it: a process that is left running becomes a zombie of ours when it ends.
        _ = self.exitStatus
        close(self.handle)
    }

    public var command: String { self.arguments.joined(separator: " ") }

    /// How it ended; nil while it runs.
    public var exitStatus: ExitStatus? {
        self.status.withLock { known in
            if known == nil {
                var status: Int32 = 0
                if waitpid(self.processID, &status, WNOHANG) == self.processID {
                    known = ExitStatus(waitStatus: status)
                }
            }
            return known
        }
    }

    public var isRunning: Bool { self.exitStatus == nil }

    /// Sends a signal to the process and its children.
    public func signal(_ number: Int32) {
        // Under the lock, so that its number is not another process's already.
        self.status.withLock { known in
            if known == nil { _ = Glibc.kill(-self.processID, number) }
        }
    }

    /// SIGKILL, and waits until it is gone.
    public func kill() async throws {
        self.signal(SIGKILL)
        _ = try await self.exit(within: .seconds(5))
    }

    /// SIGTERM; SIGKILL if it does not end within `grace`.
    @discardableResult
    public func stop(grace: Duration = .seconds(5)) async throws -> ExitStatus {
        self.signal(SIGTERM)
        if let status = try? await self.exit(within: grace) { return status }
        self.signal(SIGKILL)
        return try await self.exit(within: .seconds(5))
    }

    /// Waits for its end.
    public func exit(within deadline: Duration) async throws -> ExitStatus {
        let handle = self.handle
        try await Command.onThread {
            let end = MonotonicTime.now() + deadline
            var polled = pollfd(fd: handle, events: Int16(POLLIN), revents: 0)
            while polled.revents == 0 {
                let remaining = end - .now()
                guard remaining > .zero else { break }
                _ = poll(&polled, 1, Int32(clamping: remaining.saturatedNanoseconds / 1_000_000 + 1))
            }
        }
        guard let status = self.exitStatus else {
            throw LabError(.deadlineExceeded, "'\(self.command)' on \(self.host) did not end within \(deadline)")
        }
        return status
    }

    /// All that is in its log.
    public var log: String { (try? Files.readText(self.logFile)) ?? "" }

    /// The last lines of its log, for error messages.
    public func logTail(lines count: Int = 12) -> String {
        guard let text = try? Files.readText(self.logFile) else { return "" }
        return text.split(separator: "\n").suffix(count).joined(separator: "\n")
    }

    /// Whether a socket of its network namespace listens on `port`.
    func isListening(_ transport: TransportProtocol, port: UInt16) -> Bool {
        let wanted =
            ":" + String(repeating: "0", count: 4 - String(port, radix: 16).count)
            + String(port, radix: 16, uppercase: true)
        // Fields of /proc/net/tcp: number, local address, remote address, state (0A is LISTEN).
        return ["", "6"].contains { family in
            let table = (try? Files.readText("/proc/\(self.processID)/net/\(transport)\(family)")) ?? ""
            return table.split(separator: "\n").dropFirst().contains { line in
                let fields = line.split(separator: " ", maxSplits: 4)
                return fields.count > 3 && fields[1].hasSuffix(wanted) && (transport == .udp || fields[3] == "0A")
            }
        }
    }
}
