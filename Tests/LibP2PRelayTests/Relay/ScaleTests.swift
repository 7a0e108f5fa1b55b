import LibP2P
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import Testing

@testable import LibP2PRelay

extension SocketTests {
    /// As many streams and connections as a cluster has, between real hosts over loopback.
    @Suite struct ScaleTests {
        /// A node proxies three thousand connections to another at once; none waits for another to end.
        @Test func threeThousandStreamsToOnePeer() async throws {
            try await Hosts.with { hosts in
                let server = try await hosts.make()
                let client = try await hosts.make(listens: false)
                server.echo()
                try await client.join(server)
                let connection = try #require(client.connections(to: server.peerID).first)
                let count = 3000
                // Each has said something and heard it, and stays open.
                let opened = (0..<count).map { number in
                    connection.openStream(protocols: ["/echo"]).flatMap { stream -> EventLoopFuture<any Channel> in
                        let promise = stream.channel.eventLoop.makePromise(of: (any Channel).self)
                        do {
                            try stream.channel.pipeline.syncOperations.addHandler(
                                ExpectingHandler("stream \(number)", promise)
                            )
                        } catch { promise.fail(error) }
                        return promise.futureResult
                    }
                }
                let channels = try await EventLoopFuture.whenAllSucceed(opened, on: connection.eventLoop).get()
                #expect(server.metrics.openStreamsInbound >= count)
                #expect(server.metrics.streamsRefused == 0 && client.metrics.streamsRefused == 0)
                for channel in channels { channel.close(promise: nil) }
                try await eventually("all have ended", within: .seconds(60)) {
                    server.metrics.openStreamsInbound == 0 && client.metrics.openStreamsOutbound == 0
                }
            }
        }

        /// Six hundred nodes of one site at one relay: all are connected, reserve, and reach each other.
        @Test func sixHundredNodesAtOneRelay() async throws {
            let count = 600
            let capacity = HostCapacity(peers: 1000, streamsPerPeer: 15_000, streams: 20_000)
            try await Hosts.with { hosts in
                let relay = try await hosts.make { configuration in
                    let listening = configuration.listenAddresses
                    configuration = HostConfiguration(listenAddresses: listening, capacity: capacity)
                    configuration.handshakeTimeout = .seconds(60)
                    // Trimming looks often, and at young connections, too.
                    configuration.connectionManager.interval = .milliseconds(100)
                    configuration.connectionManager.grace = .zero
                }
                let service = relay.serve()
                var nodes: [Host] = []
                for _ in 0..<count { nodes.append(try await hosts.make(listens: false)) }
                for batch in stride(from: 0, to: count, by: 50) {
                    let connecting: [EventLoopFuture<Connection>] = nodes[batch..<min(count, batch + 50)].map {
                        $0.connect(to: relay.peerID, addresses: relay.addresses)
                    }
                    for future in connecting { _ = try await future.get() }
                }
                try await eventually("the relay has them all") { relay.connections.count == count }
                var reserve = ByteBuffer()
                reserve.writeVarintPrefixed(HopMessage.reserve.buffer)
                for node in nodes {
                    let stream = try await node.openStream(to: relay.peerID, protocols: [CircuitProtocol.hop])
                    var answer = try await stream.exchange(reserve, ending: false)
                    let message = try #require(try answer.readVarintPrefixed(maximumLength: 4096))
                    #expect(try HopMessage(message).status == .ok)
                }
                #expect(await service.metrics().openReservations == count)
                // The last and the first of them.
                let (source, target) = (try #require(nodes.first), try #require(nodes.last))
                for node in [source, target] { hosts.client(of: node, relay) }
                target.echo()
                let connection: Connection = try await source.connect(
                    to: target.peerID,
                    addresses: relay.circuit(to: target)
                )
                let stream = try await connection.openStream(protocols: ["/echo"]).get()
                #expect(try await stream.exchange(ByteBuffer(string: "across")) == ByteBuffer(string: "across"))
                let metrics = relay.metrics
                #expect(
                    metrics.connectionsRefused == 0 && metrics.connectionsTrimmed == 0 && metrics.streamsRefused == 0
                )
                #expect(relay.connections.count == count)
            }
        }
    }
}

/// Sends a text and completes when it has come back.
private final class ExpectingHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let text: String
    private let promise: EventLoopPromise<any Channel>
    private var received = ByteBuffer()

    init(_ text: String, _ promise: EventLoopPromise<any Channel>) {
        self.text = text
        self.promise = promise
    }

    func handlerAdded(context: ChannelHandlerContext) {
        context.channel.writeAndFlush(ByteBuffer(string: self.text), promise: nil)
        context.read()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        self.received.writeBuffer(&bytes)
        if self.received == ByteBuffer(string: self.text) { self.promise.succeed(context.channel) }
    }

    func channelReadComplete(context: ChannelHandlerContext) { context.read() }

    func channelInactive(context: ChannelHandlerContext) { self.promise.fail(ChannelError.eof) }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.promise.fail(error) }
}
