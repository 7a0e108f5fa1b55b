import ByteStreams
import MeshCore
import Multiformats
import NIOCore
import NIOEmbedded
import Testing

@testable import EdgeTunnel

@Suite
struct DatagramFramingTests {
    @Test
    func datagramsSurviveAnySegmentation() throws {
        let seed: UInt64 = 4711
        var generator = SeededGenerator(seed: seed)
        for round in 0..<200 {
            let datagrams = (0..<Int.random(in: 1...12, using: &generator)).map { _ in
                ByteBuffer(repeating: UInt8.random(in: 0...9, using: &generator), count: Self.length(&generator))
            }
            var wire = ByteBuffer()
            for datagram in datagrams {
                let framed = try #require(DatagramFraming.frame(datagram, allocator: ByteBufferAllocator()))
                wire.writeImmutableBuffer(framed)
            }
            var decoder = DatagramDecoder()
            var decoded: [ByteBuffer] = []
            while wire.readableBytes > 0 {
                let count = min(wire.readableBytes, Int.random(in: 1...5000, using: &generator))
                decoder.append(wire.readSlice(length: count) ?? ByteBuffer())
                while let datagram = try decoder.next() { decoded.append(datagram) }
            }
            #expect(decoded == datagrams, "seed \(seed), round \(round)")
            #expect(!decoder.isMidway)
        }
    }

    private static func length(_ generator: inout SeededGenerator) -> Int {
        [0, 1, 2, Int.random(in: 0...3000, using: &generator), DatagramFraming.maximumLength]
            .randomElement(using: &generator) ?? 0
    }

    @Test
    func datagramsAreBounded() throws {
        let allocator = ByteBufferAllocator()
        let longest = ByteBuffer(repeating: 1, count: 65_507)
        #expect(DatagramFraming.frame(longest, allocator: allocator)?.readableBytes == 65_509)
        #expect(DatagramFraming.frame(ByteBuffer(repeating: 1, count: 65_508), allocator: allocator) == nil)
        #expect(DatagramFraming.frame(ByteBuffer(repeating: 1, count: 1 << 17), allocator: allocator) == nil)
        for length in [UInt16(65_508), .max] {
            var decoder = DatagramDecoder()
            decoder.append(ByteBuffer(integer: length))
            #expect(throws: MultiformatsError.self) { try decoder.next() }
        }
    }

    @Test
    func aStreamThatAnnouncesTooMuchIsReset() throws {
        let traffic = FlowTraffic(loop: EmbeddedEventLoop())
        let channel = EmbeddedChannel(handler: FramedDatagramHandler(traffic))
        try channel.connect(to: SocketAddress(unixDomainSocketPath: "/flow")).wait()
        #expect(throws: MultiformatsError.self) { try channel.writeInbound(ByteBuffer(bytes: [0xFF, 0xFF, 1, 2])) }
        #expect(!channel.isActive)
    }

    @Test
    func whatV117CannotCarryIsDroppedAndCounted() throws {
        let traffic = FlowTraffic(loop: EmbeddedEventLoop())
        let channel = EmbeddedChannel(handler: UnframedDatagramHandler(traffic))
        for count in [0, 1, 4096, 4097] {
            let written = channel.writeAndFlush(ByteBuffer(repeating: 7, count: count))
            if (1...4096).contains(count) {
                try written.wait()
                #expect(try channel.readOutbound(as: ByteBuffer.self)?.readableBytes == count)
            } else {
                #expect(throws: ChannelError.writeMessageTooLarge) { try written.wait() }
            }
        }
        #expect(traffic.datagrams.unfit == 2)
        #expect(try channel.readOutbound(as: ByteBuffer.self) == nil)
    }
}
