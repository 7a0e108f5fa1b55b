public import Documents

/// A part of the agent that can say how it is doing. What it says is read from its data path, not from its intent.
public protocol StatusReporting: Sendable {
    /// The key of this part in `edgemesh status -o json`.
    var statusName: String { get }

    /// The state now. Must answer within a second; bounded in size.
    func status() async -> Document

    /// The figures of this part for `/metrics`. The default takes the numbers of the status members `counters` and
    /// `gauges`.
    func metrics() async -> [MetricSample]
}

/// One figure for `/metrics`, named `edgemesh_<subsystem>_<noun>_<unit>`, counters with `_total` at the end.
public struct MetricSample: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable {
        /// Only grows while the process lives.
        case counter
        case gauge
    }

    public var name: String
    public var kind: Kind
    public var help: String
    public var labels: [String: String]
    public var value: Double

    public init(name: String, kind: Kind, help: String, labels: [String: String] = [:], value: Double) {
        self.name = name
        self.kind = kind
        self.help = help
        self.labels = labels
        self.value = value
    }
}

extension StatusReporting {
    public func metrics() async -> [MetricSample] {
        MetricSample.samples(ofStatus: await self.status(), subsystem: self.statusName)
    }
}

extension MetricSample {
    /// The numbers of the members `counters` and `gauges` of a status, as samples.
    /// - Parameter help: what each figure means, by its key in the status.
    public static func samples(
        ofStatus status: Document,
        subsystem: String,
        help: [String: String] = [:]
    ) -> [MetricSample] {
        var samples: [MetricSample] = []
        let prefix = "edgemesh_\(self.metricName(subsystem))_"
        for (section, kind) in [("counters", Kind.counter), ("gauges", .gauge)] {
            for member in status[section]?.members ?? [] {
                let value: Double
                switch member.value.content {
                case .integer(let number): value = Double(number)
                case .number(let number): value = number
                default: continue
                }
                var name = prefix + self.metricName(member.key)
                if kind == .counter, !name.hasSuffix("_total") { name += "_total" }
                samples.append(MetricSample(name: name, kind: kind, help: help[member.key] ?? "", value: value))
            }
        }
        return samples
    }

    /// `edgeDNS` -> `dns`, `cacheHits` -> `cache_hits`: lower case with underscores, without the prefix of our modules.
    static func metricName(_ key: String) -> String {
        var name = ""
        var previousIsLower = false
        for scalar in key.unicodeScalars {
            let isUpper = (0x41...0x5A).contains(scalar.value)
            let isWord = isUpper || (0x61...0x7A).contains(scalar.value) || (0x30...0x39).contains(scalar.value)
            if isUpper, previousIsLower { name += "_" }
            if isWord {
                name += String(scalar).lowercased()
            } else if name.last != "_" {
                name += "_"
            }
            previousIsLower = isWord && !isUpper
        }
        return name.hasPrefix("edge_") ? String(name.dropFirst(5)) : name
    }
}
