import Documents
import NetLab

/// A peer that runs in the lab, and what it has said.
struct RunningPeer: Sendable {
    let site: PeerSite
    let process: LabProcess

    /// Its events up to now. A line that is still being written does not count.
    var events: [Document] {
        let text = self.process.log
        let whole =
            text.utf8.last == UInt8(ascii: "\n")
            ? Substring(text) : text.prefix(upTo: text.lastIndex(of: "\n") ?? text.startIndex)
        return whole.split(separator: "\n").compactMap { try? Document.parseJSON(Array($0.utf8)) }
    }

    func last(_ event: String) -> Document? { self.events.last { $0["event"]?.string == event } }

    var activeReservations: Set<String> {
        var active: Set<String> = []
        for event in self.events where event["event"]?.string == "reservation" {
            guard let relay = event["relay"]?.string else { continue }
            if event["state"]?.string == "active" { active.insert(relay) } else { active.remove(relay) }
        }
        return active
    }

    /// What this peer has seen of its connection to another.
    func history(with peer: String) -> PeerHistory {
        PeerHistory(self.events.filter { $0["peer"]?.string == peer })
    }
}

/// The life of one connection that is kept, by the events of the peer that keeps it.
struct PeerHistory: Sendable {
    struct Step: Sendable {
        var path: String
        var microseconds: Int
        var relay: String
        /// Echoes that came back on this path while it was the best, and rounds of the stream that lives on the first one.
        var echoes = 0
        var rounds = 0
    }

    private(set) var steps: [Step] = []
    private(set) var failures: [String] = []

    init(_ events: [Document]) {
        // A hole is told of by who punches, before or after the connection's keeper has noticed that it has it.
        let isPunched = events.contains { $0["event"]?.string == "punched" }
        for event in events {
            switch event["event"]?.string {
            case "path":
                self.steps.append(
                    Step(
                        path: event["path"]?.string.map { $0 == "direct" && isPunched ? "punched" : $0 } ?? "",
                        microseconds: Int(event["microseconds"]?.integer ?? 0),
                        relay: event["relay"]?.string ?? ""
                    )
                )
            case "echo":
                guard let last = self.steps.indices.last else { continue }
                // An echo may have begun on the path before, and is counted there.
                let isRelayed = event["path"]?.string == "relayed"
                if let step = self.steps.lastIndex(where: { ($0.path == "relayed") == isRelayed }) {
                    self.steps[step].echoes += 1
                } else {
                    self.steps[last].echoes += 1
                }
            case "held":
                if let last = self.steps.indices.last { self.steps[last].rounds += 1 }
            case "failed", "lost": self.failures.append(event["error"]?.string ?? "the connection was lost")
            default: break
            }
        }
    }

    /// Bytes have come and gone on every path, and the first stream has outlived the last change.
    var isProven: Bool {
        !self.steps.isEmpty && self.steps.allSatisfy { $0.echoes > 0 } && (self.steps.last?.rounds ?? 0) > 0
    }
}
