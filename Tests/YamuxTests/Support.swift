import NIOCore
import NIOEmbedded
import Testing

@testable import Yamux

/// What a stream's handlers saw.
final class StreamRecorder: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    var channel: (any Channel)?
    var received: [UInt8] = []
    var reads: [Int] = []
    var readCompletes = 0
    var inputClosed = 0
    var outputClosed = 0
    var active = 0
    var inactive = 0
    var writabilityChanges = 0
    var errors: [any Error] = []
    /// Called with each read.
    var onRead: ((ChannelHandlerContext, ByteBuffer) -> Void)?
    var onInputClosed: ((any Channel) -> Void)?

    var errorCode: YamuxError.Code? { (self.errors.first as? YamuxError)?.code }

    func handlerAdded(context: ChannelHandlerContext) { self.channel = context.channel }
    func channelActive(context: ChannelHandlerContext) { self.active += 1 }
    func channelInactive(context: ChannelHandlerContext) { self.inactive += 1 }
    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.received += bytes.readableBytesView
        self.reads.append(bytes.readableBytes)
        self.onRead?(context, bytes)
    }
    func channelReadComplete(context: ChannelHandlerContext) { self.readCompletes += 1 }
    func channelWritabilityChanged(context: ChannelHandlerContext) { self.writabilityChanges += 1 }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.errors.append(error) }
    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event as? ChannelEvent {
        case .inputClosed:
            self.inputClosed += 1
            if let channel = self.channel { self.onInputClosed?(channel) }
        case .outputClosed: self.outputClosed += 1
        default: break
        }
    }

    func write(_ bytes: [UInt8], promise: EventLoopPromise<Void>? = nil) {
        self.channel?.writeAndFlush(ByteBuffer(bytes: bytes), promise: promise)
    }
}

/// One session on an embedded channel, and the streams that its peer opened.
final class Side {
    let channel: EmbeddedChannel
    private(set) var handler: YamuxHandler
    let inbound: Box<[StreamRecorder]>
    let closed: Box<[YamuxError?]>
    let events: Box<[String]>

    final class Box<Value> {
        var value: Value
        init(_ value: Value) { self.value = value }
    }

    init(
        _ role: YamuxRole,
        loop: EmbeddedEventLoop,
        configuration: YamuxConfiguration = .init(),
        setUp: @escaping (StreamRecorder, any Channel) -> Void = { _, _ in },
        isTrusted: Bool = false,
        initializer: YamuxHandler.StreamInitializer? = nil,
        insteadOfRecorder: YamuxHandler.StreamInitializer? = nil
    ) throws {
        let inbound = Box<[StreamRecorder]>([])
        let closed = Box<[YamuxError?]>([])
        let events = Box<[String]>([])
        var observer = YamuxEvents()
        observer.sessionClosed = { closed.value.append($0) }
        observer.streamOpened = { events.value.append($0 ? "opened inbound" : "opened outbound") }
        observer.streamClosed = { events.value.append($0 ? "closed inbound" : "closed outbound") }
        observer.isTrusted = { isTrusted }
        observer.goAwayReceived = { events.value.append("goAway \($0.rawValue)") }
        self.inbound = inbound
        self.closed = closed
        self.events = events
        self.handler = YamuxHandler(role: role, configuration: configuration, events: observer) { channel in
            if let insteadOfRecorder { return insteadOfRecorder(channel) }
            let recorder = StreamRecorder()
            inbound.value.append(recorder)
            return channel.eventLoop.makeCompletedFuture {
                try channel.syncOptions?.setOption(.allowRemoteHalfClosure, value: true)
                setUp(recorder, channel)
                try channel.pipeline.syncOperations.addHandler(recorder)
            }.assumeIsolated().flatMap { initializer?(channel) ?? channel.eventLoop.makeSucceededVoidFuture() }
                .nonisolated()
        }
        self.channel = EmbeddedChannel(loop: loop)
        try self.channel.pipeline.syncOperations.addHandler(self.handler)
        try self.channel.connect(to: SocketAddress(ipAddress: "192.0.2.1", port: 1)).wait()
    }

    /// Opens a stream with a recorder in it.
    func open(
        halfClosure: Bool = true,
        setUp: @escaping (StreamRecorder, any Channel) -> Void = { _, _ in }
    ) throws -> StreamRecorder {
        let recorder = StreamRecorder()
        let opened = self.handler.openStream { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.syncOptions?.setOption(.allowRemoteHalfClosure, value: halfClosure)
                setUp(recorder, channel)
                try channel.pipeline.syncOperations.addHandler(recorder)
            }
        }
        _ = try opened.wait()
        return recorder
    }

    /// What the session has sent since, as bytes.
    func takeOutput() throws -> ByteBuffer {
        var all = ByteBuffer()
        while var next = try self.channel.readOutbound(as: ByteBuffer.self) { all.writeBuffer(&next) }
        return all
    }

    /// What the session has sent since, as frames.
    func takeFrames() throws -> [Frame] {
        var bytes = try self.takeOutput()
        return try Frame.parse(&bytes)
    }

    var isEmpty: Bool {
        self.handler.openStreams == 0 && self.handler.unreadBytes == 0 && self.handler.unsentBytes == 0
            && self.handler.ring.isEmpty && self.handler.dirty.isEmpty && self.handler.opening.isEmpty
            && self.handler.unacknowledged == 0 && self.handler.machine.pendingAccepts == 0
            && self.handler.machine.inbound == 0 && self.handler.machine.outbound == 0
            && self.handler.windowGrowth == 0 && self.handler.resets.isEmpty
    }
}

struct Frame: Equatable {
    var header: YamuxFrameHeader
    var payload: [UInt8] = []

    static func data(_ id: UInt32, _ payload: [UInt8], _ flags: YamuxFrameHeader.Flags = []) -> Frame {
        Frame(
            header: YamuxFrameHeader(.data, flags, streamID: id, length: UInt32(payload.count)),
            payload: payload
        )
    }

    static func update(_ id: UInt32, _ flags: YamuxFrameHeader.Flags = [], _ delta: UInt32 = 0) -> Frame {
        Frame(header: YamuxFrameHeader(.windowUpdate, flags, streamID: id, length: delta))
    }

    static func ping(_ value: UInt32, _ flags: YamuxFrameHeader.Flags) -> Frame {
        Frame(header: YamuxFrameHeader(.ping, flags, length: value))
    }

    static func goAway(_ code: UInt32) -> Frame { Frame(header: YamuxFrameHeader(.goAway, length: code)) }

    var bytes: ByteBuffer {
        var buffer = ByteBuffer()
        self.header.write(to: &buffer)
        buffer.writeBytes(self.payload)
        return buffer
    }

    static func parse(_ bytes: inout ByteBuffer) throws -> [Frame] {
        var frames: [Frame] = []
        while let header = try YamuxFrameHeader(reading: &bytes) {
            let payload = header.kind == .data ? bytes.readBytes(length: Int(header.length)) ?? [] : []
            frames.append(Frame(header: header, payload: payload))
        }
        return frames
    }
}

/// Two sessions of one virtual clock, with nothing between them but this.
final class Pair {
    let loop: EmbeddedEventLoop
    let client: Side
    let server: Side

    /// - Parameter inboundStream: sets up the streams that the server is opened, in place of a recorder.
    init(
        loop: EmbeddedEventLoop = EmbeddedEventLoop(),
        client clientConfiguration: YamuxConfiguration = .init(),
        server serverConfiguration: YamuxConfiguration = .init(),
        setUp: @escaping (StreamRecorder, any Channel) -> Void = { _, _ in },
        inboundStream: YamuxHandler.StreamInitializer? = nil
    ) throws {
        self.loop = loop
        self.client = try Side(.client, loop: loop, configuration: clientConfiguration, setUp: setUp)
        self.server = try Side(
            .server,
            loop: loop,
            configuration: serverConfiguration,
            setUp: setUp,
            insteadOfRecorder: inboundStream
        )
    }

    /// Lets both sides work until neither has anything to say.
    func settle() throws {
        while try self.exchange() {}
    }

    /// Lets both sides work once, and each hear what the other says.
    /// - Returns: whether either had anything to say.
    func exchange() throws -> Bool {
        self.loop.advanceTime(by: .microseconds(20))
        let toServer = try self.client.takeOutput()
        let toClient = try self.server.takeOutput()
        try self.deliver(toServer, to: self.server)
        try self.deliver(toClient, to: self.client)
        return toServer.readableBytes > 0 || toClient.readableBytes > 0
    }

    func deliver(_ bytes: ByteBuffer, to side: Side) throws {
        guard bytes.readableBytes > 0, side.channel.isActive else { return }
        try side.channel.writeInbound(bytes)
    }

    func finish() throws {
        self.client.handler.close()
        self.server.handler.close()
        self.loop.run()
    }
}

/// A session whose peer is the test, frame by frame.
final class RawPeer {
    let loop = EmbeddedEventLoop()
    let side: Side

    init(
        _ role: YamuxRole = .server,
        configuration: YamuxConfiguration = .init(),
        setUp: @escaping (StreamRecorder, any Channel) -> Void = { _, _ in },
        isTrusted: Bool = false,
        initializer: YamuxHandler.StreamInitializer? = nil
    ) throws {
        self.side = try Side(
            role,
            loop: self.loop,
            configuration: configuration,
            setUp: setUp,
            isTrusted: isTrusted,
            initializer: initializer
        )
        self.loop.run()
        // The first ping.
        _ = try self.side.takeFrames()
    }

    /// Sends frames and returns what comes back.
    @discardableResult
    func send(_ frames: Frame...) throws -> [Frame] {
        var bytes = ByteBuffer()
        for frame in frames { bytes.writeImmutableBuffer(frame.bytes) }
        return try self.send(bytes)
    }

    @discardableResult
    func send(_ bytes: ByteBuffer) throws -> [Frame] {
        if self.side.channel.isActive { try self.side.channel.writeInbound(bytes) }
        self.loop.run()
        return try self.side.takeFrames()
    }

    /// The error that ended the session.
    var failure: YamuxError.Code? { self.side.closed.value.first.flatMap { $0?.code } }
}

/// Reads only when told to.
func withoutAutoRead(_ recorder: StreamRecorder, _ channel: any Channel) {
    #expect(throws: Never.self) { try channel.syncOptions?.setOption(.autoRead, value: false) }
}
