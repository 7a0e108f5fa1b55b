import CLinux
import Glibc
public import NIOCore
import NIOPosix
import Synchronization

/// Carries bytes between pairs of TCP sockets inside the kernel, without copying them (splice(2)).
///
/// It does so on a thread of its own, which begins with the first pair. Ends, errors and slow readers go through as with
/// `GlueHandler`. How many pairs there may be is the caller's bound: each has six descriptors and up to
/// `2 * SplicedPair.pipeBytes` of kernel memory.
public final class SocketSplicer: Sendable {
    /// How a pair has ended.
    public enum Ending: Sendable, Hashable {
        /// Both sides have ended and all is delivered.
        case finished
        /// A side failed, or `reset` was called: both peers see a reset.
        case reset
        /// A peer took nothing of what was left for it for the linger timeout. Both see a reset.
        case lingered
        /// No byte came for the idle timeout.
        case idle
    }

    private struct Thread {
        var epoll: CInt
        var wakeup: CInt
        var threads: NIOThreadPool
    }

    private struct State {
        var thread: Thread?
        var isStopped = false
        var lastID: UInt64 = 0
        /// Bounded by the pairs that there may be: two for each.
        var commands: [SpliceLoop.Command] = []
        var onStop: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())
    private let bytesToServer = Atomic<UInt64>(0)
    private let bytesToClient = Atomic<UInt64>(0)

    public init() {}

    /// Bytes carried so far.
    public var clientToServerBytes: UInt64 { self.bytesToServer.load(ordering: .relaxed) }
    public var serverToClientBytes: UInt64 { self.bytesToClient.load(ordering: .relaxed) }

    /// Gets ready to carry two sockets, which stay the caller's: close them, then call `carry`. Nil if they are no TCP sockets,
    /// descriptors or memory are short, or `stop` was called. Any thread.
    /// - Parameters:
    ///   - idleTimeout: both sides are closed after this long without a byte in either direction.
    ///   - lingerTimeout: how long a side may take nothing of what is left for it when the other has ended; nil for ever.
    public func prepare(
        client: NIOBSDSocket.Handle,
        server: NIOBSDSocket.Handle,
        idleTimeout: TimeAmount?,
        lingerTimeout: TimeAmount?
    ) -> SplicedPair? {
        self.state.withLock { state in
            guard !state.isStopped, let thread = state.thread ?? self.start() else { return nil }
            state.thread = thread
            state.lastID += 1
            return SplicedPair.make(
                client: client,
                server: server,
                id: state.lastID,
                epoll: thread.epoll,
                idleTimeout: idleTimeout,
                lingerTimeout: lingerTimeout
            )
        }
    }

    /// Carries a pair until it ends. Nobody reads or writes its sockets any more. Any thread.
    /// - Parameter onEnd: called once, on the splicer's thread.
    /// - Returns: what `reset` takes.
    @discardableResult
    public func carry(_ pair: SplicedPair, onEnd: @escaping @Sendable (Ending) -> Void) -> UInt64 {
        pair.onEnd = onEnd
        let id = pair.id
        if !self.post(.carry(pair)) {
            pair.close(withReset: true)
            onEnd(.reset)
        }
        return id
    }

    /// Ends a pair, if it has not ended, so that both peers see a reset. Any thread.
    public func reset(_ id: UInt64) {
        _ = self.post(.reset(id))
    }

    /// Resets all pairs and ends the thread; `done` is called after that, on any thread.
    public func stop(_ done: @escaping @Sendable () -> Void) {
        let isIdle = self.state.withLock { state in
            state.isStopped = true
            guard let thread = state.thread, state.onStop == nil else { return true }
            state.onStop = done
            clinux_wake(thread.wakeup)
            return false
        }
        if isIdle { done() }
    }

    private func post(_ command: SpliceLoop.Command) -> Bool {
        self.state.withLock { state in
            guard !state.isStopped, let thread = state.thread else { return false }
            state.commands.append(command)
            clinux_wake(thread.wakeup)
            return true
        }
    }

    private func start() -> Thread? {
        let epoll = clinux_epoll_create()
        let wakeup = clinux_wakeup_create()
        guard epoll >= 0, wakeup >= 0, clinux_epoll_add(epoll, wakeup, SpliceLoop.wakeupKey) == 0 else {
            for descriptor in [epoll, wakeup] where descriptor >= 0 { close(descriptor) }
            return nil
        }
        let threads = NIOThreadPool(numberOfThreads: 1)
        threads.start()
        threads.submit { _ in self.run(epoll: epoll, wakeup: wakeup) }
        return Thread(epoll: epoll, wakeup: wakeup, threads: threads)
    }

    private func run(epoll: CInt, wakeup: CInt) {
        var loop = SpliceLoop(epoll: epoll, wakeup: wakeup)
        // A socket that its peer has reset tells so by an error, and by a signal that would end the process.
        var pipeSignal = sigset_t()
        sigemptyset(&pipeSignal)
        sigaddset(&pipeSignal, SIGPIPE)
        pthread_sigmask(SIG_BLOCK, &pipeSignal, nil)
        var isStopped = false
        while !isStopped {
            var commands: [SpliceLoop.Command] = []
            self.state.withLock { state in
                swap(&commands, &state.commands)
                isStopped = state.isStopped
            }
            loop.obey(commands)
            if isStopped { loop.resetAll() } else { loop.turn() }
            let moved = loop.takeMoved()
            self.bytesToServer.wrappingAdd(moved.toServer, ordering: .relaxed)
            self.bytesToClient.wrappingAdd(moved.toClient, ordering: .relaxed)
        }
        let (thread, onStop) = self.state.withLock { state in
            defer { state.thread = nil }
            return (state.thread, state.onStop)
        }
        guard let thread else { return }
        close(thread.epoll)
        close(thread.wakeup)
        thread.threads.shutdownGracefully { _ in onStop?() }
    }
}
