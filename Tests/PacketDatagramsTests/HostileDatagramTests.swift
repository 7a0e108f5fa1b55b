import MeshCore
import NIOCore
import Testing

@testable import PacketDatagrams

/// Bytes of a peer that means no good, and of strangers: good ones that were changed at random.
@Suite struct HostileDatagramTests {
    private static let count = 20_000
    private static let now = MonotonicTime(nanoseconds: 0)
    private static let place = TransportAddress(.v4(IPv4Address(192, 0, 2, 1)), 20_006)

    /// Some bytes changed, some left out, some added.
    private static func changed(_ bytes: [UInt8], _ generator: inout SeededGenerator) -> [UInt8] {
        var bytes = bytes
        for _ in 0...Int.random(in: 0...3, using: &generator) {
            let place = Int.random(in: 0...bytes.count, using: &generator)
            switch Int.random(in: 0...3, using: &generator) {
            case 0: bytes.insert(UInt8.random(in: 0...255, using: &generator), at: place)
            case 1: bytes.removeSubrange(place..<min(bytes.count, place + Int.random(in: 0...8, using: &generator)))
            default: if place < bytes.count { bytes[place] ^= UInt8.random(in: 1...255, using: &generator) }
            }
        }
        return bytes
    }

    private static func hello(_ index: UInt32) -> DatagramHello {
        DatagramExchange(index: index, addresses: [Self.place, Self.place], prefersAES: true).hello
    }

    @Test("a hello makes no more than its bounds let it, and reads back", arguments: [1, 2] as [UInt64])
    func hellos(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let good = Array(Self.hello(7).buffer.readableBytesView)
        var taken = 0
        for _ in 0..<Self.count {
            let bytes = ByteBuffer(bytes: Self.changed(good, &generator))
            guard let hello = try? DatagramHello(bytes) else { continue }
            #expect((try? DatagramHello(hello.buffer)) == hello)
            var link = DatagramLink(.acceptor, of: .sample, prefersAES: true, now: Self.now)
            guard (try? link.received(hello: bytes, index: 1, addresses: [], now: Self.now)) != nil else { continue }
            taken += 1
            #expect(link.wake(now: Self.now, using: &generator).count <= DatagramHello.maximumAddresses)
            #expect(link.maximumPacket == nil)
        }
        #expect(taken > 0, "seed \(seed)")
    }

    @Test("without the key no datagram is taken, answered or remembered", arguments: [1, 2] as [UInt64])
    func datagrams(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        var link = DatagramLink(.acceptor, of: .sample, prefersAES: true, now: Self.now)
        _ = try link.received(hello: Self.hello(2).buffer, index: 9, addresses: [], now: Self.now)
        _ = link.wake(now: Self.now, using: &generator)
        let wake = link.wakeTime
        let good = [0, 0, 0, 0, 0, 0, 0, 9] + [UInt8](repeating: 0, count: 8) + [UInt8](repeating: 5, count: 60)
        for number in 0..<Self.count {
            let bytes = Self.changed(good, &generator)
            var plain = ByteBuffer()
            let stranger = TransportAddress(.v4(IPv4Address(198, 51, 100, 1)), UInt16(clamping: number + 1))
            let received = bytes.withUnsafeBytes { link.receive($0, from: stranger, into: &plain, now: Self.now) }
            #expect(received == .refused && plain.readableBytes == 0)
        }
        #expect(link.wakeTime == wake && link.address == nil)
        #expect(link.counters.refused == UInt64(Self.count) && link.counters.received == 0)
    }

    @Test("a peer that sends from ever more addresses is known at some of them, and still followed")
    func manyPlaces() {
        var configuration = DatagramPath.Configuration()
        configuration.maximumCandidates = 4
        var path = DatagramPath(candidates: [Self.place], configuration: configuration, now: Self.now)
        var generator = SeededGenerator(seed: 3)
        var now = Self.now
        for number in 1...100 as ClosedRange<UInt16> {
            now = now + .seconds(10)
            // It moves, and answers at the new place alone.
            let place = TransportAddress(.v4(IPv4Address(192, 0, 2, 2)), number)
            path.heard(from: place, now: now)
            for _ in 0..<20 where path.route?.address != place {
                for probe in path.wake(now: now, using: &generator) where probe.address == place {
                    path.heard(from: place, now: now)
                    path.answered(probe.number, now: now)
                }
                now = now + .milliseconds(500)
            }
            #expect(path.route?.address == place, "move \(number)")
        }
    }
}
