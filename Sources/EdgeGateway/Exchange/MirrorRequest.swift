import EndpointBalancing
import GatewayRouting
import LoadBalancing
import MeshCore
import MeshInterfaces
import NIOCore

/// A copy of a request, whose answer nobody reads but to its end. Confined to its loop.
final class MirrorRequest: UpstreamObserver {
    private let worker: GatewayWorker
    private let balancer: SharedBalancer
    private let pick: SharedBalancer.Pick
    private var stream: (any UpstreamStream)?
    private var timer: Scheduled<Void>?
    /// It holds itself until it is over.
    private var itself: MirrorRequest?

    private init(_ worker: GatewayWorker, _ balancer: SharedBalancer, _ pick: SharedBalancer.Pick) {
        self.worker = worker
        self.balancer = balancer
        self.pick = pick
    }

    static func send(
        _ head: RequestHead,
        _ content: [ByteBuffer],
        to backend: Backend,
        from client: TransportAddress,
        _ worker: GatewayWorker
    ) {
        guard worker.mirrorsOpen < worker.limits.maximumMirrors, let balancer = worker.backends.balancer(for: backend),
            let pick = balancer.begin(PickContext(client: client.address, now: .now()))
        else {
            worker.counters.mirrorsLeftOut += 1
            return
        }
        var head = head
        head.upgrade = nil
        let mirror = MirrorRequest(worker, balancer, pick)
        mirror.itself = mirror
        worker.mirrorsOpen += 1
        worker.counters.mirrors += 1
        mirror.timer = worker.loop.assumeIsolated().scheduleTask(in: worker.limits.idleTimeout) { mirror.finish() }
        if let stream = worker.pool.reuse(pick.endpoint, backend) { return mirror.send(head, content, on: stream) }
        worker.pool.open(
            pick.endpoint,
            backend,
            origin: FlowOrigin(client: client, service: backend.service),
            deadline: .now() + worker.limits.dialTimeout
        ) { result in
            guard case .success(let opened) = result else { return mirror.finish() }
            guard mirror.itself != nil else { return opened.stream.cancel() }
            mirror.send(head, content, on: opened.stream)
        }
    }

    private func send(_ head: RequestHead, _ content: [ByteBuffer], on stream: any UpstreamStream) {
        self.stream = stream
        stream.observer = self
        stream.send(head)
        for bytes in content { stream.write(bytes) }
        stream.end(nil)
        stream.flush()
        stream.read()
    }

    func upstreamInformed(_ head: ResponseHead) {}
    func upstreamAnswered(_ head: ResponseHead) {}
    func upstreamSent(_ bytes: ByteBuffer) {}
    func upstreamReadComplete() { self.stream?.read() }
    func upstreamBecameWritable() {}
    func upstreamSwitched(_ head: ResponseHead, _ channel: any Channel, received: ByteBuffer?) {
        channel.close(promise: nil)
        self.finish()
    }
    func upstreamFailed(_ failure: UpstreamFailure) { self.finish() }
    func upstreamEnded(_ trailers: HeaderFields?) {
        self.stream = nil
        self.finish()
    }

    private func finish() {
        guard self.itself != nil else { return }
        self.itself = nil
        self.timer?.cancel()
        self.timer = nil
        self.stream?.cancel()
        self.stream = nil
        self.balancer.end(self.pick)
        self.worker.mirrorsOpen -= 1
    }
}
