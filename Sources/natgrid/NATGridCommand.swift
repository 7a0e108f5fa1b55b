import NetSim

/// `swift run natgrid [SEED]`: which way hosts talk behind every pair of NATs, as a table.
@main
struct NATGridCommand {
    static func main() throws {
        let seed = CommandLine.arguments.dropFirst().first.flatMap { UInt64($0) } ?? 1
        let grid = NATGrid(seed: seed)
        var cells: [NATGrid.Cell] = []
        for dialler in NATKind.all {
            for listener in NATKind.all { cells.append(try grid.cell(from: dialler, to: listener)) }
        }
        print(NATGrid.table(cells))
        guard cells.allSatisfy({ $0.path == $0.expected }) else { throw Deviation() }
    }

    private struct Deviation: Error, CustomStringConvertible {
        let description = "the grid is not what the theory says"
    }
}
