import MeshTesting
import NIOCore
import NIOPosix
import PacketWire
import Synchronization
import Testing

@testable import EdgeCNI
@testable import LinuxNetwork

/// Queues of a device on event loops.
@Suite
struct TunQueueTests {
    /// Answers pings on the loop that read them.
    private final class Responder: TunReading {
        struct Seen: Sendable {
            var packets = 0
            var completions = 0
            /// Since the last completion, and most between two.
            var batch = 0
            var largestBatch = 0
            var longest = 0
            var errors: [String] = []
        }

        private let queue: Int32
        private let state = Mutex(Seen())

        init(queue: Int32) { self.queue = queue }

        var seen: Seen { self.state.withLock { $0 } }

        func read(_ buffer: ByteBuffer) {
            let bytes = Array(buffer.readableBytesView.dropFirst(VirtioNetHeader.length))
            self.state.withLock { seen in
                seen.packets += 1
                seen.batch += 1
                seen.longest = max(seen.longest, bytes.count)
            }
            guard bytes.count > 28, bytes[9] == 1, bytes[20] == 8 else { return }
            // The echo that it asks for: addresses change places, and the sum grows by what the type loses.
            var answer = bytes
            answer.replaceSubrange(12..<20, with: bytes[16..<20] + bytes[12..<16])
            answer[20] = 0
            let sum = UInt16(bytes[22]) << 8 | UInt16(bytes[23])
            answer.replaceSubrange(
                22..<24,
                with: SamplePackets.word(InternetChecksum.updated(sum, from: 0x0800, to: 0x0000))
            )
            do {
                try answer.withUnsafeBytes {
                    try TunDevice.write([UInt8](repeating: 0, count: VirtioNetHeader.length), $0, to: self.queue)
                }
            } catch {
                self.state.withLock { $0.errors.append("\(error)") }
            }
        }

        func readComplete() {
            self.state.withLock { seen in
                seen.completions += 1
                seen.largestBatch = max(seen.largestBatch, seen.batch)
                seen.batch = 0
            }
        }
    }

    @Test(arguments: [1500, 9000])
    func packetsAreReadOneByOne(mtu: Int) async throws {
        let lab = try TunLab(queues: 2, mtu: mtu)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        var channels: [any Channel] = []
        var responders: [Responder] = []
        for index in 0..<2 {
            let responder = Responder(queue: lab.devices[0].queues[index])
            responders.append(responder)
            let queue = TunQueue.open(lab.devices[0], queue: index, on: group.next(), reader: responder)
            channels.append(try await queue.get())
        }
        let side = "ip netns exec \(lab.name)0"
        try shell("ip -n \(lab.name)0 route add 10.71.0.0/16 dev edge_tun0")
        // As large as the device allows, without parts; the next as soon as one comes back.
        let output = try await besides {
            try shell("\(side) timeout -s KILL 60 busybox ping -A -q -c 300 -s \(mtu - 28) 10.71.9.9")
        }
        #expect(output.contains(" 300 packets received"), "\(output)")
        for channel in channels { try await channel.close() }
        let seen = responders.map(\.seen)
        #expect(seen.map(\.packets).reduce(0, +) >= 300)
        #expect(seen.map(\.longest).max() == mtu)
        #expect(seen.flatMap(\.errors) == [])
        #expect(seen.map(\.completions).reduce(0, +) > 0)
        // The device outlives the channels that read it.
        #expect(try shell("ip -n \(lab.name)0 link show edge_tun0").contains("edge_tun0"))
        try await group.shutdownGracefully()
    }

    @Test
    func packetsThatCameTogetherAreReadTogether() async throws {
        let lab = try TunLab(queues: 1)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let responder = Responder(queue: lab.devices[0].queues[0])
        let channel = try await TunQueue.open(lab.devices[0], queue: 0, on: group.any(), reader: responder).get()
        try shell("ip -n \(lab.name)0 route add 10.71.0.0/16 dev edge_tun0")
        // The loop is busy while they come.
        try await group.any().submit { [lab] in
            let send = "for i in {1..40}; do echo . > /dev/udp/10.71.9.9/9; done"
            try shell("ip netns exec \(lab.name)0 bash -c '\(send)'")
        }.get()
        let end = ContinuousClock.now + .seconds(60)
        while responder.seen.largestBatch < 40, ContinuousClock.now < end {
            try await Task.sleep(for: .milliseconds(5))
        }
        #expect(responder.seen.largestBatch >= 40)
        try await channel.close()
        try await group.shutdownGracefully()
    }
}
