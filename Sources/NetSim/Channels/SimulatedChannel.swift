import ByteStreams
import MeshCore
public import NIOCore
import Synchronization

/// What channels of streams and of datagrams have in common. Confined to the simulation's loop; other threads read only
/// `status` and what does not change once the channel is active.
/// Unchecked, as NIO wants channels to be `Sendable` and the compiler cannot see the loop: `status` lies under a lock, the rest is touched on
/// the loop alone.
public class SimulatedChannel: Channel, ChannelCore, @unchecked Sendable {  // Safe because its loop alone touches it.
    private static let activeBit: UInt8 = 1
    private static let writableBit: UInt8 = 2

    public let allocator = ByteBufferAllocator()
    public final let loop: SimulatedLoop
    // NIO's pipeline and its channel refer to each other; NIO's own channels declare it the same way.
    private var _pipeline: ChannelPipeline! = nil
    private let closePromise: EventLoopPromise<Void>
    private let status = Atomic<UInt8>(2)
    final var settings = ChannelSettings()
    final private(set) var isClosed = false
    final var local: TransportAddress?
    final var remote: TransportAddress?
    /// A `read()` has not been answered.
    final var readIsOpen = false

    init(loop: SimulatedLoop) {
        self.loop = loop
        self.closePromise = loop.makePromise()
        self._pipeline = ChannelPipeline(channel: self)
    }

    public var eventLoop: any EventLoop { self.loop }
    public var parent: (any Channel)? { nil }
    public var pipeline: ChannelPipeline { self._pipeline }
    public var closeFuture: EventLoopFuture<Void> { self.closePromise.futureResult }
    public var localAddress: SocketAddress? { self.local.map { SocketAddress($0) } }
    public var remoteAddress: SocketAddress? { self.remote.map { SocketAddress($0) } }
    public var isActive: Bool { self.status.load(ordering: .relaxed) & Self.activeBit != 0 }
    public var isWritable: Bool { self.status.load(ordering: .relaxed) & Self.writableBit != 0 }
    public var _channelCore: any ChannelCore { self }
    /// Bytes that wait for the socket to take them.
    var bufferedBytes: Int { 0 }

    private func set(_ bit: UInt8, _ value: Bool) {
        // Only the loop writes, so that nothing can come between the load and the store.
        let status = self.status.load(ordering: .relaxed)
        self.status.store(value ? status | bit : status & ~bit, ordering: .relaxed)
    }

    // MARK: Life

    /// The socket is ready. `promise` is for the one who has asked for the channel.
    final func becomeActive(_ promise: EventLoopPromise<any Channel>?) {
        self.pipeline.fireChannelRegistered()
        self.set(Self.activeBit, true)
        promise?.succeed(self)
        guard !self.isClosed else { return }
        self.pipeline.fireChannelActive()
        if self.settings.autoRead, !self.isClosed { self.pipeline.read() }
    }

    final func becomeInactive(error: (any Error)?) {
        guard !self.isClosed else { return }
        let wasActive = self.isActive
        self.isClosed = true
        self.set(Self.activeBit, false)
        self.set(Self.writableBit, false)
        if let error { self.pipeline.fireErrorCaught(error) }
        if wasActive {
            self.pipeline.fireChannelInactive()
            self.pipeline.fireChannelUnregistered()
        }
        // Handlers may still be in the middle of what closed the channel.
        self.loop.execute {
            self.removeHandlers(pipeline: self.pipeline)
            self.closePromise.succeed()
        }
    }

    final func setWritable(_ value: Bool) {
        guard self.isWritable != value, !self.isClosed else { return }
        self.set(Self.writableBit, value)
        self.pipeline.fireChannelWritabilityChanged()
    }

    // MARK: ChannelCore

    public func localAddress0() throws -> SocketAddress {
        guard let address = self.localAddress else { throw ChannelError.operationUnsupported }
        return address
    }

    public func remoteAddress0() throws -> SocketAddress {
        guard let address = self.remoteAddress else { throw ChannelError.operationUnsupported }
        return address
    }

    // Machines bind and connect channels before anyone has them.
    public func register0(promise: EventLoopPromise<Void>?) { promise?.fail(ChannelError.operationUnsupported) }
    public func bind0(to: SocketAddress, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }
    public func connect0(to: SocketAddress, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }
    public func channelRead0(_ data: NIOAny) {}
    public func errorCaught0(error: any Error) {}
    public func triggerUserOutboundEvent0(_ event: Any, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }

    // Subclasses answer these.
    public func write0(_ data: NIOAny, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }
    public func flush0() {}
    public func read0() {}
    public func close0(error: any Error, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }
}
