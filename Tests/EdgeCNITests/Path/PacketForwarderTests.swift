import KubeModel
import LinuxNetwork
import MeshCore
import PacketWire
import ServiceCatalog
import Testing

@testable import EdgeCNI

@Suite
struct PacketForwarderTests {
    private typealias Sample = SamplePackets
    private static let now = MonotonicTime(nanoseconds: 1)

    /// This node has 10.244.1.0/24, the node `far` 10.244.2.0/24.
    private func forwarder(offloads: TunDevice.Offloads = [.tcp, .udp], mtu: Int = 1400) throws -> PacketForwarder {
        var nodes = [NodeObject(name: "here"), NodeObject(name: "far")]
        nodes[0].podCIDRs = ["10.244.1.0/24", "fd00:244:1::/64"].compactMap { CIDR($0) }
        nodes[1].podCIDRs = ["10.244.2.0/24", "fd00:244:2::/64"].compactMap { CIDR($0) }
        var builder = PodRouteBuilder(
            localNode: "here",
            networks: PodNetworks(mesh: ["10.244.0.0/16", "fd00:244::/32"].compactMap { CIDR($0) })
        )
        let routesMade = builder.apply(CatalogSnapshot(services: [], nodes: nodes), changed: [])
        let routes = try #require(routesMade)
        return PacketForwarder(routes: routes, mtu: mtu, offloads: offloads, now: Self.now)
    }

    private func outgoing(_ forwarder: inout PacketForwarder, _ packet: [UInt8]) -> (PacketForwarder.Outgoing, [UInt8])
    {
        var bytes = [UInt8](repeating: 0, count: VirtioNetHeader.length) + packet
        let outgoing = bytes.withUnsafeBytes { forwarder.outgoing($0, now: Self.now) }
        if case .send(let sending) = outgoing, sending.isOpening {
            bytes.withUnsafeMutableBytes {
                forwarder.clamp(sending, in: UnsafeMutableRawBufferPointer(rebasing: $0[VirtioNetHeader.length...]))
            }
        }
        return (outgoing, Array(bytes.dropFirst(VirtioNetHeader.length)))
    }

    @Test
    func packetsGoToTheNodeOfTheirPod() throws {
        var forwarder = try self.forwarder()
        for packet in [Sample.version4(payload: [1]), Sample.version6(payload: [1])] {
            guard case (.send(let sending), let bytes) = self.outgoing(&forwarder, packet) else {
                Issue.record("not sent")
                continue
            }
            #expect(sending.node == "far")
            #expect(sending.offload == .none)
            #expect(!sending.isOpening)
            #expect(bytes == packet)
        }
        #expect(forwarder.counters.sentPackets == 2)
        #expect(forwarder.counters.sentBytes == 21 + 41)
    }

    @Test
    func segmentSizesFitTheDevice() throws {
        var forwarder = try self.forwarder(mtu: 1300)
        let packet = Sample.version4(number: 6, payload: Sample.tcp(flags: 2, options: [2, 4, 0x05, 0xB4]))
        let (_, bytes) = self.outgoing(&forwarder, packet)
        #expect(Array(bytes[40..<44]) == [2, 4] + Sample.word(UInt16(1260)))
        #expect(try Sample.isSound(bytes))
        #expect(forwarder.counters.clampedSegmentSizes == 1)
    }

    @Test(arguments: [
        (SamplePackets.version4(target: .v4(IPv4Address(10, 244, 1, 7)), payload: []), PacketForwarder.Drop.local),
        (SamplePackets.version4(target: .v4(IPv4Address(8, 8, 8, 8)), payload: []), .outside),
        (SamplePackets.version4(source: .v4(IPv4Address(192, 168, 1, 1)), payload: []), .foreignSource),
        (SamplePackets.version4(source: .v4(IPv4Address(10, 244, 2, 1)), payload: []), .foreignSource),
        ([0x45, 0, 0], .malformed),
    ])
    func otherPacketsOfTheDeviceGoNowhere(packet: [UInt8], reason: PacketForwarder.Drop) throws {
        var forwarder = try self.forwarder()
        #expect(self.outgoing(&forwarder, packet).0 == .drop(reason))
        #expect(forwarder.counters.drops == [reason: 1])
        #expect(forwarder.counters.sentPackets == 0)
    }

    @Test
    func sendersToNobodyAreToldWithinLimits() throws {
        var forwarder = try self.forwarder()
        let packet = Sample.version4(target: .v4(IPv4Address(10, 244, 3, 7)), payload: Sample.udp(payload: [1]))
        for _ in 0..<Int(PacketForwarder.answerBurst) {
            guard case .answer(let answer) = self.outgoing(&forwarder, packet).0 else {
                Issue.record("no answer")
                return
            }
            let parsed = try Sample.parse(answer)
            #expect(parsed.source == IPAddress.v4(IPv4Address(10, 244, 3, 7)))
            #expect(parsed.destination == Sample.source4)
        }
        #expect(self.outgoing(&forwarder, packet).0 == .drop(.unknownNode))
        #expect(forwarder.counters.answers == UInt64(PacketForwarder.answerBurst))
        #expect(forwarder.counters.answersWithheld == 1)
        #expect(forwarder.counters.drops == [.unknownNode: UInt64(PacketForwarder.answerBurst) + 1])
    }

    @Test
    func sendersOfVersion6AreToldToo() throws {
        var forwarder = try self.forwarder()
        let target = IPAddress.v6(IPv6Address(high: 0xFD00_0244_0003_0000, low: 1))
        let packet = Sample.version6(
            target: target,
            payload: Sample.udp(payload: [1], between: Sample.source6, and: target)
        )
        guard case .answer(let answer) = self.outgoing(&forwarder, packet).0 else {
            Issue.record("no answer")
            return
        }
        #expect(try Sample.parse(answer).destination == Sample.source6)
        #expect(try Sample.isSound(answer))
    }

    private func incoming(
        _ forwarder: inout PacketForwarder,
        _ packet: [UInt8],
        _ offload: PacketOffload = .none,
        from node: String = "far"
    ) -> PacketForwarder.Incoming {
        packet.withUnsafeBytes { forwarder.incoming($0, offload, from: node) }
    }

    private static let back = SamplePackets.version4(
        source: SamplePackets.target4,
        target: SamplePackets.source4,
        payload: SamplePackets.udp(payload: [1], between: SamplePackets.target4, and: SamplePackets.source4)
    )

    @Test
    func packetsOfPeersReachPodsOfThisNode() throws {
        var forwarder = try self.forwarder()
        guard case .deliver(let header) = self.incoming(&forwarder, Self.back) else {
            Issue.record("not delivered")
            return
        }
        let packet = try Sample.parse(Self.back)
        #expect(try Self.back.withUnsafeBytes { try header.offload(of: packet, $0) } == PacketOffload.none)
        #expect(forwarder.counters.receivedPackets == 1)
        #expect(forwarder.counters.receivedBytes == UInt64(Self.back.count))
    }

    @Test(arguments: [
        (back, "other", PacketForwarder.Drop.spoofed), (back, "here", .spoofed),
        (SamplePackets.version4(source: .v4(IPv4Address(10, 244, 1, 9)), payload: []), "far", .spoofed),
        (SamplePackets.version4(source: .v4(IPv4Address(10, 96, 0, 1)), payload: []), "far", .spoofed),
        (
            SamplePackets.version4(source: SamplePackets.target4, target: .v4(IPv4Address(10, 244, 2, 2)), payload: []),
            "far", .misdirected
        ),
        (
            SamplePackets.version4(source: SamplePackets.target4, target: .v4(.loopback), payload: []), "far",
            .misdirected
        ),
        ([UInt8](repeating: 0, count: 40), "far", .malformed), (back.dropLast(), "far", .malformed),
    ])
    func otherPacketsOfPeersAreRefused(packet: [UInt8], node: String, reason: PacketForwarder.Drop) throws {
        var forwarder = try self.forwarder()
        guard case .drop(reason) = self.incoming(&forwarder, packet, from: node) else {
            Issue.record("not dropped as \(reason)")
            return
        }
        #expect(forwarder.counters.drops == [reason: 1])
        #expect(forwarder.counters.receivedPackets == 0)
    }

    @Test
    func offloadsThatDoNotFitAreRefused() throws {
        var forwarder = try self.forwarder()
        guard case .drop(.malformed) = self.incoming(&forwarder, Self.back, PacketOffload(segmentSize: 1)) else {
            Issue.record("not refused")
            return
        }
    }

    @Test
    func whatTheDeviceCannotCutIsCut() throws {
        let large = Sample.version4(
            source: Sample.target4,
            target: Sample.source4,
            payload: Sample.udp(
                payload: [UInt8](repeating: 3, count: 3000),
                between: Sample.target4,
                and: Sample.source4,
                isPartial: true
            )
        )
        let offload = PacketOffload(isChecksumPartial: true, segmentSize: 1200)
        var old = try self.forwarder(offloads: .tcp)
        guard case .cut(let segments) = self.incoming(&old, large, offload) else {
            Issue.record("not cut")
            return
        }
        #expect(segments.count == 3)
        var new = try self.forwarder()
        guard case .deliver = self.incoming(&new, large, offload) else {
            Issue.record("not delivered")
            return
        }
    }
}
