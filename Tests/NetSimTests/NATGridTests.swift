import NIOCore
import NetSim
import Testing

@Suite struct NATGridTests {
    /// Every pair of kinds, in both directions: direct, punched or relayed as the theory has it.
    @Test(arguments: NATKind.all)
    func theGridIsAsTheorySays(_ dialler: NATKind) throws {
        let grid = NATGrid(seed: 7)
        for listener in NATKind.all {
            let cell = try grid.cell(from: dialler, to: listener)
            #expect(cell.path == cell.expected, "\(dialler.name) to \(listener.name), seed \(grid.seed)")
        }
    }

    /// The theory itself, where it is known by heart.
    @Test(arguments: [
        ("open", "AP/AP", Path.direct), ("AP/AP", "open", .direct), ("EI/EI", "AP/AP", .punched),
        ("EI/AP", "EI/AP", .punched), ("EI/AP", "AP/AP", .relayed), ("AP/AP", "AP/AP", .relayed),
        ("EI/AD", "AP/AP", .punched), ("AP/AP", "EI/AD", .punched), ("linux", "linux", .punched),
        ("firewall", "firewall", .punched),
    ])
    func theory(_ one: String, _ other: String, _ path: Path) throws {
        let kind = try #require(NATKind.all.first { $0.name == one })
        let remote = try #require(NATKind.all.first { $0.name == other })
        #expect(kind.expectedPath(to: remote) == path)
    }
}
