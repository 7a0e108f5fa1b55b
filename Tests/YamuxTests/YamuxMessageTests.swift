import NIOCore
import NIOEmbedded
import Testing

@testable import Yamux

/// Streams whose frames are messages.
@Suite struct YamuxMessageTests {
    private static func messages(_ recorder: StreamRecorder, _ channel: any Channel) {
        withoutAutoRead(recorder, channel)
        #expect(throws: Never.self) { try channel.syncOptions?.setOption(YamuxMessageBoundaries(), value: true) }
    }

    @Test func everyFrameIsARead() throws {
        let peer = try RawPeer(setUp: Self.messages)
        try peer.send(.update(1, .syn))
        var bytes = ByteBuffer()
        for value in 0..<5000 { bytes.writeImmutableBuffer(Frame.data(1, [UInt8(truncatingIfNeeded: value)]).bytes) }
        try peer.send(bytes)
        let recorder = try #require(peer.side.inbound.value.first)
        try recorder.channel?.syncOptions?.setOption(.autoRead, value: true)
        #expect(recorder.reads == Array(repeating: 1, count: 5000))
        #expect(recorder.received == (0..<5000).map { UInt8(truncatingIfNeeded: $0) })
    }

    @Test func aWriteWaitsForAWindowThatTakesItWhole() throws {
        let peer = try RawPeer(setUp: Self.messages)
        try peer.send(.update(1, .syn))
        let recorder = try #require(peer.side.inbound.value.first)
        let window = YamuxConfiguration.initialWindowBytes
        // The first leaves room for a hundred bytes more.
        let full = [64 * 1024, 64 * 1024, 64 * 1024, 64 * 1024 - 100]
        for count in full { recorder.write(Array(repeating: 1, count: count)) }
        recorder.write(Array(repeating: 2, count: 4096))
        recorder.write([3])
        peer.loop.run()
        #expect(try peer.side.takeFrames().filter { $0.header.kind == .data }.map { Int($0.header.length) } == full)
        #expect(full.reduce(0, +) + 100 == window)
        // Still not enough, although the window was never empty.
        #expect(try peer.send(.update(1, [], 3995)).isEmpty)
        let rest = try peer.send(.update(1, [], 2))
        #expect(rest.map { Int($0.header.length) } == [4096, 1])
        recorder.channel?.close(mode: .output, promise: nil)
        peer.loop.run()
        #expect(try peer.side.takeFrames() == [.update(1, .fin)])
    }
}
