import NIOCore

/// The processors that the process may use: two loops on one of them would take turns for each batch of bytes.
enum Processors {
    /// At least 1: those that it is bound to (sched_setaffinity(2)), and no more than its control group's share.
    static func usable() -> Int {
        let status = (try? ConfigSource.readFile("/proc/self/status")).map { String(decoding: $0, as: UTF8.self) }
        return max(1, min(System.coreCount, status.flatMap { Self.allowed($0) } ?? .max))
    }

    /// The bits of `Cpus_allowed` (proc(5)).
    static func allowed(_ status: String) -> Int? {
        guard let line = status.split(separator: "\n").first(where: { $0.hasPrefix("Cpus_allowed:") }) else {
            return nil
        }
        return line.dropFirst("Cpus_allowed:".count).reduce(0) { $0 + ($1.hexDigitValue?.nonzeroBitCount ?? 0) }
    }
}
