import NIOCore
import Testing

@testable import mesh_scale_sim

/// What a fleet costs and how it mends itself; `mesh-scale-sim` does the same with a thousand nodes, which takes a release build.
@Suite struct MeshScaleTests {
    @Test func anIdleFleetCostsLittleAndOutlivesARelay() throws {
        var scale = MeshScale()
        scale.nodes = 20
        scale.pairs = 10
        scale.idle = .minutes(20)
        let report = try scale.run()
        print(report)

        // To each relay, and to a few others that were met in the DHT. Those greet, too.
        #expect(report.connectionsPerNode >= Double(scale.relays))
        #expect(report.connectionsPerNode <= Double(scale.relays + scale.nodes - 1))
        // Both ends of a connection ping each half minute. Ping, pong and an acknowledgement of each have 30 and 40 bytes, and
        // within a circuit 30 more: 240 times 280 bytes. What else there is may cost as much as two connections more.
        let connection = 240.0 * 280
        #expect(report.bytesPerHour <= (report.connectionsPerNode + 2) * connection, "\(report.bytesPerHour)")
        #expect(report.packetsPerHour <= (report.connectionsPerNode + 2) * 240 * 4, "\(report.packetsPerHour)")
        // A connection has some 10 KiB at each end, in this process both, and what relays hold of a circuit; a simulated
        // connection of TCP comes on top.
        #expect(report.memoryPerNode <= 600 * 1024, "\(report.memoryPerNode)")

        let started = try #require(report.started)
        #expect(started <= .seconds(2), "\(started)")
        // A relay that has lost its power is noticed by the keep-alive of its sessions, 30 s after the last one and 10 s without an
        // answer. The next one, whose distance is known, takes a moment, or two if it is asked while all others ask.
        let reserved = try #require(report.reserved)
        #expect(reserved <= .seconds(45), "\(reserved)")
        // Who has flows looks more closely: every 5 s, and gives up after 10 s; then it has 2 s for another way.
        #expect(report.pairsRelayed + report.pairsDirect == scale.pairs)
        #expect(report.pairsRelayed > 0)
        let reachable = try #require(report.reachable)
        #expect(reachable <= .seconds(20), "\(reachable)")
        #expect(report.strangersReached == scale.pairs)
    }
}
