/// Columns for people: left-aligned, two spaces apart, no line drawn and none ended by blanks.
public struct TextTable: Sendable {
    private var rows: [[String]]

    public init(header: [String]) {
        self.rows = [header]
    }

    public mutating func add(_ cells: [String]) {
        self.rows.append(cells)
    }

    /// Whether there is anything but the header.
    public var isEmpty: Bool { self.rows.count < 2 }

    public var text: String {
        let columns = self.rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in
            self.rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0
        }
        return self.rows.map { row in
            var line = ""
            for (column, cell) in row.enumerated() {
                line += cell
                if row[(column + 1)...].contains(where: { !$0.isEmpty }) {
                    line += String(repeating: " ", count: widths[column] - cell.count + 2)
                }
            }
            return line + "\n"
        }.joined()
    }
}
