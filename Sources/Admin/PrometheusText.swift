public import MeshInterfaces

/// Prometheus' text exposition format, version 0.0.4.
public enum PrometheusText {
    public static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// Samples of one name are put together, as the format demands, whatever their order.
    public static func render(_ samples: [MetricSample]) -> String {
        var text = ""
        var byName: [String: [MetricSample]] = [:]
        for sample in samples { byName[sample.name, default: []].append(sample) }
        for (name, samples) in byName.sorted(by: { $0.key < $1.key }) {
            guard let first = samples.first else { continue }
            if !first.help.isEmpty {
                text += "# HELP \(name) \(self.escaped(first.help, quotes: false))\n"
            }
            text += "# TYPE \(name) \(first.kind.rawValue)\n"
            for sample in samples {
                text += name
                if !sample.labels.isEmpty {
                    let labels = sample.labels.sorted { $0.key < $1.key }
                    text +=
                        "{"
                        + labels.map { "\($0.key)=\"\(self.escaped($0.value, quotes: true))\"" }
                        .joined(separator: ",") + "}"
                }
                text += " \(self.number(sample.value))\n"
            }
        }
        return text
    }

    private static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if let whole = Int64(exactly: value) { return String(whole) }
        return String(value)
    }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var result = ""
        for character in text {
            switch character {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\"" where quotes: result += "\\\""
            default: result.append(character)
            }
        }
        return result
    }
}
