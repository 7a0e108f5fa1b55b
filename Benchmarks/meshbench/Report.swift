import Documents

/// One measured figure beside that of a peer in the same run.
struct Figure {
    var name: String
    var unit: String
    var ours: Double
    /// Who was measured beside us, and what it did; nil if the figure stands alone.
    var peer: (name: String, value: Double)?
    /// What DESIGN.md allows: a bound on our figure, or on the ratio to the peer.
    var budget: Budget?

    enum Budget {
        case atMost(Double)
        case atLeast(Double)
        /// Ours divided by the peer's.
        case ratioAtLeast(Double)
        case ratioAtMost(Double)
    }

    /// Ours divided by the peer's.
    var ratio: Double? { self.peer.flatMap { $0.value > 0 ? self.ours / $0.value : nil } }

    var isWithinBudget: Bool? {
        switch self.budget {
        case .none: nil
        case .atMost(let bound): self.ours <= bound
        case .atLeast(let bound): self.ours >= bound
        case .ratioAtLeast(let bound): self.ratio.map { $0 >= bound }
        case .ratioAtMost(let bound): self.ratio.map { $0 <= bound }
        }
    }
}

/// The figures of a run, as a table for people and as JSON for programs.
struct Report {
    private(set) var figures: [Figure] = []
    private(set) var skipped: [(name: String, reason: String)] = []

    mutating func add(
        _ name: String,
        _ ours: Double,
        _ unit: String,
        peer: (name: String, value: Double)? = nil,
        budget: Figure.Budget? = nil
    ) {
        self.figures.append(Figure(name: name, unit: unit, ours: ours, peer: peer, budget: budget))
    }

    /// A figure that could not be had: said, never left out in silence.
    mutating func skip(_ name: String, _ reason: String) {
        self.skipped.append((name, reason))
    }

    var text: String {
        var rows = [["what", "unit", "ours", "peer", "its figure", "ratio", "budget", ""]]
        for figure in self.figures {
            let budget =
                switch figure.budget {
                case .none: ""
                case .atMost(let bound): "<= \(Self.number(bound))"
                case .atLeast(let bound): ">= \(Self.number(bound))"
                case .ratioAtLeast(let bound): "ratio >= \(Self.number(bound))"
                case .ratioAtMost(let bound): "ratio <= \(Self.number(bound))"
                }
            rows.append([
                figure.name, figure.unit, Self.number(figure.ours), figure.peer?.name ?? "",
                figure.peer.map { Self.number($0.value) } ?? "", figure.ratio.map { Self.number($0) } ?? "", budget,
                figure.isWithinBudget.map { $0 ? "met" : "MISSED" } ?? "",
            ])
        }
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        let lines = rows.map { row in
            row.enumerated().map { column, cell in
                cell + String(repeating: " ", count: widths[column] - cell.count)
            }.joined(separator: "  ")
        }
        return (lines + self.skipped.map { "not measured: \($0.name): \($0.reason)" }).joined(separator: "\n") + "\n"
    }

    var document: Document {
        [
            "figures": .array(
                self.figures.map { figure in
                    var members: [Document.Member] = [
                        .init("name", .string(figure.name)), .init("unit", .string(figure.unit)),
                        .init("ours", .init(.number(figure.ours))),
                    ]
                    if let peer = figure.peer {
                        members.append(.init("peer", .string(peer.name)))
                        members.append(.init("peerValue", .init(.number(peer.value))))
                    }
                    if let ratio = figure.ratio { members.append(.init("ratio", .init(.number(ratio)))) }
                    if let met = figure.isWithinBudget { members.append(.init("withinBudget", .init(.bool(met)))) }
                    return .object(members)
                }
            ),
            "notMeasured": .array(self.skipped.map { ["name": .string($0.name), "reason": .string($0.reason)] }),
        ]
    }

    /// Three significant digits, without an exponent.
    static func number(_ value: Double) -> String {
        guard value.isFinite else { return "\(value)" }
        let digits = value.magnitude >= 100 ? 0 : value.magnitude >= 10 ? 1 : value.magnitude >= 1 ? 2 : 3
        let scale = (0..<digits).reduce(1.0) { scale, _ in scale * 10 }
        let rounded = Int64((value * scale).rounded())
        guard digits > 0 else { return "\(rounded)" }
        let (whole, fraction) = rounded.magnitude.quotientAndRemainder(dividingBy: UInt64(scale))
        let text = String(fraction)
        return (rounded < 0 ? "-" : "") + "\(whole)." + String(repeating: "0", count: digits - text.count) + text
    }
}
