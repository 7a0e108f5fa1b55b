import Documents
import MeshCore

/// Counts of durations in buckets that are 1/16 of their size wide: bounded, whatever is recorded.
struct LatencyHistogram: Sendable {
    private static let subBuckets: UInt64 = 16
    private var counts = [UInt64](repeating: 0, count: 64 * Int(Self.subBuckets))
    private(set) var count: UInt64 = 0
    private(set) var maximum: Duration = .zero

    mutating func record(_ latency: Duration) {
        self.counts[Self.bucket(of: UInt64(clamping: latency.saturatedNanoseconds))] += 1
        self.count += 1
        self.maximum = max(self.maximum, latency)
    }

    mutating func merge(_ other: LatencyHistogram) {
        for (index, count) in other.counts.enumerated() { self.counts[index] += count }
        self.count += other.count
        self.maximum = max(self.maximum, other.maximum)
    }

    /// The latency that `fraction` of all stayed within, up to 1/16 too long; zero if there are none.
    func quantile(_ fraction: Double) -> Duration {
        let wanted = max(1, UInt64((Double(self.count) * fraction).rounded(.up)))
        var seen: UInt64 = 0
        for (index, count) in self.counts.enumerated() where count > 0 {
            seen += count
            if seen >= wanted { return min(self.maximum, .nanoseconds(Int64(clamping: Self.upperBound(of: index)))) }
        }
        return .zero
    }

    private static func bucket(of nanoseconds: UInt64) -> Int {
        guard nanoseconds >= Self.subBuckets else { return Int(nanoseconds) }
        let shift = 63 - nanoseconds.leadingZeroBitCount - 4
        return (shift + 1) * Int(Self.subBuckets) + Int((nanoseconds >> UInt64(shift)) - Self.subBuckets)
    }

    private static func upperBound(of bucket: Int) -> UInt64 {
        let (row, column) = bucket.quotientAndRemainder(dividingBy: Int(Self.subBuckets))
        guard row > 0 else { return UInt64(column) }
        return ((UInt64(column) + Self.subBuckets + 1) << UInt64(row - 1)) - 1
    }
}

/// What the load client saw.
struct LoadReport: Sendable {
    /// More different answers or failures than this are counted together: a server must not fill our memory.
    static let maximumKinds = 1024
    private static let others = "(others)"

    var mode: LoadOptions.Mode
    var target: String
    var elapsed: Duration = .zero
    var succeeded = 0
    var failures: [String: Int] = [:]
    /// Answers by their text: the backend's name.
    var spread: [String: Int] = [:]
    var latency = LatencyHistogram()
    /// Exchanges that succeeded, but late.
    var late = 0
    var bytes: UInt64 = 0
    /// The longest time in which no exchange succeeded.
    var longestGap: Duration = .zero

    init(mode: LoadOptions.Mode, target: String) {
        self.mode = mode
        self.target = target
    }

    var failed: Int { self.failures.values.reduce(0, +) }

    mutating func succeed(answer: String? = nil, after latency: Duration) {
        self.succeeded += 1
        self.latency.record(latency)
        if let answer { Self.count(answer, in: &self.spread) }
    }

    mutating func fail(_ reason: String) {
        Self.count(reason, in: &self.failures)
    }

    private static func count(_ kind: String, in counts: inout [String: Int], by number: Int = 1) {
        let isKnown = counts[kind] != nil || counts.count < Self.maximumKinds
        counts[isKnown ? kind : Self.others, default: 0] += number
    }

    mutating func merge(_ other: LoadReport) {
        self.succeeded += other.succeeded
        for (reason, count) in other.failures { Self.count(reason, in: &self.failures, by: count) }
        for (answer, count) in other.spread { Self.count(answer, in: &self.spread, by: count) }
        self.latency.merge(other.latency)
        self.late += other.late
        self.bytes += other.bytes
        self.longestGap = max(self.longestGap, other.longestGap)
    }

    var perSecond: Double { Double(self.succeeded) / max(1e-9, self.elapsed.inSeconds) }
    var megabytesPerSecond: Double { Double(self.bytes) / 1e6 / max(1e-9, self.elapsed.inSeconds) }

    var document: Document {
        func counts(_ counts: [String: Int]) -> Document {
            .object(counts.sorted { $0.key < $1.key }.map { Document.Member($0.key, .integer($0.value)) })
        }
        func microseconds(_ duration: Duration) -> Document {
            .init(.number((duration.inSeconds * 1e7).rounded() / 10))
        }
        return [
            "mode": .string(self.mode.rawValue), "target": .string(self.target),
            "seconds": .init(.number((self.elapsed.inSeconds * 1e6).rounded() / 1e6)),
            "succeeded": .integer(self.succeeded), "failed": .integer(self.failed), "late": .integer(self.late),
            "failures": counts(self.failures), "spread": counts(self.spread),
            "perSecond": .init(.number((self.perSecond * 10).rounded() / 10)),
            "bytes": .integer(self.bytes),
            "megabytesPerSecond": .init(.number((self.megabytesPerSecond * 10).rounded() / 10)),
            "latencyMicroseconds": [
                "p50": microseconds(self.latency.quantile(0.5)), "p90": microseconds(self.latency.quantile(0.9)),
                "p99": microseconds(self.latency.quantile(0.99)), "max": microseconds(self.latency.maximum),
            ],
            "longestGapMicroseconds": microseconds(self.longestGap),
        ]
    }

    var text: String {
        var lines = ["\(self.mode.rawValue) \(self.target): \(self.succeeded) succeeded, \(self.failed) failed"]
        lines[0] += " in \(Self.fixed(self.elapsed.inSeconds, 3)) s (\(Self.fixed(self.perSecond, 0))/s)"
        if self.bytes > 0 { lines.append("bytes    \(self.bytes) (\(Self.fixed(self.megabytesPerSecond, 1)) MB/s)") }
        if self.latency.count > 0 {
            let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)].map { name, fraction in
                "\(name) \(Self.fixed(self.latency.quantile(fraction).inSeconds * 1e3, 3)) ms"
            }
            lines.append("latency  \(quantiles.joined(separator: "  "))" + (self.late > 0 ? "  late \(self.late)" : ""))
        }
        for (answer, count) in self.spread.sorted(by: { $0.key < $1.key }) {
            let share = Double(count) * 100 / Double(max(1, self.succeeded))
            lines.append("answer   \(answer): \(count) (\(Self.fixed(share, 1)) %)")
        }
        for (reason, count) in self.failures.sorted(by: { $0.key < $1.key }) {
            lines.append("failure  \(reason): \(count)")
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// A decimal number with up to three digits after the point.
    static func short(_ number: Double) -> String {
        var text = Substring(Self.fixed(number, 3))
        while text.last == "0" { text.removeLast() }
        return String(text.last == "." ? text.dropLast() : text)
    }

    /// A decimal number with `digits` after the point.
    static func fixed(_ number: Double, _ digits: Int) -> String {
        let scale = (0..<digits).reduce(1) { scale, _ in scale * 10 }
        guard number.isFinite, number.magnitude < 1e15 else { return "\(number)" }
        let scaled = Int64((number * Double(scale)).rounded())
        guard digits > 0 else { return "\(scaled)" }
        let (whole, fraction) = scaled.magnitude.quotientAndRemainder(dividingBy: UInt64(scale))
        let text = String(fraction)
        return (scaled < 0 ? "-" : "") + "\(whole)." + String(repeating: "0", count: digits - text.utf8.count) + text
    }
}
