public import Documents
import LinuxNetwork
import MeshCore
public import MeshInterfaces
import NIOCore
import Synchronization

extension EdgeCNIService: StatusReporting {
    /// Nodes and blocks that a status names at most; the figures count all.
    private static let maximumShown = 1_000

    public var statusName: String { "edgeCNI" }

    public func status() async -> Document {
        let (running, problems) = self.state.withLock { ($0.running, $0.ruleProblems) }
        guard let running else { return ["running": false] }
        let findings = await running.follower.findings
        let reports = await Self.reports(running)
        let offloads = [
            (running.device.offloads.contains(.tcp), "tcp"), (running.device.offloads.contains(.udp), "udp"),
        ]
        var trouble = problems
        if let problem = findings.problem { trouble.append(problem) }
        return [
            "running": true, "device": .string(running.device.name), "mtu": .integer(self.settings.mtu),
            "queues": .integer(running.device.queueCount),
            "offloads": .array(offloads.filter(\.0).map { .string($0.1) }),
            "mesh": Self.document(self.settings.mesh), "captured": Self.document(findings.captured),
            "local": Self.document(findings.local),
            "sources": .array(findings.sources.map { .string("\($0)") }),
            "swallowedNodes": .array(findings.swallowed.prefix(Self.maximumShown).map { .string($0) }),
            "problems": .array(trouble.map { .string($0) }),
            "peers": .object(
                Self.peers(reports).sorted { $0.node < $1.node }.prefix(Self.maximumShown).map {
                    .init($0.node, Self.document($0))
                }
            ),
            "counters": .object(Self.counters(reports)),
            "gauges": .object(Self.gauges(reports, findings.routes)),
        ]
    }

    public func metrics() async -> [MetricSample] {
        guard let running = self.state.withLock({ $0.running }) else { return [] }
        let reports = await Self.reports(running)
        let routes = await running.follower.findings.routes
        return MetricSample.samples(
            ofStatus: [
                "counters": .object(Self.counters(reports)), "gauges": .object(Self.gauges(reports, routes)),
            ],
            subsystem: "cni",
            help: Self.help
        )
    }

    private static func reports(_ running: Running) async -> [PacketWorker.Report] {
        var reports: [PacketWorker.Report] = []
        for handle in running.homes.handles {
            if let report = try? await handle.ask({ $0.report() }).get() { reports.append(report) }
        }
        return reports
    }

    /// One for each node: its channels may live on several loops.
    private static func peers(_ reports: [PacketWorker.Report]) -> [PacketWorker.Report.Peer] {
        let peers = reports.flatMap(\.peers).map { ($0.node, $0) }
        return Array(Dictionary(peers) { $0.joined(with: $1) }.values)
    }

    private static func document(_ blocks: [CIDR]) -> Document {
        .array(blocks.prefix(Self.maximumShown).map { .string("\($0)") })
    }

    private static func document(_ peer: PacketWorker.Report.Peer) -> Document {
        let state = peer.form != nil ? "up" : peer.isOpening ? "connecting" : peer.failures > 0 ? "down" : "idle"
        return [
            "state": .string(state), "form": peer.form.map { .string($0 == .framed ? "framed" : "original") } ?? nil,
            "channels": .integer(peer.channels), "waitingPackets": .integer(peer.waitingPackets),
            "waitingBytes": .integer(peer.waitingBytes), "error": peer.lastFailure.map { .string($0) } ?? nil,
            "spoofedPackets": .integer(peer.spoofedPackets),
        ]
    }

    private static func counters(_ reports: [PacketWorker.Report]) -> [Document.Member] {
        func sum(_ key: String, _ value: (PacketForwarder.Counters) -> UInt64) -> Document.Member {
            .init(key, .integer(reports.reduce(0) { $0 &+ value($1.counters) }))
        }
        return [
            sum("sentPackets") { $0.sentPackets }, sum("sentBytes") { $0.sentBytes },
            sum("receivedPackets") { $0.receivedPackets }, sum("receivedBytes") { $0.receivedBytes },
            sum("clampedSegmentSizes") { $0.clampedSegmentSizes }, sum("markedPackets") { $0.markedPackets },
            sum("answers") { $0.answers },
            sum("answersWithheld") { $0.answersWithheld },
            .init("refusedStreams", .integer(reports.reduce(0) { $0 &+ $1.refusedStreams })),
        ]
            + PacketForwarder.Drop.allCases.map { reason in
                sum("dropped\(reason.rawValue.prefix(1).uppercased())\(reason.rawValue.dropFirst())") {
                    $0.drops[reason] ?? 0
                }
            }
    }

    private static func gauges(_ reports: [PacketWorker.Report], _ routes: PodRoutes) -> [Document.Member] {
        let peers = Self.peers(reports)
        return [
            .init("openPeers", .integer(peers.count { $0.form != nil })),
            .init("channels", .integer(peers.reduce(0) { $0 + $1.channels })),
            .init("waitingBytes", .integer(reports.reduce(0) { $0 + $1.waitingBytes })),
            .init("routeConflicts", .integer(routes.conflicts)),
            .init("routesLeftOut", .integer(routes.overflow)),
        ]
    }

    private static let help: [String: String] = [
        "sentPackets": "Packets of pods of this node that were sent to other nodes; one may stand for several.",
        "sentBytes": "Bytes of these.",
        "receivedPackets": "Packets of other nodes' pods that were taken; one may stand for several.",
        "receivedBytes": "Bytes of these.",
        "clampedSegmentSizes": "TCP connections whose segments were bounded to the MTU.",
        "markedPackets": "Packets that tell their receivers of a long queue to another node, by ECN.",
        "answers": "Senders that were told by ICMP why their packet is lost.",
        "answersWithheld": "Senders that were not, as there were too many.",
        "refusedStreams": "Streams of peers that carried something else than packets.",
        "droppedMalformed": "Packets that are none.",
        "droppedSpoofed": "Packets of peers with a source that is not theirs.",
        "droppedMisdirected": "Packets of peers to an address that is not on this node.",
        "droppedForeignSource": "Packets of this node with a source that is none of its pods.",
        "droppedUnknownNode": "Packets to an address that no node is known to have.",
        "droppedUnreachable": "Packets to nodes that could not be reached.",
        "droppedOverflow": "Packets that waited behind too many others.",
        "openPeers": "Nodes to which packets are sent now.",
        "channels": "Channels of packets, opened and accepted.",
        "waitingBytes": "Bytes of packets that wait for channels.",
        "routeConflicts": "Blocks and addresses that two nodes claim.",
        "routesLeftOut": "Addresses of endpoints beyond the bound.",
    ]
}
