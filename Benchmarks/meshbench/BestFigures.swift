/// What a benchmark measures of each party.
protocol BenchmarkMeasure: Hashable {
    var name: String { get }
    var unit: String { get }
    /// More is better.
    var isRate: Bool { get }
}

/// What several parties did, measured in turns: of each figure the best, as other work on a machine only takes away.
struct BestFigures<Party: Hashable & RawRepresentable<String>, Measure: BenchmarkMeasure> {
    private var values: [Party: [Measure: Double]] = [:]

    subscript(party: Party) -> [Measure: Double]? { self.values[party] }

    /// Measures a party once more. What fails is told in the report.
    mutating func attempt(
        _ name: String,
        _ party: Party,
        _ report: inout Report,
        _ body: () async throws -> [Measure: Double]
    ) async {
        do {
            for (measure, value) in try await body().sorted(by: { $0.key.name < $1.key.name }) {
                writeError("    \(party.rawValue): \(measure.name): \(Report.number(value)) \(measure.unit)\n")
                self.values[party, default: [:]].merge([measure: value]) {
                    measure.isRate ? Double.maximum($0, $1) : Double.minimum($0, $1)
                }
            }
        } catch {
            report.skip("\(name), \(party.rawValue)", "\(error)")
        }
    }

    /// Adds all figures of one party to the report, each beside that of every other.
    func tell(
        _ name: String,
        of ours: Party,
        beside peers: [Party],
        into report: inout Report,
        budget: (Measure, Party) -> Figure.Budget?
    ) where Measure: CaseIterable {
        for measure in Measure.allCases {
            for peer in peers {
                guard let own = self.values[ours]?[measure], let theirs = self.values[peer]?[measure] else { continue }
                report.add(
                    "\(name): \(measure.name)",
                    own,
                    measure.unit,
                    peer: (peer.rawValue, theirs),
                    budget: budget(measure, peer)
                )
            }
        }
    }
}
