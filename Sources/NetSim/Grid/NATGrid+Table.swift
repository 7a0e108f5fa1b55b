extension NATGrid {
    /// The grid as text, the dialler to the left, the listener above; and what deviates from the theory.
    public static func table(_ cells: [Cell]) -> String {
        let diallers = Self.distinct(cells.map(\.dialler))
        let listeners = Self.distinct(cells.map(\.listener))
        let kinds = Self.distinct(diallers + listeners)
        let width = (kinds.map(\.name.count).max() ?? 0) + 1
        func padded(_ text: String) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }
        var lines = [padded("") + listeners.map { padded($0.name) }.joined()]
        for dialler in diallers {
            let row = listeners.map { listener in
                let cell = cells.first { $0.dialler == dialler && $0.listener == listener }
                return padded(cell.map(Self.text) ?? "")
            }
            lines.append(padded(dialler.name) + row.joined())
        }
        lines.append("")
        for kind in kinds { lines.append(padded(kind.name) + kind.summary) }
        lines.append("")
        for path in Path.allCases {
            lines.append("\(cells.count { $0.path == path }) \(path.rawValue)")
        }
        for cell in cells where cell.path != cell.expected {
            lines.append(
                "AGAINST THE THEORY: \(cell.dialler.name) to \(cell.listener.name) is \(cell.path), not \(cell.expected)"
            )
        }
        return lines.map { $0.last == " " ? String($0.reversed().drop { $0 == " " }.reversed()) : $0 }
            .joined(separator: "\n")
    }

    private static func distinct(_ kinds: [NATKind]) -> [NATKind] {
        kinds.reduce(into: []) { if !$0.contains($1) { $0.append($1) } }
    }

    private static func text(_ cell: Cell) -> String {
        cell.path.rawValue + (cell.path == cell.expected ? "" : "!")
    }
}
