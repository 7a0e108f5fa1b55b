import Glibc
import NIOCore

/// What a fleet costs and how it mends itself, as a table: `swift run -c release mesh-scale-sim [NODES [RELAYS [SEED]]]`.
@main
struct MeshScaleCommand {
    static func main() throws {
        var scale = MeshScale()
        let numbers = CommandLine.arguments.dropFirst().map { Int($0) }
        guard numbers.count <= 3, numbers.allSatisfy({ $0 ?? 0 > 0 }), (numbers.first ?? 2) ?? 2 > 1 else {
            print("usage: mesh-scale-sim [NODES [RELAYS [SEED]]], numbers above zero, and two nodes at least")
            exit(2)
        }
        let given = numbers.compactMap { $0 }
        if given.count > 0 { scale.nodes = given[0] }
        if given.count > 1 { scale.relays = given[1] }
        if given.count > 2 { scale.seed = UInt64(given[2]) }
        scale.pairs = max(1, scale.nodes / 10)
        let clock = ContinuousClock()
        let begin = clock.now
        scale.progress = { step in
            let text = "\((clock.now - begin).components.seconds) s: \(step)\n"
            _ = text.withCString { write(STDERR_FILENO, $0, strlen($0)) }
        }
        print(Self.table(scale, try scale.run(), took: clock.now - begin))
    }

    private static func table(_ scale: MeshScale, _ report: MeshScale.Report, took: Duration) -> String {
        func seconds(_ time: TimeAmount?) -> String {
            time.map { "\(Double($0.nanoseconds / 10_000_000) / 100) s" } ?? "not in time"
        }
        let rows = [
            ("nodes, relays", "\(scale.nodes), \(scale.relays)"),
            ("from the last start until all have their reservations", seconds(report.started)),
            ("idle: bytes of a node in an hour", "\(Int(report.bytesPerHour))"),
            ("idle: packets of a node in an hour", "\(Int(report.packetsPerHour))"),
            ("idle: requests of a node to the DHT in an hour", "\(Int(report.requestsToDHTPerHour.rounded()))"),
            ("connections of a node", "\((report.connectionsPerNode * 10).rounded() / 10)"),
            ("memory of a node", "\(report.memoryPerNode / 1024) KiB"),
            ("connections of the relay that dies", "\(report.relayConnections)"),
            ("pairs with flows, relayed and direct", "\(report.pairsRelayed), \(report.pairsDirect)"),
            ("from its death until all are reserved elsewhere", seconds(report.reserved)),
            ("from its death until all pairs are up", seconds(report.reachable)),
            ("new pairs reached then", "\(report.strangersReached) of \(scale.pairs)"),
            ("events of the simulation", "\(report.events)"),
            ("it took", "\(took.components.seconds) s"),
        ]
        let width = rows.map(\.0.count).max() ?? 0
        return rows.map { $0.0 + String(repeating: " ", count: width - $0.0.count + 2) + $0.1 }.joined(separator: "\n")
    }
}
