import ByteStreams
import EndpointBalancing
import NIOCore

/// A proxied connection whose bytes the kernel carries by itself, until it ends. Confined to its worker's loop.
final class SplicedConnection: TrackedConnection {
    private let worker: ProxyWorker
    private let balancer: RouteBalancer
    private let pick: RouteBalancer.Pick
    private var id: UInt64?

    init(worker: ProxyWorker, balancer: RouteBalancer, pick: RouteBalancer.Pick) {
        self.worker = worker
        self.balancer = balancer
        self.pick = pick
    }

    func begin(_ pair: SplicedPair) {
        self.worker.spliceBegan(self)
        let connection = NIOLoopBound(self, eventLoop: self.worker.loop)
        self.id = self.worker.splicer.carry(pair) { [loop = self.worker.loop] ending in
            loop.execute { connection.value.end(ending) }
        }
    }

    func closeWithReset() {
        if let id { self.worker.splicer.reset(id) }
    }

    private func end(_ ending: SocketSplicer.Ending) {
        self.id = nil
        self.balancer.end(self.pick)
        self.worker.spliceEnded(self, ending)
    }
}
