public import Logging
public import NIOCore
import NIOPosix
import Synchronization

/// Tells when devices, addresses or routes of this machine have changed, a moment after the last of several changes.
///
/// The kernel's own events (rtnetlink); where they cannot be had, a look every few seconds.
public final class NetworkMonitor: Sendable {
    private struct State {
        var channel: (any Channel)?
        var poll: RepeatedTask?
        var pending: Scheduled<Void>?
        var isStopped = false
    }

    private static let settling = TimeAmount.milliseconds(200)
    private static let pollInterval = TimeAmount.seconds(2)

    private let loop: any EventLoop
    private let logger: Logger
    private let changed: @Sendable () -> Void
    private let state = Mutex(State())

    /// - Parameter changed: called on `loop`.
    public init(on loop: any EventLoop, logger: Logger, changed: @escaping @Sendable () -> Void) {
        self.loop = loop
        self.logger = logger
        self.changed = changed
    }

    /// Any thread.
    public func start() {
        do {
            let descriptor = try RouteNetlink.changesDescriptor()
            NIOPipeBootstrap(group: self.loop)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(ChangeHandler { [weak self] in self?.note() })
                    }
                }
                .takingOwnershipOfDescriptor(input: descriptor)
                .whenComplete { result in
                    switch result {
                    case .success(let channel): self.opened(channel)
                    case .failure(let error): self.poll(because: error)
                    }
                }
        } catch {
            self.poll(because: error)
        }
    }

    /// For good. Any thread.
    public func stop() {
        let state = self.state.withLock { state in
            state.isStopped = true
            defer { (state.channel, state.poll, state.pending) = (nil, nil, nil) }
            return state
        }
        state.channel?.close(promise: nil)
        state.poll?.cancel()
        state.pending?.cancel()
    }

    private func opened(_ channel: any Channel) {
        let isStopped = self.state.withLock { state in
            state.channel = channel
            return state.isStopped
        }
        if isStopped { return channel.close(promise: nil) }
        channel.closeFuture.whenComplete { [weak self] _ in
            guard let self, self.state.withLock({ !$0.isStopped }) else { return }
            // The kernel had more to tell than the socket could hold, which is news as well.
            self.note()
            self.loop.scheduleTask(in: .seconds(1)) { [weak self] in self?.start() }
        }
    }

    private func poll(because error: any Error) {
        self.logger.notice("no events of the network; it is looked at instead", metadata: ["error": "\(error)"])
        let task = self.loop.scheduleRepeatedTask(initialDelay: Self.pollInterval, delay: Self.pollInterval) {
            [weak self] _ in self?.changed()
        }
        let isStopped = self.state.withLock { state in
            state.poll = task
            return state.isStopped
        }
        if isStopped { task.cancel() }
    }

    private func note() {
        let timer = self.loop.scheduleTask(in: Self.settling) { [weak self] () -> Void in
            guard let self else { return }
            self.state.withLock { $0.pending = nil }
            self.changed()
        }
        let before = self.state.withLock { state -> Scheduled<Void>? in
            guard !state.isStopped, state.pending == nil else { return timer }
            state.pending = timer
            return nil
        }
        before?.cancel()
    }
}

private final class ChangeHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let noted: () -> Void

    init(_ noted: @escaping () -> Void) {
        self.noted = noted
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { self.noted() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
