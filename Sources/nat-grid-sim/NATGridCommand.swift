import Glibc
import Logging
import NIOCore
import NetSim

/// Which way hosts talk behind every pair of NATs, as a table: `swift run nat-grid-sim [SEED]`. Exits with 1 if it is not as theory
/// has it. `swift run nat-grid-sim SEED DIALLER LISTENER` shows one pair with all its packets and what the hosts log.
@main
struct NATGridCommand {
    static func main() throws {
        let arguments = CommandLine.arguments.dropFirst()
        var grid = NATGrid(seed: arguments.first.flatMap { UInt64($0) } ?? 1)
        let named = arguments.dropFirst().map { name in NATKind.all.filter { $0.name == name } }
        guard named.isEmpty || (named.count == 2 && named.allSatisfy { $0.count == 1 }) else {
            print(
                "usage: nat-grid-sim [SEED [DIALLER LISTENER]], of \(NATKind.all.map(\.name).joined(separator: ", "))"
            )
            exit(2)
        }
        if !named.isEmpty {
            grid.logger = { name in
                var logger = Logger(label: name, factory: { StreamLogHandler.standardOutput(label: $0) })
                logger.logLevel = .trace
                return logger
            }
            grid.observer = { print(Self.text($0, $1, $2)) }
        }
        var cells: [NATGrid.Cell] = []
        for dialler in named.first ?? NATKind.all {
            for listener in named.last ?? NATKind.all { cells.append(try grid.cell(from: dialler, to: listener)) }
        }
        print(NATGrid.table(cells))
        exit(cells.allSatisfy { $0.path == $0.expected } ? 0 : 1)
    }

    private static func text(_ time: NIODeadline, _ packet: Packet, _ fate: PacketFate) -> String {
        let milliseconds = (time - SimulatedLoop.start).nanoseconds / 1_000_000
        var what = ""
        switch packet.payload {
        case .tcp(let segment):
            let names: [(TCPSegment.Flags, String)] = [(.syn, "SYN"), (.fin, "FIN"), (.rst, "RST")]
            what = names.filter { segment.flags.contains($0.0) }.map(\.1).joined(separator: " ")
            what += segment.bytes.readableBytes > 0 ? " \(segment.bytes.readableBytes) bytes" : ""
        case .udp(let bytes): what = "\(bytes.readableBytes) bytes of UDP"
        case .unreachable(let about): what = "unreachable \(about.reason)"
        }
        return "\(milliseconds) ms: \(packet.source) > \(packet.destination) \(what) \(fate)"
    }
}
