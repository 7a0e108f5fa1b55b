import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

extension World {
    /// What the agent of a node has made of the kernel for the network of pods, for comparison.
    fileprivate func kernelState(of node: String) async throws -> String {
        try await self.lab.output(
            on: node,
            [
                "sh", "-c",
                """
                ip -o link show edge_tun0 | cut -d : -f 2
                ip route show proto 237
                ip -6 route show proto 237
                nft list table ip edgemesh-cni
                nft list table ip6 edgemesh-cni
                """,
            ]
        )
    }

    /// Starts the agent of a node anew, in a cluster of its own making: there it has the pods of another node, too.
    fileprivate func forgeAgent(of node: String, withPodsOf victim: String) async throws {
        let (own, foreign) = (try self.node(node).podNetwork, try self.node(victim).podNetwork)
        try await self.stopAgent(of: node)
        let forged = "\(self.lab.directory)/forged"
        try await self.lab.output(
            on: node,
            [
                "sh", "-ec",
                """
                cp -r \(self.manifestsDirectory) \(forged)
                cd \(forged)
                sed -i 's|\(foreign)|10.244.200.0/24|g' node-\(victim).yaml
                sed -i 's|podCIDRs: .\(own)|&, \(foreign)|' node-\(node).yaml
                grep -q '\(foreign)' node-\(node).yaml
                """,
            ]
        )
        _ = try self.lab.start(
            on: node,
            self.agentCommand(of: node).map { $0.hasPrefix("--manifests=") ? "--manifests=\(forged)" : $0 },
            program: self.program,
            environment: ["NODE_NAME": node, "NAMESPACE": "kubeedge"],
            log: "\(node)-forged"
        )
    }

    /// Waits until an agent, which may not answer yet, has counted more than `value` while a process runs.
    fileprivate func waitForCounter(
        _ name: String,
        of node: String,
        above value: Int64,
        during process: LabProcess
    ) async throws {
        try await self.lab.wait(for: "\(name) of \(node) above \(value)", within: .seconds(90)) {
            if let status = process.exitStatus {
                throw LabError(.commandFailed, "'\(process.command)' ended: \(status)", cause: process.log)
            }
            return (try? await self.counter(name, of: node)) ?? 0 > value
        }
    }
}

extension EndToEnd {
    /// Agents that fall, and agents that lie, between pods.
    @Suite(.serialized, .timeLimit(.minutes(4))) struct PodFaultTests {
        /// The node's own agent takes the other node's pods for its own and lets them send; the receiver does not.
        @Test func aNodeThatSendsAsAnotherIsRefusedAndNamed() async throws {
            try await withPodNetwork(name: "podspoof") { world in
                try await world.startAgents(within: .seconds(90))
                let cloud = try world.app(of: "cloud-1")
                try await world.waitForPing(from: "south-1-client", "\(cloud.address)")
                try await world.forgeAgent(of: "north-1", withPodsOf: "south-1")
                try await world.waitForPing(from: "north-1-client", "\(cloud.address)")

                let stolen = "10.244.\(try world.node("south-1").number).77"
                try await world.lab.configure("north-1-client", ["addr add \(stolen)/32 dev lo"])
                let answer = try await world.lab.run(
                    on: "north-1-client",
                    ["busybox", "ping", "-c", "3", "-W", "1", "-I", stolen, "\(cloud.address)"],
                    deadline: .seconds(30)
                )
                #expect(!answer.status.isSuccess)
                #expect(try await world.counter("droppedForeignSource", of: "north-1") == 0, "its agent sent them")
                #expect(try await world.counter("droppedSpoofed", of: "cloud-1") >= 3)
                let peers = try await world.status(of: "cloud-1")["edgeCNI"]?["peers"]
                #expect(peers?["north-1"]?["spoofedPackets"]?.integer ?? 0 >= 3, "\(peers?.jsonText() ?? "")")
                #expect(peers?["south-1"]?["spoofedPackets"]?.integer == 0)
                let log = try world.agent(of: "cloud-1")?.log ?? ""
                #expect(log.contains("packets from addresses that are not its pods'"), "\(log)")
                // Neither the liar's own pods nor those in whose name it sent are worse off.
                try await world.waitForPing(from: "north-1-client", "\(cloud.address)")
                try await world.waitForPing(from: "south-1-client", "\(cloud.address)")
            }
        }

        /// SIGKILL in the middle of a transfer, at the sender's node and at the receiver's.
        @Test(arguments: ["north-1", "south-1"])
        func aTransferGoesOnWhenAKilledAgentIsBack(killed: String) async throws {
            try await withPodNetwork(name: "podkill\(killed.prefix(1))") { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "south-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                let before = try await world.kernelState(of: killed)
                #expect(before.contains("edge_tun0") && before.contains("10.244.0.0/16"), "\(before)")

                let folder = world.lab.directory
                let receiver = try world.lab.start(
                    on: app.name,
                    ["sh", "-c", "socat -u TCP-LISTEN:5300,reuseaddr - | wc -c > \(folder)/received"],
                    log: "receiver"
                )
                try await world.lab.waitForListener(receiver, .tcp, port: 5300)
                let sender = try world.lab.start(
                    on: client.name,
                    [
                        "sh", "-c",
                        """
                        {
                            sent=0
                            while [ ! -e \(folder)/stop ] && head -c 65536 /dev/zero; do
                                sent=$((sent + 65536))
                                sleep 0.01
                            done
                            echo $sent > \(folder)/sent
                        } | socat -u - TCP:\(app.address):5300
                        """,
                    ],
                    log: "sender"
                )
                let counter = killed == "north-1" ? "sentBytes" : "receivedBytes"
                try await world.waitForCounter(counter, of: killed, above: 4 << 20, during: sender)
                try await world.killAgent(of: killed)
                let links = try await world.lab.output(on: killed, ["ip", "-o", "link"])
                #expect(!links.contains("edge_tun0"), "the device goes with its agent: \(links)")
                try world.startAgent(of: killed)
                // Its counters begin anew: what is counted now is the same connection, as nobody connects again.
                try await world.waitForCounter(counter, of: killed, above: 4 << 20, during: sender)

                try await world.lab.output(on: client.name, ["touch", "\(folder)/stop"])
                #expect(try await sender.exit(within: .seconds(60)) == .exited(0), "\(sender.log)")
                #expect(try await receiver.exit(within: .seconds(60)) == .exited(0), "\(receiver.log)")
                let sent = try Files.readText("\(folder)/sent").trimmed
                #expect(try Files.readText("\(folder)/received").trimmed == sent)
                try await world.lab.wait(for: "the kernel of \(killed) to be as before", within: .seconds(60)) {
                    try await world.kernelState(of: killed) == before
                }
            }
        }
    }
}
