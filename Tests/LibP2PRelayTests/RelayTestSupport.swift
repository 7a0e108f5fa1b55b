import LibP2P
import Logging
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Testing

@testable import LibP2PRelay

/// The suites that use sockets: one test after the other, as each has event loops of the process busy.
@Suite(.serialized) enum SocketTests {}

extension Logger {
    static var quiet: Logger {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return logger
    }
}

/// Makes hosts on loopback and shuts them down when the test is over.
final class Hosts {
    private var hosts: [Host] = []
    private var clients: [RelayClient] = []

    static func with<Result>(_ body: (Hosts) async throws -> Result) async throws -> Result {
        let hosts = Hosts()
        do {
            let result = try await body(hosts)
            await hosts.shutdown(grace: .seconds(2))
            return result
        } catch {
            await hosts.shutdown(grace: .zero)
            throw error
        }
    }

    /// - Parameter listens: false for a host that can only be reached through relays.
    func make(
        listens: Bool = true,
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
        _ configure: (inout HostConfiguration) -> Void = { _ in }
    ) async throws -> Host {
        var configuration = HostConfiguration(listenAddresses: listens ? [try Multiaddr("/ip4/127.0.0.1/tcp/0")] : [])
        configuration.identifyPushDelay = .milliseconds(20)
        // Other tests and debug builds take their time.
        configuration.handshakeTimeout = .seconds(60)
        configuration.dial.privateTimeout = .seconds(60)
        configuration.dial.relayTimeout = .seconds(60)
        configure(&configuration)
        let host = try Host(identity: .generate(), configuration: configuration, group: group, logger: .quiet)
        host.add(transport: TCPTransport())
        try await host.start()
        self.hosts.append(host)
        return host
    }

    /// A relay client with candidates, of which it wants to have reserved `wanted`. Kept until the end of the test.
    @discardableResult
    func client(
        of host: Host,
        _ relays: Host...,
        wanted: Int = 1,
        _ configure: (inout RelayClientConfiguration) -> Void = { _ in }
    ) -> RelayClient {
        var configuration = RelayClientConfiguration()
        configuration.wantedReservations = wanted
        configuration.retryBase = .milliseconds(20)
        configuration.retryMaximum = .milliseconds(200)
        configuration.refusalBase = .milliseconds(100)
        configure(&configuration)
        let client = RelayClient(host: host, configuration: configuration, logger: .quiet)
        client.start()
        client.setCandidates(relays.map(\.candidate))
        self.clients.append(client)
        return client
    }

    private func shutdown(grace: TimeAmount) async {
        for host in self.hosts { await host.shutdown(deadline: .now() + grace) }
    }
}

extension Host {
    /// Where it can be dialled, with its peer ID.
    var addresses: [Multiaddr] { self.listenAddresses.map { $0.appending(.p2p(self.peerID)) } }

    var candidate: RelayCandidate { RelayCandidate(peer: self.peerID, addresses: self.addresses) }

    /// A relay service that also tells loopback addresses.
    func serve(_ configure: (inout RelayServiceConfiguration) -> Void = { _ in }) -> RelayService {
        var configuration = RelayServiceConfiguration()
        configuration.addressFilter = { !$0.isCircuit }
        configure(&configuration)
        let service = RelayService(host: self, configuration: configuration, logger: .quiet)
        service.start()
        return service
    }

    /// Connects to a relay, and waits until the relay knows it.
    func join(_ relay: Host) async throws {
        _ = try await self.connect(to: relay.peerID, addresses: relay.addresses) as Connection
        try await eventually("the relay knows of the connection") { !relay.connections(to: self.peerID).isEmpty }
    }

    /// Addresses of a peer through this relay.
    func circuit(to peer: Host) -> [Multiaddr] {
        self.addresses.map { $0.appending(.circuit).appending(.p2p(peer.peerID)) }
    }

    /// Sends back what comes, with back-pressure, and ends when the peer does.
    func echo(_ protocolID: ProtocolID = "/echo", options: HandlerOptions = HandlerOptions()) {
        self.handle(protocolID, options: options) { stream in
            stream.channel.eventLoop.makeCompletedFuture {
                try stream.channel.pipeline.syncOperations.addHandler(EchoHandler())
                stream.channel.read()
            }
        }
    }
}

extension RelayClient {
    func holds(_ count: Int) async throws {
        try await eventually("\(count) reservations are held") { self.reservations.count == count }
    }
}

private final class EchoHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { context.write(data, promise: nil) }

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

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}

/// Gathers what comes until the peer ends it, or the stream fails.
final class Gatherer: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private var bytes = ByteBuffer()
    private var promise: EventLoopPromise<ByteBuffer>?
    private let enough: Int

    init(_ promise: EventLoopPromise<ByteBuffer>, enough: Int) {
        self.promise = promise
        self.enough = enough
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var read = self.unwrapInboundIn(data)
        self.bytes.writeBuffer(&read)
        if self.bytes.readableBytes >= self.enough { self.finish(nil) }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { self.finish(nil) }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.finish(error) }

    func channelInactive(context: ChannelHandlerContext) {
        self.finish(ChannelError.eof)
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.finish(ChannelError.eof) }

    private func finish(_ error: (any Error)?) {
        let promise = self.promise
        self.promise = nil
        if let error { promise?.fail(error) } else { promise?.succeed(self.bytes) }
    }
}

extension NegotiatedStream {
    /// Writes, and returns what comes back: all until the peer's end, or the first `enough` bytes.
    func exchange(_ bytes: ByteBuffer, ending: Bool = true, enough: Int = .max) async throws -> ByteBuffer {
        let channel = self.channel
        return try await channel.eventLoop.flatSubmit {
            let promise = channel.eventLoop.makePromise(of: ByteBuffer.self)
            do {
                try channel.pipeline.syncOperations.addHandler(Gatherer(promise, enough: enough))
                try channel.syncOptions?.setOption(.autoRead, value: true)
            } catch {
                promise.fail(error)
            }
            channel.writeAndFlush(bytes, promise: nil)
            if ending { channel.close(mode: .output, promise: nil) }
            return promise.futureResult
        }.get()
    }
}

extension ByteBuffer {
    static func pattern(_ count: Int, seed: Int = 0) -> ByteBuffer {
        ByteBuffer(bytes: (0..<count).map { UInt8(truncatingIfNeeded: ($0 &* 31) ^ ($0 >> 8) &+ seed) })
    }
}
