public import MeshCore
public import NIOCore

extension Machine {
    /// Opens a TCP connection. The future completes, on the simulation's loop, before the channel is told that it is active, so
    /// that its callbacks can add handlers.
    ///
    /// - Parameters:
    ///   - local: where to connect from; an unspecified address or port is chosen.
    ///   - reuse: SO_REUSEADDR and SO_REUSEPORT.
    ///   - deadline: when to give up; TCP itself gives up after some two minutes.
    /// - Returns: fails with `IOError` as connect(2) does, or with `ChannelError.connectTimeout`.
    public func connect(
        to remote: TransportAddress,
        from local: TransportAddress? = nil,
        reuse: Bool = false,
        deadline: NIODeadline = .distantFuture
    ) -> EventLoopFuture<any Channel> {
        let loop = self.simulation.loop
        guard loop.inEventLoop else {
            return loop.flatSubmit { self.connect(to: remote, from: local, reuse: reuse, deadline: deadline) }
        }
        let promise = loop.makePromise(of: (any Channel).self)
        do {
            let socket = try self.tcp.connect(to: remote, from: local, reuse: reuse)
            SimulatedStreamChannel(socket, loop: loop, connected: promise).connect(until: deadline)
        } catch {
            promise.fail(error)
        }
        return promise.futureResult
    }

    /// Listens for TCP connections. `accept` is called on the simulation's loop with each one, before it is active.
    public func listen(
        on address: TransportAddress,
        reuse: Bool = false,
        accept: @escaping @Sendable (any Channel) -> Void
    ) -> EventLoopFuture<SimulatedListener> {
        let loop = self.simulation.loop
        guard loop.inEventLoop else {
            return loop.flatSubmit { self.listen(on: address, reuse: reuse, accept: accept) }
        }
        return loop.makeCompletedFuture {
            let listener = try self.tcp.listen(on: address, reuse: reuse) { socket in
                let channel = SimulatedStreamChannel(socket, loop: loop, connected: nil)
                accept(channel)
                if !channel.isClosed { channel.becomeActive(nil) }
            }
            return SimulatedListener(listener, loop: loop)
        }
    }

    /// Binds a UDP socket. `initializer` adds its handlers.
    public func bindDatagrams(
        to address: TransportAddress,
        reuse: Bool = false,
        initializer: @escaping @Sendable (any Channel) throws -> Void
    ) -> EventLoopFuture<any Channel> {
        let loop = self.simulation.loop
        guard loop.inEventLoop else {
            return loop.flatSubmit { self.bindDatagrams(to: address, reuse: reuse, initializer: initializer) }
        }
        return loop.makeCompletedFuture {
            let channel = try self.udp.bind(address, reuse: reuse)
            do { try initializer(channel) } catch {
                channel.close(promise: nil)
                throw error
            }
            channel.becomeActive(nil)
            return channel
        }
    }
}

/// A listening TCP socket.
/// Unchecked, as the compiler cannot see it: the simulation's one thread alone touches what can change, see `Simulation`.
public final class SimulatedListener: @unchecked Sendable {  // Safe because its loop alone touches it.
    private let listener: TCPListener
    private let loop: SimulatedLoop
    /// With the port that was chosen.
    public let address: TransportAddress

    init(_ listener: TCPListener, loop: SimulatedLoop) {
        self.listener = listener
        self.loop = loop
        self.address = listener.address
    }

    /// Stops accepting; accepted connections stay.
    public func close() -> EventLoopFuture<Void> {
        if self.loop.inEventLoop {
            self.listener.close()
            return self.loop.makeSucceededVoidFuture()
        }
        return self.loop.submit { self.listener.close() }
    }
}
