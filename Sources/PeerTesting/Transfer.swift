import Crypto
public import NIOCore

/// What a client does on one stream of a test protocol, and what came of it.
public struct Transfer: Sendable {
    /// Sent first, as it is.
    public var request = ""
    /// Bytes of a fixed noise that follow.
    public var sends = 0
    /// The output ends behind them; otherwise only when all has come.
    public var endsOutput = true
    /// Reads nothing before all is sent and the output has ended.
    public var readsLate = false
    public var hashes = false
    /// Ends when so much has come, with peers that cannot end one direction alone; nil for the peer's end.
    public var expects: Int?

    public struct Outcome: Sendable, Equatable {
        public var received = 0
        /// The first bytes that came, as text.
        public var text = ""
        public var sentHash = ""
        public var receivedHash = ""
    }

    public init(
        request: String = "",
        sends: Int = 0,
        endsOutput: Bool = true,
        readsLate: Bool = false,
        hashes: Bool = false,
        expects: Int? = nil
    ) {
        self.request = request
        self.sends = sends
        self.endsOutput = endsOutput
        self.readsLate = readsLate
        self.hashes = hashes
        self.expects = expects
    }

    /// Runs on a fresh stream, whose `autoRead` is off, until the peer's end; on its loop. Then the stream is closed.
    ///
    /// It must begin before anything of the stream has been read: an end that has been told is not told again.
    /// - Parameter limit: fails by then, and says how far it has come.
    public func run(on channel: any Channel, within limit: TimeAmount = .seconds(120)) -> EventLoopFuture<Outcome> {
        let promise = channel.eventLoop.makePromise(of: Outcome.self)
        do {
            try channel.pipeline.syncOperations.addHandler(TransferHandler(self, limit, promise))
        } catch {
            promise.fail(error)
        }
        promise.futureResult.whenComplete { _ in channel.close(promise: nil) }
        return promise.futureResult
    }
}

private final class TransferHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private static let pieceLength = 128 * 1024
    /// Noise twice as long as a piece: pieces begin at changing offsets, so that none is like the last.
    private static let noise: ByteBuffer = {
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        var bytes = ByteBuffer()
        for _ in 0..<(2 * TransferHandler.pieceLength / 8) {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            bytes.writeInteger(state ^ (state >> 29))
        }
        return bytes
    }()

    private let plan: Transfer
    private let limit: TimeAmount
    private let promise: EventLoopPromise<Transfer.Outcome>
    private var timer: Scheduled<Void>?
    private var outcome = Transfer.Outcome()
    private var left: Int
    private var offset = 0
    private var sentHash: SHA256?
    private var receivedHash: SHA256?
    private var isDone = false
    private var hasSent = false
    /// A write may change the writability, and come back here before it is flushed.
    private var isFilling = false

    init(_ plan: Transfer, _ limit: TimeAmount, _ promise: EventLoopPromise<Transfer.Outcome>) {
        self.plan = plan
        self.limit = limit
        self.promise = promise
        self.left = plan.sends
        if plan.hashes { (self.sentHash, self.receivedHash) = (SHA256(), SHA256()) }
    }

    func handlerAdded(context: ChannelHandlerContext) {
        guard context.channel.isActive else { return self.finish(.failure(ChannelError.alreadyClosed)) }
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: self.limit) {
            self.finish(.failure(TestPeerError("the stream has not ended in time: \(self.progress)")))
        }
        if !self.plan.request.isEmpty {
            context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: self.plan.request)), promise: nil)
        }
        self.fill(context)
        if !self.plan.readsLate { context.read() }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.fill(context)
        context.fireChannelWritabilityChanged()
    }

    private func fill(_ context: ChannelHandlerContext) {
        guard !self.isFilling else { return }
        self.isFilling = true
        defer { self.isFilling = false }
        while self.left > 0, context.channel.isWritable {
            let length = min(self.left, Self.pieceLength)
            guard let piece = Self.noise.getSlice(at: self.offset, length: length) else { return }
            self.offset = (self.offset + 4099) % Self.pieceLength
            self.left -= length
            self.sentHash?.update(piece)
            context.writeAndFlush(self.wrapOutboundOut(piece), promise: nil)
        }
        guard self.left == 0, !self.hasSent else { return }
        self.hasSent = true
        guard self.plan.endsOutput else { return }
        let ended = context.eventLoop.makePromise(of: Void.self)
        context.close(mode: .output, promise: ended)
        if self.plan.readsLate {
            ended.futureResult.assumeIsolated().whenComplete { _ in context.read() }
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        if self.outcome.text.utf8.count < 128 {
            self.outcome.text += String(decoding: bytes.readableBytesView.prefix(128), as: UTF8.self)
        }
        self.outcome.received += bytes.readableBytes
        self.receivedHash?.update(bytes)
        if let expects = self.plan.expects, self.outcome.received >= expects { self.succeed() }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if !self.isDone { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { self.succeed() }
    }

    private func succeed() {
        self.outcome.sentHash = self.sentHash?.finalize().hex ?? ""
        self.outcome.receivedHash = self.receivedHash?.finalize().hex ?? ""
        self.finish(.success(self.outcome))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.finish(.failure(error))
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.finish(.failure(ChannelError.eof))
    }

    private var progress: String {
        let (plan, received) = (self.plan, self.outcome.received)
        return """
            after \(self.limit.nanoseconds / 1_000_000_000) s \(plan.sends - self.left) of \(plan.sends) bytes are written, \
            \(received)\(plan.expects.map { " of \($0)" } ?? "") have come
            """
    }

    private func finish(_ result: Result<Transfer.Outcome, any Error>) {
        guard !self.isDone else { return }
        self.isDone = true
        self.timer?.cancel()
        self.promise.completeWith(result)
    }
}

extension Transfer {
    static func hashOfZeros(_ count: Int) -> String {
        var hash = SHA256()
        let zeros = ByteBuffer(repeating: 0, count: 128 * 1024)
        var left = count
        while left > 0 {
            guard let piece = zeros.getSlice(at: 0, length: min(left, zeros.readableBytes)) else { break }
            hash.update(piece)
            left -= piece.readableBytes
        }
        return hash.finalize().hex
    }
}
