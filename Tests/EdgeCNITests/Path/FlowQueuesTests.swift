import MeshCore
import Testing

@testable import EdgeCNI

@Suite
struct FlowQueuesTests {
    private func queues(bytes: Int = 1000, ofClass: Int = 500, classes: Int = 4) -> FlowQueues<Int> {
        FlowQueues(limits: .init(bytes: bytes, bytesOfClass: ofClass, classes: classes, quantum: 100))
    }

    private func all(_ queues: inout FlowQueues<Int>) -> [Int] {
        var packets: [Int] = []
        while let (packet, _) = queues.next() { packets.append(packet) }
        return packets
    }

    @Test
    func theOrderWithinAFlowStays() {
        var queues = self.queues()
        for packet in 0..<10 { queues.append(packet, bytes: 10, flow: 7) }
        #expect(queues.count == 10)
        #expect(queues.bytes == 100)
        #expect(self.all(&queues) == Array(0..<10))
        #expect(queues.isEmpty)
        #expect(queues.bytes == 0)
        #expect(queues.next() == nil)
    }

    @Test
    func flowsTakeTurnsByBytes() {
        var queues = self.queues()
        // One flow of large packets, one of small ones: as many bytes of each.
        for packet in 0..<4 { queues.append(packet, bytes: 100, flow: 0) }
        for packet in 100..<108 { queues.append(packet, bytes: 50, flow: 1) }
        #expect(self.all(&queues) == [0, 100, 101, 1, 102, 103, 2, 104, 105, 3, 106, 107])
    }

    @Test
    func packetsLongerThanATurnPassInTime() {
        var queues = self.queues()
        queues.append(0, bytes: 350, flow: 0)
        for packet in 1...5 { queues.append(packet, bytes: 100, flow: 1) }
        #expect(self.all(&queues) == [1, 2, 3, 0, 4, 5])
    }

    @Test
    func aFlowLosesItsOwnOldestPackets() {
        var queues = self.queues()
        queues.append(1000, bytes: 100, flow: 1)
        for packet in 0..<8 { queues.append(packet, bytes: 100, flow: 0) }
        #expect(queues.dropped == 3)
        #expect(queues.bytes == 600)
        #expect(self.all(&queues).sorted() == [3, 4, 5, 6, 7, 1000])
    }

    @Test
    func theLargestClassPaysForTheWhole() {
        var queues = self.queues(bytes: 600)
        for packet in 0..<5 { queues.append(packet, bytes: 100, flow: 0) }
        queues.append(10, bytes: 100, flow: 1)
        #expect(queues.dropped == 0)
        queues.append(20, bytes: 100, flow: 2)
        #expect(queues.dropped == 1)
        #expect(queues.bytes == 600)
        #expect(self.all(&queues).sorted() == [1, 2, 3, 4, 10, 20])
    }

    @Test
    func whatNoClassHoldsIsDropped() {
        var queues = self.queues()
        queues.append(0, bytes: 501, flow: 0)
        #expect(queues.isEmpty)
        #expect(queues.dropped == 1)
        #expect(queues.next() == nil)
        queues.append(1, bytes: 500, flow: 0)
        queues.removeAll()
        #expect(queues.isEmpty)
        #expect(queues.dropped == 2)
    }

    @Test
    func nothingIsLostUntold() {
        var generator = SeededGenerator(seed: 6)
        var queues = self.queues(bytes: 3000, ofClass: 1000, classes: 8)
        var (given, taken) = (0, 0)
        for _ in 0..<20_000 {
            if Bool.random(using: &generator) {
                queues.append(
                    given,
                    bytes: .random(in: 1...600, using: &generator),
                    flow: .random(in: 0...99, using: &generator)
                )
                given += 1
            } else if queues.next() != nil {
                taken += 1
            }
            #expect(queues.bytes <= 3000)
        }
        #expect(given == taken + queues.count + Int(queues.dropped))
        #expect(queues.count == self.all(&queues).count)
    }
}
