import LibP2PSecurity
import Logging
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Testing

@testable import LibP2P

/// The suites that use sockets: one test after the other, as each has event loops of the process busy.
@Suite(.serialized) enum SocketTests {}

/// A host for tests, on loopback; shut down by whoever made it.
func makeHost(
    listen: [String] = ["/ip4/127.0.0.1/tcp/0"],
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
    transports: [any Transport] = [TCPTransport(), WebSocketTransport()],
    _ configure: (inout HostConfiguration) -> Void = { _ in }
) async throws -> Host {
    var configuration = HostConfiguration(listenAddresses: try listen.map { try Multiaddr($0) })
    configuration.identifyPushDelay = .milliseconds(20)
    // A machine that is busy with other things does not make a test fail.
    configuration.dial.privateTimeout = .seconds(60)
    configuration.handshakeTimeout = .seconds(60)
    configuration.identifyTimeout = .seconds(60)
    configure(&configuration)
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let host = try Host(identity: .generate(), configuration: configuration, group: group, logger: logger)
    for transport in transports { host.add(transport: transport) }
    try await host.start()
    return host
}

/// Makes hosts, runs `body` and shuts them down, whatever happens.
func withHosts<Result>(
    _ hosts: Host...,
    body: () async throws -> Result
) async throws -> Result {
    do {
        let result = try await body()
        for host in hosts { await host.shutdown(deadline: .now() + .seconds(2)) }
        return result
    } catch {
        for host in hosts { await host.shutdown(deadline: .now()) }
        throw error
    }
}

extension Host {
    /// Sends back what comes, with back-pressure, and ends when the peer does.
    func echo(_ protocolID: ProtocolID, options: HandlerOptions = HandlerOptions()) {
        self.handle(protocolID, options: options) { stream in
            stream.channel.eventLoop.makeCompletedFuture {
                try stream.channel.pipeline.syncOperations.addHandler(EchoHandler())
                stream.channel.read()
            }
        }
    }
}

final class EchoHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.write(data, promise: nil)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.flush()
        if context.channel.isWritable { context.read() }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { context.close(mode: .output, promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}

extension NegotiatedStream {
    /// Writes, ends the output, and gives all that comes back. On the stream's loop.
    func exchanged(_ bytes: ByteBuffer) -> EventLoopFuture<ByteBuffer> {
        let collected = CollectingHandler.collect(self, maximum: 1 << 30, timeout: .seconds(60))
        self.channel.writeAndFlush(bytes, promise: nil)
        self.channel.close(mode: .output, promise: nil)
        return collected
    }

    func exchange(_ bytes: ByteBuffer) async throws -> ByteBuffer {
        try await self.channel.eventLoop.flatSubmit { self.exchanged(bytes) }.get()
    }

    func exchange(_ text: String) async throws -> String {
        String(buffer: try await self.exchange(ByteBuffer(string: text)))
    }
}
