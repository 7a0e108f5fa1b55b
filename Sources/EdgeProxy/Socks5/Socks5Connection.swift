import ByteStreams
import Glibc
import MeshInterfaces
import NIOCore
import NIOPosix

/// One SOCKS5 client, from its accept to its end: shakes hands, dials, answers, glues. Confined to its channel's loop.
final class Socks5Connection: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private enum State {
        case handshaking
        case dialling
        case glued
        case ended
    }

    private let server: Socks5Server
    private var machine: Socks5StateMachine
    private var state = State.handshaking
    private var context: ChannelHandlerContext?
    /// Not parsed yet; what follows the request is for the target.
    private var received = ByteBuffer()
    private var inputEnded = false
    private var timeout: Scheduled<Void>?

    init(server: Socks5Server) {
        self.server = server
        self.machine = Socks5StateMachine(credentials: server.settings.credentials)
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.timeout?.cancel()
        self.state = .ended
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        context.fireChannelActive()
        self.timeout = context.eventLoop.assumeIsolated().scheduleTask(in: Socks5Server.handshakeTimeout) {
            self.server.count(.handshakeFailed)
            context.channel.closeWithReset()
        }
        context.read()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        self.received.writeBuffer(&bytes)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard case .handshaking = self.state else { return }
        while case .handshaking = self.state {
            switch self.machine.receive(&self.received) {
            case .needsMore:
                return context.read()
            case .reply(let bytes):
                context.channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: nil)
            case .connect(let destination):
                self.connect(destination, context)
            case .end(let bytes):
                self.server.count(.handshakeFailed)
                self.end(bytes)
            }
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent {
            self.inputEnded = true
            if case .handshaking = self.state { self.end([]) }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.channel.closeWithReset()
    }

    private func connect(_ destination: Socks5Destination, _ context: ChannelHandlerContext) {
        self.state = .dialling
        self.timeout?.cancel()
        self.server.dial(destination, from: context.channel).assumeIsolated().whenComplete { result in
            switch result {
            case .success(let target): self.connected(target)
            case .failure(let error):
                self.server.count(.refused)
                self.end(Socks5Reply(error).bytes)
            }
        }
    }

    private func connected(_ target: any Channel) {
        guard case .dialling = self.state, let channel = self.context?.channel else {
            return target.close(promise: nil)
        }
        self.server.count(.served)
        let (received, inputEnded) = (self.received, self.inputEnded)
        self.received = ByteBuffer()
        self.state = .glued
        // All of the answer is with the kernel before the socket may change its channel.
        channel.writeAndFlush(ByteBuffer(bytes: Socks5Reply.succeeded.bytes)).assumeIsolated().whenComplete { result in
            guard case .success = result else { return target.close(promise: nil) }
            if target.eventLoop === channel.eventLoop {
                self.server.glue(channel, target, received, inputEnded)
            } else {
                self.server.move(channel, to: target, received, inputEnded)
            }
        }
    }

    private func end(_ bytes: [UInt8]) {
        guard let channel = self.context?.channel else { return }
        self.state = .ended
        self.timeout?.cancel()
        guard !bytes.isEmpty else { return channel.close(promise: nil) }
        channel.writeAndFlush(ByteBuffer(bytes: bytes)).whenComplete { _ in channel.close(promise: nil) }
    }
}

extension Socks5Reply {
    /// What a client is told of a dial that failed.
    init(_ error: any Error) {
        switch error {
        case let reply as Socks5Reply: self = reply
        case let error as TunnelError:
            switch error.code {
            case .refused: self = .connectionRefused
            case .unreachable, .unknownNode: self = .hostUnreachable
            case .noPath, .notRunning: self = .networkUnreachable
            case .notAllowed: self = .notAllowed
            case .timedOut: self = .timedOut
            case .overloaded, .badAnswer: self = .generalFailure
            }
        case let error as ByteStreamsError where error.code == .deadlineExceeded: self = .timedOut
        case let error as IOError where error.errnoCode == ECONNREFUSED: self = .connectionRefused
        case let error as IOError where error.errnoCode == EHOSTUNREACH: self = .hostUnreachable
        case let error as IOError where error.errnoCode == ENETUNREACH: self = .networkUnreachable
        default: self = .generalFailure
        }
    }
}
