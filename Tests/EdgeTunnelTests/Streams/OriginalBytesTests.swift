import ByteStreams
import LibP2P
import MeshCore
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    /// What an agent of v1.17 sees of ours, frame by frame: each read of a stream is one frame as it was written.
    @Suite(.serialized)
    struct OriginalBytesTests {
        private static let connect = "2008001203746370 1a086b652d6564676531 220a31302e3234342e312e32 28a049"
        private static let success = "2008011203746370 1a086b652d6564676531 220a31302e3234342e312e32 28a049"

        /// v1.17 throws away what it reads in one go with the answer: so payload never shares its frame.
        @Test
        func theAnswerHasAFrameOfItsOwn() async throws {
            let server = try await TestTarget.echo(greeting: "220 ready\r\n")
            let address = try #require(server.localAddress.flatMap { TransportAddress($0) })
            // The vector's target is nowhere; the server stands for it.
            let dialer = TargetDialer(
                stream: { _, loop, deadline in TargetDialer.sockets.stream(address, loop, deadline) },
                datagrams: TargetDialer.sockets.datagrams
            )
            try await FlowFixture.with(dialer: dialer) { fixture in
                let connect = try ByteBuffer(hex: Self.connect)
                for split in [1, 5, connect.readableBytes] {
                    for _ in 0..<20 {
                        let channel = try await fixture.rawStream(TunnelProtocol.proxy)
                        let log = try await channel.record()
                        // v1.17 writes the length for itself.
                        channel.write(connect.getSlice(at: 0, length: split) ?? ByteBuffer(), promise: nil)
                        let rest = connect.getSlice(at: split, length: connect.readableBytes - split)
                        channel.writeAndFlush(rest ?? ByteBuffer(), promise: nil)
                        try await eventually("answer and greeting") { log.reads.count == 2 }
                        #expect(log.reads[0].hex == Self.success.replacing(" ", with: ""))
                        #expect(String(buffer: log.reads[1]) == "220 ready\r\n")
                        try await channel.close().get()
                    }
                }
            }
            try await server.close()
        }

        @Test
        func whatTheOpenerSendsIsTheVector() async throws {
            try await FlowFixture.with(isOriginal: true) { fixture in
                let seen = ReadLog()
                fixture.far.handle(TunnelProtocol.proxy) { stream in
                    let channel = stream.channel
                    return channel.eventLoop.makeCompletedFuture {
                        try PreambleHandler.read(on: channel, deadline: .now() + .seconds(60)) { result in
                            if let message = try? result.get() { seen.note { $0.reads.append(message) } }
                            channel.writeAndFlush(ProxyMessage.failed.framed, promise: nil)
                            channel.close(promise: nil)
                        }
                    }
                }
                let target = TransportAddress(.v4(IPv4Address(10, 244, 1, 2)), 9376)
                let error = try await fixture.failure(.init(node: "ke-edge1", address: target))
                #expect(error.code == .refused && error.message.contains("ke-edge1"))
                #expect(seen.reads.map { "20\($0.hex)" } == [Self.connect.replacing(" ", with: "")])
            }
        }
    }
}
