import Glibc
import NIOCore
import NIOEmbedded
import Testing

@testable import Yamux

/// Every way in which a stream or a session ends.
@Suite struct YamuxCloseTests {
    @Test func closeEndsTheStreamBehindItsBytes() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        stream.write([1])
        stream.channel?.close(promise: nil)
        #expect(stream.inactive == 1)
        #expect(try peer.send() == [.data(1, [1], .syn), .update(1, .fin)])
        #expect(peer.side.handler.openStreams == 1)
        try peer.send(.update(1, [.ack, .fin]))
        #expect(peer.side.isEmpty)
    }

    /// As glue does that has passed the end on: nothing is left to wait for.
    @Test func aStreamThatIsClosedAtThePeersEndDoesNotLinger() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        stream.onInputClosed = { $0.close(promise: nil) }
        stream.write([1])
        stream.channel?.close(mode: .output, promise: nil)
        #expect(try peer.send() == [.data(1, [1], .syn), .update(1, .fin)])
        #expect(try peer.send(.update(1, [.ack, .fin])) == [])
        #expect((stream.inactive, stream.inputClosed, stream.errors.count) == (1, 1, 0))
        #expect(peer.side.isEmpty)
        #expect(peer.side.handler.lingering.isEmpty)
    }

    @Test func dataForAClosedStreamIsAnsweredByReset() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        stream.write([1])
        stream.channel?.close(promise: nil)
        try peer.send()
        #expect(try peer.send(.data(1, [5], .ack)) == [.update(1, .rst)])
        #expect(try peer.send(.data(1, [6])) == [])
        #expect(peer.side.isEmpty)
        #expect(peer.side.closed.value.isEmpty)
    }

    @Test func closeWithUnreadBytesTellsThePeer() throws {
        let peer = try RawPeer(setUp: withoutAutoRead)
        try peer.send(.data(1, [1], .syn))
        peer.side.inbound.value.first?.channel?.close(promise: nil)
        #expect(try peer.send() == [.update(1, .fin), .update(1, .rst)])
        #expect(peer.side.isEmpty)
    }

    @Test func lingeringIsBounded() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        stream.write(Array(repeating: 1, count: 300 * 1024))
        stream.channel?.close(promise: nil)
        try peer.send()
        #expect(peer.side.handler.unsentBytes == 44 * 1024)
        peer.loop.advanceTime(by: .seconds(9))
        try peer.send(.ping(0, .ack))
        peer.loop.advanceTime(by: .seconds(20))
        #expect(peer.side.handler.openStreams == 1)
        peer.loop.advanceTime(by: .seconds(1))
        let frames = try peer.side.takeFrames()
        #expect(frames == [.ping(1, .syn), .update(1, .rst)])
        #expect(peer.failure == nil)
        #expect(peer.side.isEmpty)
    }

    @Test func withoutHalfClosureTheEndOfInputClosesTheStream() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open(halfClosure: false)
        stream.write([1])
        try peer.send()
        #expect(try peer.send(.update(1, [.ack, .fin])) == [.update(1, .fin)])
        #expect((stream.inactive, stream.inputClosed) == (1, 0))
        #expect(peer.side.isEmpty)
    }

    @Test func resets() throws {
        let peer = try RawPeer(.client)
        let (byEvent, byLinger) = (try peer.side.open(), try peer.side.open())
        try peer.send()
        byEvent.channel?.triggerUserOutboundEvent(YamuxStreamReset(code: 7), promise: nil)
        #expect(try peer.send() == [.update(1, .rst, 7)])
        let socket = try #require(byLinger.channel as? any SocketOptionProvider)
        try socket.setSoLinger(linger(l_onoff: 1, l_linger: 0)).wait()
        byLinger.write([1])
        byLinger.channel?.close(promise: nil)
        #expect(try peer.send() == [.update(3, .rst)])
        #expect((byEvent.inactive, byLinger.inactive) == (1, 1))
        #expect((byEvent.errors.count, byLinger.errors.count) == (0, 0))
        #expect(peer.side.isEmpty)
    }

    @Test func aResetByThePeerIsAnErrorAndFailsWrites() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        let write = peer.loop.makePromise(of: Void.self)
        stream.write(Array(repeating: 0, count: 300_000), promise: write)
        try peer.send()
        try peer.send(.update(1, .rst, 3))
        #expect(stream.errorCode == .streamReset)
        #expect(stream.inactive == 1)
        #expect(throws: YamuxError.self) { try write.futureResult.wait() }
        #expect(peer.side.isEmpty)
        #expect(throws: ChannelError.ioOnClosedChannel) { try stream.channel?.writeAndFlush(ByteBuffer()).wait() }
    }

    @Test func bytesBeforeTheEndSurviveAReset() throws {
        let peer = try RawPeer(setUp: withoutAutoRead)
        try peer.send(.data(1, [1, 2], [.syn, .fin]), .update(1, .rst))
        let stream = try #require(peer.side.inbound.value.first)
        #expect(stream.received == [1, 2])
        #expect((stream.inputClosed, stream.inactive) == (1, 1))
        #expect(peer.side.isEmpty)
    }

    @Test func aFailedInitializerResetsTheStream() throws {
        let peer = try RawPeer(initializer: { $0.eventLoop.makeFailedFuture(ChannelError.inputClosed) })
        #expect(try peer.send(.data(1, [1, 2, 3], .syn)) == [.update(1, .rst)])
        #expect(peer.side.isEmpty)
    }

    @Test func bytesWaitForASlowInitializer() throws {
        var ready: EventLoopPromise<Void>?
        let peer = try RawPeer(initializer: {
            let promise = $0.eventLoop.makePromise(of: Void.self)
            ready = promise
            return promise.futureResult
        })
        #expect(try peer.send(.data(1, [1, 2, 3], [.syn, .fin])) == [])
        #expect(peer.side.inbound.value.first?.received == [])
        ready?.succeed()
        #expect(try peer.send() == [.update(1, .ack)])
        #expect(peer.side.inbound.value.first?.received == [1, 2, 3])
        #expect(peer.side.inbound.value.first?.inputClosed == 1)
    }

    @Test func theEndOfTheConnectionEndsItsStreams() throws {
        let pair = try Pair()
        let streams = try (0..<5).map { _ in try pair.client.open() }
        try pair.settle()
        pair.client.channel.pipeline.fireErrorCaught(ChannelError.inputClosed)
        pair.loop.run()
        for stream in streams {
            #expect(stream.errorCode == .sessionClosed)
            #expect(stream.inactive == 1)
            #expect("\(stream.errors)".contains("Input closed"))
        }
        try pair.server.channel.close().wait()
        #expect(pair.server.inbound.value.allSatisfy { $0.errorCode == .sessionClosed && $0.inactive == 1 })
        #expect(pair.client.isEmpty && pair.server.isEmpty)
        #expect(throws: YamuxError.self) { try pair.client.open() }
    }

    @Test func aSessionDrainsAndThenSaysGoodbye() throws {
        let peer = try RawPeer()
        try peer.send(.update(1, .syn))
        peer.side.handler.close(drainUntil: peer.loop.now + .seconds(5))
        #expect(try peer.send(.update(3, .syn)) == [.update(3, .rst)])
        #expect(throws: YamuxError.self) { try peer.side.open() }
        peer.side.inbound.value.first?.channel?.close(mode: .output, promise: nil)
        #expect(try peer.send(.update(1, .fin)) == [.update(1, .fin), .goAway(0)])
        #expect(peer.side.closed.value.count == 1)
        #expect(peer.failure == nil)
        #expect(!peer.side.channel.isActive)
    }

    @Test func drainingIsBounded() throws {
        let peer = try RawPeer()
        try peer.send(.update(1, .syn))
        peer.side.handler.close(.internalError, drainUntil: peer.loop.now + .seconds(5))
        peer.loop.advanceTime(by: .seconds(5))
        #expect(try peer.side.takeFrames().last == .goAway(2))
        #expect(peer.side.inbound.value.first?.errorCode == .sessionClosed)
        #expect(peer.side.isEmpty)
    }

    @Test func aGoAwayOfThePeer() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        try peer.send(.goAway(0))
        #expect(peer.side.events.value.contains("goAway 0"))
        #expect(#expect(throws: YamuxError.self) { try peer.side.open() }?.code == .remoteGoAway)
        stream.write([1])
        #expect(try peer.send() == [.data(1, [1])])
        try peer.send(.goAway(1))
        #expect(peer.failure == .remoteGoAway)
        #expect(stream.errorCode == .sessionClosed)
    }

    @Test func aSilentPeerIsGivenUp() throws {
        let peer = try RawPeer()
        try peer.send(.ping(0, .ack))
        peer.loop.advanceTime(by: .seconds(30))
        #expect(try peer.side.takeFrames() == [.ping(1, .syn)])
        peer.loop.advanceTime(by: .seconds(9))
        #expect(peer.side.closed.value.isEmpty)
        peer.loop.advanceTime(by: .seconds(1))
        #expect(peer.failure == .keepAliveTimedOut)
    }

    @Test func anythingIsASignOfLife() throws {
        let peer = try RawPeer()
        for _ in 0..<20 {
            peer.loop.advanceTime(by: .seconds(9))
            try peer.send(.update(1, [.syn, .rst]))
        }
        #expect(peer.side.closed.value.isEmpty)
    }

    @Test func roundTripsAreMeasured() throws {
        let peer = try RawPeer()
        #expect(peer.side.handler.roundTripTime == nil)
        peer.loop.advanceTime(by: .milliseconds(30))
        try peer.send(.ping(0, .ack))
        #expect(peer.side.handler.roundTripTime == .milliseconds(30))
    }

    @Test func aStalledConnectionIsGivenUp() throws {
        let peer = try RawPeer(.client)
        try peer.send(.ping(0, .ack))
        let stream = try peer.side.open()
        peer.side.channel.isWritable = false
        peer.side.channel.pipeline.fireChannelWritabilityChanged()
        stream.write([1])
        peer.loop.run()
        peer.loop.advanceTime(by: .seconds(9))
        #expect(peer.side.closed.value.isEmpty)
        peer.loop.advanceTime(by: .seconds(1))
        #expect(peer.failure == .writeTimedOut)
        #expect(stream.errorCode == .sessionClosed)
    }
}
