import Configuration
import Documents
import Logging
import MeshCore
import ServiceLifecycle
import UnixSignals

/// Reads the configuration again when asked, and puts in force what can change live. A broken file keeps the old one.
actor ConfigReloader {
    private let source: ConfigSource
    private let logger: Logger
    private let apply: @Sendable (_ new: AgentConfiguration) async -> Void
    /// What the process started with: a restart is needed as long as the file differs from it.
    private let started: AgentConfiguration
    private var current: AgentConfiguration
    private var warnings: [String]
    private var restartNeeded: [String] = []
    private var failure: ConfigSource.Failure?
    /// The file that was read last, whoever asked for that.
    private var readFile: ConfigSource.FileIdentity?

    init(
        source: ConfigSource,
        started: ConfigSource.Reading,
        logger: Logger,
        apply: @escaping @Sendable (AgentConfiguration) async -> Void
    ) {
        self.source = source
        self.started = started.configuration
        self.current = started.configuration
        self.warnings = started.warnings
        self.readFile = started.file
        self.logger = logger
        self.apply = apply
    }

    /// Reads and applies if the file is another than the one that was read last; a file that is gone for a moment is being
    /// replaced.
    func reloadIfChanged() async {
        guard let present = self.source.fileIdentity, present != self.readFile else { return }
        _ = await self.reload()
    }

    /// Reads and applies; the answer has `applied` and `restartNeeded`, or `error`.
    func reload() async -> Document {
        let reading: ConfigSource.Reading
        self.readFile = self.source.fileIdentity
        do {
            reading = try self.source.read()
        } catch {
            self.failure = error
            for line in error.lines { self.logger.error("The new configuration is not in force: \(line)") }
            return ["error": .string(error.description)]
        }
        self.failure = nil
        self.warnings = reading.warnings
        let live = ConfigurationDiff(from: self.current, to: reading.configuration).live
        self.restartNeeded = ConfigurationDiff(from: self.started, to: reading.configuration).restart
        self.current = reading.configuration
        if !live.isEmpty { await self.apply(reading.configuration) }
        self.logger.notice(
            "The configuration was read again",
            metadata: [
                "applied": "\(live.joined(separator: ","))",
                "restart-needed": "\(self.restartNeeded.joined(separator: ","))",
            ]
        )
        for warning in reading.warnings { self.logger.warning("\(warning)") }
        return [
            "applied": .array(live.map { .string($0) }),
            "restartNeeded": .array(self.restartNeeded.map { .string($0) }),
        ]
    }

    /// For status.
    var state: (config: Document, warnings: [String]) {
        (
            [
                "file": .string(self.source.description),
                "error": self.failure.map { .string($0.description) } ?? nil,
                "restartNeeded": .array(self.restartNeeded.map { .string($0) }),
            ],
            self.warnings
        )
    }
}

/// Reloads on SIGHUP and when the file changes. The file is looked at rather than watched: one stat(2) in a while sees
/// every way in which editors and mounted ConfigMaps replace it.
struct ConfigWatchService: Service {
    static let interval = Duration.seconds(3)

    let reloader: ConfigReloader

    func run() async throws {
        await withTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                for await _ in await UnixSignalsSequence(trapping: .sighup).cancelOnGracefulShutdown() {
                    _ = await self.reloader.reload()
                }
            }
            tasks.addTask {
                while (try? await cancelWhenGracefulShutdown({ try await Task.sleep(for: Self.interval) })) != nil,
                    !Task.isShuttingDownGracefully
                {
                    await self.reloader.reloadIfChanged()
                }
            }
        }
    }
}
