import MeshCore
import NIOCore
import NetSim
import Synchronization

/// What a channel has brought: bytes, its end, its errors.
final class Inbox: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer

    struct Content {
        var bytes: [UInt8] = []
        var reads = 0
        var isActive = false
        var hasEnded = false
        var isClosed = false
        var error: (any Error)?
        var writability: [Bool] = []
    }

    private let content = Mutex(Content())

    var now: Content { self.content.withLock { $0 } }
    var text: String { String(decoding: self.now.bytes, as: UTF8.self) }

    func channelActive(context: ChannelHandlerContext) {
        self.content.withLock { $0.isActive = true }
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.content.withLock {
            $0.bytes += Array(buffer: bytes)
            $0.reads += 1
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { self.content.withLock { $0.hasEnded = true } }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        let isWritable = context.channel.isWritable
        self.content.withLock { $0.writability.append(isWritable) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.content.withLock { $0.error = error }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.content.withLock { $0.isClosed = true }
    }
}

/// Sends back what comes, and ends when its peer does.
final class Echo: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.write(data, promise: nil)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.flush()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { context.close(mode: .output, promise: nil) }
    }
}

/// A connection and what both ends have seen.
struct Conversation: Sendable {
    let client: any Channel
    let server: any Channel
    let clientInbox: Inbox
    let serverInbox: Inbox

    /// Connects two machines; `accept` sets up the server's end before it is active.
    static func open(
        from client: Machine,
        to server: Machine,
        at address: TransportAddress,
        halfClosure: Bool = true,
        accept: @escaping @Sendable (any Channel) throws -> Void = { _ in }
    ) async throws -> Conversation {
        let (clientInbox, serverInbox) = (Inbox(), Inbox())
        let accepted = server.simulation.loop.makePromise(of: (any Channel).self)
        let listener = try await server.listen(on: address) { channel in
            do {
                try channel.syncOptions?.setOption(.allowRemoteHalfClosure, value: halfClosure)
                try accept(channel)
                try channel.pipeline.syncOperations.addHandler(serverInbox)
                accepted.succeed(channel)
            } catch {
                accepted.fail(error)
            }
        }.get()
        let channel = try await client.connect(to: address).flatMapThrowing { channel in
            try channel.syncOptions?.setOption(.allowRemoteHalfClosure, value: halfClosure)
            try channel.pipeline.syncOperations.addHandler(clientInbox)
            return channel
        }.get()
        let other = try await accepted.futureResult.get()
        try await listener.close().get()
        return Conversation(client: channel, server: other, clientInbox: clientInbox, serverInbox: serverInbox)
    }
}

extension Simulation {
    /// Two machines on the internet, 10 ms apart each way.
    func twoMachines() -> (Machine, Machine) {
        let (one, other) = (self.machine("one"), self.machine("other"))
        one.attach(to: self.internet, "203.0.113.1")
        other.attach(to: self.internet, "203.0.113.2")
        return (one, other)
    }
}

/// An error of the simulated kernel.
func errno(_ error: (any Error)?) -> CInt? { (error as? IOError)?.errnoCode }
