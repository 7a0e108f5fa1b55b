import Glibc
import NetLab
import Testing

@testable import nat_grid

extension EndToEnd {
    /// Peers behind NATs of the kernel: which become direct, which need the relay.
    @Suite(.timeLimit(.minutes(3))) struct NATGridTests {
        init() throws {
            try #require(geteuid() == 0, "labs are made of network namespaces: run these tests as root")
        }

        @Test func everyPairEndsAsTheorySays() async throws {
            let program = try EdgemeshBinary.sibling("p2p-peer")
            let report = try await Grid(program: program, name: "nat\(getpid())").run()
            print(report.table)
            #expect(report.cells.count == NATKind.allCases.count * NATKind.allCases.count)
            for cell in report.cells { #expect(cell.isAsExpected, "\(cell.complaint)") }
            let takeover = try #require(report.takeover)
            #expect(takeover.firstRelay != takeover.secondRelay)
            #expect(takeover.history.steps.allSatisfy { $0.path == "relayed" })
        }
    }
}
