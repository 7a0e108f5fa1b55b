import ByteStreams
import Logging
import MeshCore
import Multiformats
import NIOCore

/// One flow of another agent, from its request to the glue. Confined to the loop of its stream.
final class InboundFlow {
    private let acceptor: FlowAcceptor
    private let stream: any Channel
    private let peer: PeerID
    private let dialect: FlowDialect
    private let traffic: FlowTraffic

    init(
        _ acceptor: FlowAcceptor,
        _ stream: any Channel,
        _ peer: PeerID,
        _ dialect: FlowDialect,
        _ traffic: FlowTraffic
    ) {
        self.acceptor = acceptor
        self.stream = stream
        self.peer = peer
        self.dialect = dialect
        self.traffic = traffic
    }

    /// The first message of the stream has come, or nothing will.
    func received(_ result: Result<ByteBuffer, any Error>) {
        do {
            self.serve(try FlowRequest(result.get(), self.dialect))
        } catch let error as MultiformatsError {
            self.refuse(.badRequest, "\(error)")
        } catch {
            self.acceptor.count { $0.silent += 1 }
            self.stream.closeWithReset()
        }
    }

    private func serve(_ request: FlowRequest) {
        if let reason = self.acceptor.refusal(of: request, from: self.peer) {
            let code: OpenReply.Code = reason == .wrongNode ? .wrongNode : .notAllowed
            let node = self.acceptor.access.policy.nodeName
            return self.refuse(code, "\(node) does not dial \(request.target): \(reason.explanation)")
        }
        let loop = self.stream.eventLoop
        let limit = self.acceptor.limits.dialTimeout
        let deadline = loop.now + min(limit, request.timeout ?? limit)
        let dial = request.transport == .tcp ? self.acceptor.dialer.stream : self.acceptor.dialer.datagrams
        dial(request.target, loop, deadline).assumeIsolated().whenComplete { result in
            switch result {
            case .success(let socket):
                self.join(socket, request)
            case .failure(let error):
                let failure = DialFailure(error, dialling: request.target)
                if failure.code == .overloaded { self.acceptor.noteShortage(error, now: loop.now) }
                self.refuse(failure.code, failure.message)
            }
        }
    }

    private func join(_ socket: any Channel, _ request: FlowRequest) {
        guard self.stream.isActive else {
            self.acceptor.count { $0.abandoned += 1 }
            return socket.close(promise: nil)
        }
        // A write of its own is a frame of its own: v1.17 loses what comes in one read with its answer.
        self.stream.writeAndFlush(request.acceptance, promise: nil)
        do {
            switch request.transport {
            case .udp: try self.joinDatagrams(socket)
            case .tcp, .sctp: try self.joinStreams(socket)
            }
        } catch {
            self.stream.closeWithReset()
            return socket.close(promise: nil)
        }
        self.acceptor.count { counters in
            counters.opened += 1
            if self.dialect == .original { counters.openedForOriginals += 1 }
        }
        self.acceptor.logger.debug(
            "a flow of another node is open",
            metadata: [
                "peer-id": "\(self.peer)", "target": "\(request.target)", "transport": "\(request.transport)",
                "client": "\(request.client.map { "\($0)" } ?? "unknown")",
                "service": "\(request.service.map { "\($0)" } ?? "unknown")",
            ]
        )
    }

    private func joinStreams(_ socket: any Channel) throws {
        let glue = GlueHandler.matchedPair(
            counters: self.traffic.bytes,
            lingerTimeout: self.acceptor.limits.lingerTimeout
        )
        try self.stream.pipeline.syncOperations.addHandler(glue.client)
        try socket.pipeline.syncOperations.addHandler(glue.server)
        glue.client.start()
    }

    private func joinDatagrams(_ socket: any Channel) throws {
        self.traffic.carriesDatagrams(self.stream)
        if self.dialect == .original { try self.stream.keepFramesAsDatagrams() }
        try self.stream.pipeline.syncOperations.addDatagramHandler(isFramed: self.dialect == .own, self.traffic)
        try DatagramGlue.join(
            stream: self.stream,
            socket: socket,
            traffic: self.traffic,
            limits: self.acceptor.limits
        )
    }

    private func refuse(_ code: OpenReply.Code, _ message: String) {
        guard self.stream.isActive else { return }
        self.acceptor.refuse(self.stream, self.dialect, code, message)
    }
}
