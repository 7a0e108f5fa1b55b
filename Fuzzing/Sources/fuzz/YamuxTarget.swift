import NIOCore
import NIOEmbedded
import Yamux

extension FuzzTarget {
    /// A yamux session of either role against a peer that sends anything, while this side opens, writes, half-closes and resets
    /// streams. It may end the session, but holds no more than it says, and every stream ends with it.
    static let yamux = FuzzTarget(name: "yamux") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard bytes.count >= 2 else { return 0 }
        let (mode, step) = (bytes[0], max(1, Int(bytes[1])))
        var configuration = YamuxConfiguration()
        configuration.maximumInboundStreams = 8
        configuration.acceptBacklog = 4
        configuration.maximumUnreadBytes = 128 * 1024
        let channel = EmbeddedChannel()
        var streams: [any Channel] = []
        var opened = 0
        let session = YamuxHandler(role: mode & 1 == 0 ? .client : .server, configuration: configuration) { stream in
            opened += 1
            streams.append(stream)
            if mode & 8 != 0 { _ = try? stream.syncOptions?.setOption(.autoRead, value: false) }
            if mode & 16 != 0 { _ = try? stream.syncOptions?.setOption(.allowRemoteHalfClosure, value: true) }
            return mode & 32 != 0 && opened % 3 == 0
                ? stream.eventLoop.makeFailedFuture(ChannelError.eof) : stream.eventLoop.makeSucceededVoidFuture()
        }
        guard (try? channel.pipeline.syncOperations.addHandler(session)) != nil else { return 0 }
        channel.connect(to: YamuxFixture.address, promise: nil)
        if mode & 2 != 0 {
            for _ in 0..<3 {
                session.openStream { $0.eventLoop.makeSucceededVoidFuture() }.assumeIsolated().whenSuccess {
                    streams.append($0)
                    $0.writeAndFlush(ByteBuffer(repeating: 7, count: 100), promise: nil)
                }
            }
        }
        var pieces = 0
        for start in stride(from: 2, to: bytes.count, by: step) {
            let piece = ByteBuffer(bytes: bytes[start..<min(bytes.count, start + step)])
            channel.pipeline.fireChannelRead(piece)
            channel.pipeline.fireChannelReadComplete()
            channel.embeddedEventLoop.run()
            pieces += 1
            if mode & 4 != 0, !streams.isEmpty {
                let stream = streams[pieces % streams.count]
                switch pieces % 5 {
                case 0: stream.close(promise: nil)
                case 1: stream.close(mode: .output, promise: nil)
                case 2: stream.read()
                default: stream.writeAndFlush(piece, promise: nil)
                }
            }
            while let sent = try? channel.readOutbound(as: ByteBuffer.self) { _ = sent }
            precondition(session.openStreams <= 8 + 3, "\(session.openStreams) streams")
            precondition(session.bufferedBytes <= 4 * 128 * 1024 + 65536, "\(session.bufferedBytes) bytes are held")
        }
        end(channel)
        precondition(session.openStreams == 0, "a stream outlives its session")
        precondition(streams.allSatisfy { !$0.isActive }, "a stream is active after its session")
        precondition(session.bufferedBytes == 0, "bytes are held for no stream")
        return 0
    }
}

private enum YamuxFixture {
    static let address: SocketAddress = {
        guard let address = try? SocketAddress(ipAddress: "127.0.0.1", port: 20006) else { fatalError("no address") }
        return address
    }()
}
