import Glibc
public import Logging
import MeshCore
import Synchronization

/// Writes log lines in klog's format to a file descriptor, one write(2) a line and without a buffer, so that the last
/// line before a crash is there. Lines of one place in the code are rate-bounded at the verbosities meant for daily use.
public struct KlogHandler: LogHandler {
    public var metadata: Logger.Metadata = [:]
    public var metadataProvider: Logger.MetadataProvider?
    public var logLevel: Logger.Level

    private let sink: Sink

    /// What all handlers of the process share.
    final class Sink: Sendable {
        let descriptor: Int32
        let processID: Int32
        let isRateBounded: Bool
        let limiter = Mutex(LogRateLimiter())

        init(descriptor: Int32, isRateBounded: Bool) {
            self.descriptor = descriptor
            self.processID = getpid()
            self.isRateBounded = isRateBounded
        }

        func write(_ line: String) {
            var line = line
            line.withUTF8 { bytes in
                var rest = UnsafeRawBufferPointer(bytes)
                while let base = rest.baseAddress, !rest.isEmpty {
                    let count = Glibc.write(self.descriptor, base, rest.count)
                    // A log that cannot be written has nowhere to say so.
                    if count < 0, errno == EINTR { continue }
                    guard count > 0 else { return }
                    rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                }
            }
        }
    }

    init(sink: Sink, level: Logger.Level) {
        self.sink = sink
        self.logLevel = level
    }

    /// Makes this the handler of every logger of the process. Call once, before the first logger is made.
    /// - Parameter verbosity: klog's `-v`: 4 shows single connections and queries, 6 everything.
    public static func bootstrap(verbosity: Int) {
        let sink = Sink(descriptor: STDERR_FILENO, isRateBounded: verbosity < 4)
        let level = Self.level(forVerbosity: verbosity)
        LoggingSystem.bootstrap { _ in KlogHandler(sink: sink, level: level) }
    }

    static func level(forVerbosity verbosity: Int) -> Logger.Level {
        switch verbosity {
        case ..<4: .info
        case 4..<6: .debug
        default: .trace
        }
    }

    public func log(event: LogEvent) {
        var metadata = self.metadata
        if let provided = self.metadataProvider?.get() {
            metadata.merge(provided) { $1 }
        }
        if let own = event.metadata {
            metadata.merge(own) { $1 }
        }
        if let error = event.error {
            metadata["error"] = "\(error)"
        }
        if self.sink.isRateBounded {
            let place = LogRateLimiter.Place(file: event.file, line: event.line)
            switch self.sink.limiter.withLock({ $0.check(place, now: .now()) }) {
            case .suppress: return
            case .write(let suppressed) where suppressed > 0: metadata["suppressed"] = "\(suppressed)"
            case .write: break
            }
        }
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        self.sink.write(
            KlogFormat.line(
                level: event.level,
                time: time,
                processID: self.sink.processID,
                file: event.file,
                line: event.line,
                message: event.message.description,
                metadata: metadata
            )
        )
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { self.metadata[key] }
        set { self.metadata[key] = newValue }
    }
}
