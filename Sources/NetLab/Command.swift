import CLinux
import Dispatch
import Glibc
import MeshCore

/// What a program that ran to its end has left.
public struct CommandOutput: Sendable, Hashable {
    public var status: ExitStatus
    public var standardOutput: String
    public var standardError: String

    /// The lines of standard output that are not empty.
    public var lines: [String] {
        self.standardOutput.split(whereSeparator: \.isNewline).map(String.init)
    }
}

/// Runs programs to their end with captured output.
enum Command {
    /// More output than this ends the program: nothing in a lab has reason to print it.
    static let maximumOutput = 16 << 20

    /// Runs `request` (its descriptors are replaced) on a thread that may block.
    static func run(
        _ request: SpawnRequest,
        input: String,
        deadline: Duration
    ) async throws -> CommandOutput {
        try await Self.onThread { try Self.runBlocking(request, input: input, deadline: deadline) }
    }

    /// Runs a program of this machine, outside of any host of a lab, and throws if it fails.
    @discardableResult
    static func runLocal(
        _ arguments: [String],
        input: String = ""
    ) async throws -> CommandOutput {
        try await Self.onThread { try Self.runLocalBlocking(arguments, input: input) }
    }

    /// Programs run side by side for as long as they like: a pool of as many threads as the machine has processors would have a
    /// third one wait until two clients that measure have ended.
    static func onThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value
    {
        try await withCheckedThrowingContinuation { continuation in
            DispatchQueue.global().async { continuation.resume(with: Result { try body() }) }
        }
    }

    @discardableResult
    static func runLocalBlocking(
        _ arguments: [String],
        input: String
    ) throws(LabError) -> CommandOutput {
        let request = SpawnRequest(
            arguments: arguments,
            environment: labEnvironment(lab: nil, adding: [:]),
            standardInput: 0,
            standardOutput: 1,
            standardError: 2
        )
        let output = try Self.runBlocking(request, input: input, deadline: .seconds(10))
        guard output.status.isSuccess else {
            throw LabError(
                .commandFailed,
                "'\(arguments.joined(separator: " "))' failed (\(output.status))",
                cause: (output.standardError + output.standardOutput).trimmed
            )
        }
        return output
    }

    /// Runs commands of `ip` in one go, in a namespace or outside of all. An error names the command that failed.
    static func runIP(in namespace: String? = nil, _ commands: [String]) throws(LabError) {
        guard !commands.isEmpty else { return }
        let options = namespace.map { ["-n", $0] } ?? []
        do {
            try Self.runLocalBlocking(
                ["ip"] + options + ["-batch", "-"],
                input: commands.joined(separator: "\n") + "\n"
            )
        } catch {
            guard error.code == .commandFailed else { throw error }
            let line = Self.failedLine(of: commands, said: error.cause ?? "") ?? "(one of \(commands.count) commands)"
            throw LabError(.commandFailed, "'ip \(options.joined(separator: " ")) \(line)' failed", cause: error.cause)
        }
    }

    /// iproute2 says "Command failed -:3", counted from 1; of an argument that it cannot read it quotes the argument.
    private static func failedLine(of commands: [String], said: String) -> String? {
        if let number = said.split(separator: "-:").last.flatMap({ Int($0.prefix { $0.isNumber }) }),
            commands.indices.contains(number - 1)
        {
            return commands[number - 1]
        }
        let quoted = said.split(separator: "\"").dropFirst().first.map(String.init)
        return quoted.flatMap { quoted in commands.first { $0.split(separator: " ").contains(Substring(quoted)) } }
    }

    static func runBlocking(
        _ request: SpawnRequest,
        input: String,
        deadline: Duration
    ) throws(LabError) -> CommandOutput {
        var request = request
        let output = try Pipe()
        let errors = try Pipe()
        request.standardOutput = output.writeEnd
        request.standardError = errors.writeEnd
        // Input is small text. A file instead of a pipe cannot block us on a program that does not read it.
        let inputFile = clinux_lab_memory_file()
        guard inputFile >= 0 else { throw Files.error("create", "memory file") }
        let written = Array(input.utf8).withUnsafeBytes { write(inputFile, $0.baseAddress, $0.count) }
        lseek(inputFile, 0, SEEK_SET)
        request.standardInput = inputFile
        defer { close(inputFile) }
        guard written == input.utf8.count else { throw Files.error("write", "memory file") }

        let child = try request.start()
        output.closeWriteEnd()
        errors.closeWriteEnd()
        let handle = clinux_lab_pidfd_open(child)
        defer { close(handle) }

        let end = MonotonicTime.now() + deadline
        var captured: [[UInt8]] = [[], []]
        var open = [true, true]
        var failure: LabError?
        let command = request.arguments.joined(separator: " ")
        while true {
            let remaining = end - .now()
            guard remaining > .zero else {
                failure = LabError(
                    .deadlineExceeded,
                    "'\(command)' did not end within \(deadline)",
                    cause: captured.map { String(decoding: $0, as: UTF8.self) }.joined().trimmed
                )
                break
            }
            var polled = [
                pollfd(fd: open[0] ? output.readEnd : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: open[1] ? errors.readEnd : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: handle, events: Int16(POLLIN), revents: 0),
            ]
            _ = poll(&polled, 3, Int32(clamping: remaining.saturatedNanoseconds / 1_000_000 + 1))
            for (index, pipe) in [output, errors].enumerated() where polled[index].revents != 0 {
                open[index] = pipe.read(into: &captured[index])
            }
            guard captured[0].count + captured[1].count <= Self.maximumOutput else {
                failure = LabError(.commandFailed, "'\(command)' printed more than \(Self.maximumOutput) bytes")
                break
            }
            // Its children may hold the pipes open: what counts is the program itself.
            if polled[2].revents != 0, polled[0].revents == 0, polled[1].revents == 0 { break }
        }
        if failure != nil { kill(-child, SIGKILL) }
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0, errno == EINTR {}
        if let failure { throw failure }
        return CommandOutput(
            status: ExitStatus(waitStatus: status),
            standardOutput: String(decoding: captured[0], as: UTF8.self),
            standardError: String(decoding: captured[1], as: UTF8.self)
        )
    }
}

/// Both ends of a pipe; closed when it goes.
private final class Pipe {
    let readEnd: Int32
    private(set) var writeEnd: Int32

    init() throws(LabError) {
        var ends: [Int32] = [-1, -1]
        guard clinux_lab_pipe(&ends) == 0 else { throw Files.error("create", "pipe") }
        self.readEnd = ends[0]
        self.writeEnd = ends[1]
    }

    func closeWriteEnd() {
        close(self.writeEnd)
        self.writeEnd = -1
    }

    /// Reads what is there. False at the end.
    func read(into bytes: inout [UInt8]) -> Bool {
        withUnsafeTemporaryAllocation(byteCount: 64 << 10, alignment: 16) { chunk in
            let count = Glibc.read(self.readEnd, chunk.baseAddress, chunk.count)
            if count > 0 { bytes.append(contentsOf: chunk[..<count]) }
            return count > 0
        }
    }

    deinit {
        close(self.readEnd)
        if self.writeEnd >= 0 { close(self.writeEnd) }
    }
}

extension String {
    /// Without white space at both ends.
    var trimmed: String {
        guard let first = self.firstIndex(where: { !$0.isWhitespace }),
            let last = self.lastIndex(where: { !$0.isWhitespace })
        else { return "" }
        return String(self[first...last])
    }
}
