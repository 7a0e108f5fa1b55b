import NIOCore
import Yamux

/// A yamux session as what a connection asks of its multiplexer.
struct YamuxMultiplexer: StreamMultiplexer {
    static let name = "/yamux/1.0.0"

    let session: YamuxHandler

    var openStreams: Int { self.session.openStreams }
    var roundTripTime: TimeAmount? { self.session.roundTripTime }

    func openStream(_ initializer: @escaping (any Channel) -> EventLoopFuture<Void>) -> EventLoopFuture<any Channel> {
        self.session.openStream(initializer)
    }

    func close(drainUntil deadline: NIODeadline?) {
        self.session.close(.normal, drainUntil: deadline)
    }
}
