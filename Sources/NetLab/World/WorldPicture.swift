import MeshCore
import Synchronization

extension World {
    /// The world as a tree: LANs with their NATs, nodes with their addresses and pods, and how links and agents are now.
    public func picture() -> String {
        let nodes = self.nodes
        var blocks = ["  internet"]
        for lan in self.scenario.lans {
            guard let site = self.sites[lan.name] else { continue }
            let mask = site.maskedBy.map { ", seen as \($0)" }.joined()
            var lines = [
                "   |",
                "   +-- \(Self.padded(lan.name, 14))\(Self.padded(site.network, 16))\(lan.nat.rawValue)\(mask)"
                    + self.linkText(lan.name),
            ]
            let members = nodes.filter { $0.lan == lan.name }
            for node in members {
                let pods = node.apps.isEmpty ? "" : ", \(node.apps.count) pod\(node.apps.count == 1 ? "" : "s")"
                let relay = node.isRelay ? ", relay" : ""
                let gateway = node.outsideAddresses.first.map { ", gateway \($0)" } ?? ""
                lines.append(
                    "   |    +-- \(Self.padded(node.name, 12))\(Self.padded("\(node.address)", 16))"
                        + "pods \(node.podNetwork), service \(node.clusterIP)\(pods)\(relay)\(gateway)"
                        + self.linkText(node.name) + self.agentText(node.name)
                )
            }
            blocks.append(lines.joined(separator: "\n"))
        }
        // Below the last LAN the trunk has nothing to hold.
        if let last = blocks.indices.last, last > 0 {
            let lines = blocks[last].split(separator: "\n", omittingEmptySubsequences: false)
            blocks[last] =
                (lines.prefix(2).map(String.init) + lines.dropFirst(2).map { "    " + $0.dropFirst(4) })
                .joined(separator: "\n")
        }
        return blocks.joined(separator: "\n") + "\n"
    }

    private func linkText(_ name: String) -> String {
        let text = (try? self.link(name)).map { "\($0)" } ?? ""
        return text.isEmpty ? "" : "  [\(text)]"
    }

    private func agentText(_ node: String) -> String {
        let (agent, isPaused) = self.state.withLock { ($0.agents[node], $0.paused.contains(node)) }
        guard let agent else { return "" }
        if let status = agent.exitStatus { return "  agent ended with \(status)" }
        return "  agent \(agent.processID)\(isPaused ? " stands still" : "")"
    }

    private static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(1, width - text.count))
    }
}
