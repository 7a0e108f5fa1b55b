import MeshCore
import NetLab

extension Grid.Report {
    /// The grid as a table: who dials in rows, who is dialled in columns.
    var table: String {
        let kinds = NATKind.allCases.filter { kind in self.cells.contains { $0.dialler == kind } }
        let width = 17
        func cell(_ text: String) -> String { text + String(repeating: " ", count: max(1, width - text.count)) }
        var text = cell("dials \\ is dialled") + kinds.map { cell($0.rawValue) }.joined() + "\n"
        for row in kinds {
            text += cell(row.rawValue)
            for column in kinds {
                let found = self.cells.first { $0.dialler == row && $0.dialled == column }
                text += cell(found.map { "\($0.isAsExpected ? "" : "!")\($0.outcome) \($0.milliseconds)" } ?? "-")
            }
            text += "\n"
        }
        for wrong in self.cells where !wrong.isAsExpected { text += "! \(wrong.complaint)\n" }
        if let takeover {
            text += "a relay dies: another carries the pair after \(Self.milliseconds(takeover.time)) ms\n"
        }
        return text + "\(self.cells.count) pairs in \(Self.milliseconds(self.duration)) ms\n"
    }

    private static func milliseconds(_ duration: Duration) -> Int64 { duration.saturatedNanoseconds / 1_000_000 }
}

extension Grid.Cell {
    /// What is not as it should be.
    var complaint: String {
        let steps = self.history.steps.map { "\($0.path) (\($0.echoes) echoes, \($0.rounds) rounds)" }
        return
            "\(self.dialler.rawValue) to \(self.dialled.rawValue): \(self.outcome), expected \(self.expected.map(\.rawValue).sorted().joined(separator: " or ")); "
            + "\(steps.joined(separator: ", then ")) \(self.history.failures.joined(separator: "; "))"
    }
}
