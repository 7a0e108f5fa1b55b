import NIOCore
import Synchronization

/// The way between one session and its server. Confined to the session's loop; the server's channel may live on another one,
/// and then datagrams cross over in batches.
final class DatagramLink {
    /// Datagrams on their way from one loop to the other, each way; what comes beyond is dropped, as a full socket does.
    static let maximumCrossing = 512

    private let channel: any Channel
    private let loop: any EventLoop
    private let isSameLoop: Bool
    /// For the other loop, until the next flush.
    private var outbox: [ByteBuffer] = []
    private let crossing = CrossingCount()
    private var isClosed = false

    init(_ channel: any Channel, loop: any EventLoop) {
        self.channel = channel
        self.loop = loop
        self.isSameLoop = channel.eventLoop === loop
    }

    /// False if the datagram is dropped: there is no room.
    func write(_ datagram: ByteBuffer) -> Bool {
        guard self.channel.isWritable else { return false }
        if self.isSameLoop {
            self.channel.write(datagram, promise: nil)
        } else {
            guard self.crossing.value + self.outbox.count < Self.maximumCrossing else { return false }
            self.outbox.append(datagram)
        }
        return true
    }

    func flush() {
        guard !self.isSameLoop else { return self.channel.flush() }
        guard !self.outbox.isEmpty else { return }
        let batch = self.outbox
        self.outbox.removeAll(keepingCapacity: true)
        self.crossing.add(batch.count)
        self.channel.eventLoop.execute { [channel, crossing] in
            for datagram in batch { channel.write(datagram, promise: nil) }
            channel.flush()
            crossing.add(-batch.count)
        }
    }

    /// Begins to read. The closures are called on the session's loop; `onEnd` once, with true if the server refused.
    func receive(
        onDatagrams: @escaping ([ByteBuffer]) -> Void,
        onDropped: @escaping (Int) -> Void,
        onEnd: @escaping (_ failed: Bool) -> Void
    ) {
        let receiver = DatagramReceiver(onDatagrams: onDatagrams, onDropped: onDropped, onEnd: onEnd)
        let bound = NIOLoopBound(receiver, eventLoop: self.loop)
        let (channel, loop) = (self.channel, self.loop)
        channel.eventLoop.submit {
            try channel.pipeline.syncOperations.addHandler(DatagramReceivingHandler(receiver: bound, loop: loop))
            return channel.setOption(.autoRead, value: true)
        }
        .flatMap { $0 }
        .hop(to: loop)
        .assumeIsolated()
        .whenFailure { _ in receiver.end(failed: false) }
    }

    func close() {
        guard !self.isClosed else { return }
        self.isClosed = true
        self.channel.close(promise: nil)
    }
}

/// Datagrams that are on their way between two loops.
private final class CrossingCount: Sendable {
    private let count = Atomic<Int>(0)

    var value: Int { self.count.load(ordering: .relaxed) }

    func add(_ number: Int) { self.count.wrappingAdd(number, ordering: .relaxed) }
}

/// What a session does with what its server sends. Confined to the session's loop.
final class DatagramReceiver {
    let onDatagrams: ([ByteBuffer]) -> Void
    let onDropped: (Int) -> Void
    private var onEnd: ((Bool) -> Void)?

    init(
        onDatagrams: @escaping ([ByteBuffer]) -> Void,
        onDropped: @escaping (Int) -> Void,
        onEnd: @escaping (Bool) -> Void
    ) {
        self.onDatagrams = onDatagrams
        self.onDropped = onDropped
        self.onEnd = onEnd
    }

    func end(failed: Bool) {
        let onEnd = self.onEnd
        self.onEnd = nil
        onEnd?(failed)
    }
}

/// Brings a server's datagrams to the session's loop, those of one read together.
final class DatagramReceivingHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let receiver: NIOLoopBound<DatagramReceiver>
    private let loop: any EventLoop
    private let crossing = CrossingCount()
    private var batch: [ByteBuffer] = []
    /// Not told yet: that would be one more thing for a loop that has too much to do.
    private var dropped = 0

    init(receiver: NIOLoopBound<DatagramReceiver>, loop: any EventLoop) {
        self.receiver = receiver
        self.loop = loop
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.batch.append(self.unwrapInboundIn(data))
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard !self.batch.isEmpty else { return }
        let batch = self.batch
        self.batch.removeAll(keepingCapacity: true)
        if context.eventLoop === self.loop {
            self.receiver.value.onDatagrams(batch)
        } else if self.crossing.value + batch.count > DatagramLink.maximumCrossing {
            self.dropped += batch.count
        } else {
            self.crossing.add(batch.count)
            let dropped = self.dropped
            self.dropped = 0
            self.tell { [crossing] receiver in
                crossing.add(-batch.count)
                if dropped > 0 { receiver.onDropped(dropped) }
                receiver.onDatagrams(batch)
            }
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // ECONNREFUSED: nobody listens there any more. The next datagram of the client finds another endpoint.
        self.tell { $0.end(failed: true) }
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.tell { $0.end(failed: false) }
        context.fireChannelInactive()
    }

    private func tell(_ what: @escaping @Sendable (DatagramReceiver) -> Void) {
        let receiver = self.receiver
        if self.loop.inEventLoop {
            what(receiver.value)
        } else {
            self.loop.execute { what(receiver.value) }
        }
    }
}
