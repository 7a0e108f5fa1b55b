extension NATGrid {
    /// The grid as text, the dialler to the left, the listener above; and what deviates from the theory.
    public static func table(_ cells: [Cell]) -> String {
        var kinds: [NATKind] = []
        for cell in cells where !kinds.contains(cell.dialler) { kinds.append(cell.dialler) }
        let width = (kinds.map(\.name.count).max() ?? 0) + 1
        func padded(_ text: String) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }
        var lines = [padded("") + kinds.map { padded($0.name) }.joined()]
        for dialler in kinds {
            let row = kinds.map { listener in
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

    private static func text(_ cell: Cell) -> String {
        cell.path.rawValue + (cell.path == cell.expected ? "" : "!")
    }
}
