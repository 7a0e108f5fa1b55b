public import Documents

/// What the command lines about other nodes print for people, made of the tunnel's report. Reads leniently, as `StatusText`.
public enum TunnelText {
    /// The nodes that are known, and how each is reached.
    public static func peers(_ report: Document) -> String {
        var table = TextTable(
            header: ["NODE", "STATE", "PATH", "RTT", "LOSS", "FOR", "FLOWS", "PACKETS", "AGENT", "PROBLEM"]
        )
        for (node, path) in self.nodes(report) {
            table.add([
                node, path["state"]?.string ?? "?", self.path(path), self.roundTrip(path),
                path["loss"]?.figure.map(self.percent) ?? "-",
                path["forSeconds"]?.integer.map(StatusText.duration) ?? "-",
                path["flows"]?.integer.map { "\($0)" } ?? "-", self.packets(path), path["agent"]?.string ?? "-",
                path["problem"]?.string ?? "",
            ])
        }
        return table.isEmpty
            ? "No other node was met yet: a path is made when the first flow or ping asks for it.\n" : table.text
    }

    /// By their names, which the report has sorted.
    static func nodes(_ report: Document) -> [(name: String, path: Document)] {
        (report["peers"]?.members ?? []).map { ($0.key, $0.value) }
    }

    /// `direct`, `punched`, `relayed via cloud-1`; `-` if there is none.
    static func path(_ path: Document) -> String {
        guard let kind = path["kind"]?.string else { return "-" }
        guard let relay = path["relay"]?.string else { return kind }
        return "\(kind) via \(relay)"
    }

    /// `datagrams`, `stream (noWay)`; `-` if there are no packets of pods.
    static func packets(_ path: Document) -> String {
        guard let by = path["packets"]?["by"]?.string else { return "-" }
        return path["packets"]?["reason"]?.string.map { "\(by) (\($0))" } ?? by
    }

    static func roundTrip(_ path: Document) -> String {
        guard let time = path["rttMilliseconds"]?.figure else { return "-" }
        return self.milliseconds(time)
    }

    /// `0.42 ms`, `12.3 ms`.
    static func milliseconds(_ value: Double) -> String {
        let scale: Double = value < 10 ? 100 : 10
        return "\((value * scale).rounded() / scale) ms"
    }

    /// `0 %`, `33 %`; what is not nothing is never shown as nothing.
    static func percent(_ share: Double) -> String {
        let percent = (share * 100).rounded()
        return share > 0 && percent < 1 ? "<1 %" : "\(Int(max(0, min(100, percent)))) %"
    }
}

extension Document {
    /// A number of either kind.
    @inline(never)  // The optimiser of Swift 6.3.1 fails on functions that this becomes a part of.
    var figure: Double? {
        switch self.content {
        case .number(let number): number
        case .integer(let number): Double(number)
        default: nil
        }
    }
}
