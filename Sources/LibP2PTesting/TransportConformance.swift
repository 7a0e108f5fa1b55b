public import LibP2P
import MeshCore
public import Multiformats
public import NIOCore
import Synchronization

/// What every transport must do, as checks that a test runs one by one. Those of sockets, of WebSocket and of the simulated
/// network pass the same.
///
/// Transports on virtual time give `wait` a way to let time pass; others leave it to the futures.
public struct TransportConformance: Sendable {
    public enum Check: String, CaseIterable, Sendable {
        case tellsWhatItDials
        case listensOnAPortOfTheSystem
        case addressesMatch
        case carriesBytesBothWays
        case listenerMaySpeakFirst
        case largeTransfersArriveWhole
        case theEndIsSeen
        case refusedDialsFail
        case aClosedListenerRefuses
        case manyConnectionsAtOnce
    }

    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// Waits for a future; where time is virtual, lets it pass until the future is there.
    public protocol Waiter: Sendable {
        func wait<Value: Sendable>(for future: EventLoopFuture<Value>) async throws -> Value
    }

    public struct RealTime: Waiter {
        public init() {}

        public func wait<Value: Sendable>(for future: EventLoopFuture<Value>) async throws -> Value {
            try await future.get()
        }
    }

    private let dialer: any Transport
    private let listener: any Transport
    private let listenAddress: Multiaddr
    private let foreignAddress: Multiaddr
    private let group: any EventLoopGroup
    private let waiter: any Waiter

    /// - Parameters:
    ///   - listenAddress: where to listen, with port 0.
    ///   - foreignAddress: one that the transport neither dials nor listens on.
    public init(
        dialer: any Transport,
        listener: any Transport,
        listenAddress: Multiaddr,
        foreignAddress: Multiaddr,
        group: any EventLoopGroup,
        waiter: any Waiter = RealTime()
    ) {
        self.dialer = dialer
        self.listener = listener
        self.listenAddress = listenAddress
        self.foreignAddress = foreignAddress
        self.group = group
        self.waiter = waiter
    }

    /// Throws what is wrong.
    public func run(_ check: Check) async throws {
        switch check {
        case .tellsWhatItDials: try self.tellsWhatItDials()
        case .listensOnAPortOfTheSystem: try await self.listensOnAPortOfTheSystem()
        case .addressesMatch: try await self.addressesMatch()
        case .carriesBytesBothWays: try await self.carriesBytesBothWays()
        case .listenerMaySpeakFirst: try await self.listenerMaySpeakFirst()
        case .largeTransfersArriveWhole: try await self.largeTransfersArriveWhole()
        case .theEndIsSeen: try await self.theEndIsSeen()
        case .refusedDialsFail: try await self.refusedDialsFail()
        case .aClosedListenerRefuses: try await self.aClosedListenerRefuses()
        case .manyConnectionsAtOnce: try await self.manyConnectionsAtOnce()
        }
    }

    // MARK: Checks

    private func tellsWhatItDials() throws {
        try self.expect(self.listener.canListen(on: self.listenAddress), "it listens on \(self.listenAddress)")
        try self.expect(!self.listener.canListen(on: self.foreignAddress), "it does not listen elsewhere")
        try self.expect(!self.dialer.canDial(self.foreignAddress), "it does not dial elsewhere")
    }

    private func listensOnAPortOfTheSystem() async throws {
        let (first, _) = try await self.listen { _ in }
        let (second, _) = try await self.listen { _ in }
        try self.expect(first.address.port != 0 && second.address.port != 0, "the port is told")
        try self.expect(first.address != second.address, "two listeners have two addresses")
        try self.expect(self.dialer.canDial(first.address), "what it listens on can be dialled")
        try await self.waiter.wait(for: first.close())
        try await self.waiter.wait(for: second.close())
    }

    private func addressesMatch() async throws {
        let (listener, accepted) = try await self.listen { _ in }
        let raw = try await self.dial(listener.address)
        let peer = try await self.accepted(raw, of: accepted)
        try self.expect(raw.remoteAddress == listener.address, "\(raw.remoteAddress) is not \(listener.address)")
        try self.expect(peer.localAddress == listener.address, "\(peer.localAddress) is not \(listener.address)")
        try self.expect(peer.remoteAddress == raw.localAddress, "\(peer.remoteAddress) is not \(raw.localAddress)")
        try await self.end(listener, [raw])
    }

    private func carriesBytesBothWays() async throws {
        let (listener, _) = try await self.listen { try $0.pipeline.syncOperations.addHandler(Echo()) }
        let raw = try await self.dial(listener.address, collecting: 5)
        raw.raw.channel.writeAndFlush(ByteBuffer(string: "hello"), promise: nil)
        let answer = try await self.waiter.wait(for: raw.collected)
        try self.expect(String(buffer: answer) == "hello", "the answer is \(String(buffer: answer))")
        try await self.end(listener, [raw.raw])
    }

    private func listenerMaySpeakFirst() async throws {
        let (listener, _) = try await self.listen { try $0.pipeline.syncOperations.addHandler(Greeter()) }
        let raw = try await self.dial(listener.address, collecting: 7)
        let greeting = try await self.waiter.wait(for: raw.collected)
        try self.expect(String(buffer: greeting) == "welcome", "the greeting is \(String(buffer: greeting))")
        try await self.end(listener, [raw.raw])
    }

    private func largeTransfersArriveWhole() async throws {
        let (listener, _) = try await self.listen { try $0.pipeline.syncOperations.addHandler(Echo()) }
        var bytes = ByteBuffer()
        for index in 0..<(3 << 15) { bytes.writeInteger(UInt64(index)) }
        let raw = try await self.dial(listener.address, collecting: bytes.readableBytes)
        raw.raw.channel.writeAndFlush(bytes, promise: nil)
        let answer = try await self.waiter.wait(for: raw.collected)
        try self.expect(answer == bytes, "\(answer.readableBytes) bytes have come back, not as they were sent")
        try await self.end(listener, [raw.raw])
    }

    private func theEndIsSeen() async throws {
        let (listener, accepted) = try await self.listen { _ in }
        let raw = try await self.dial(listener.address)
        let peer = try await self.accepted(raw, of: accepted)
        raw.channel.close(promise: nil)
        try await self.waiter.wait(for: peer.channel.closeFuture)
        try await self.waiter.wait(for: listener.close())
    }

    private func refusedDialsFail() async throws {
        let (listener, _) = try await self.listen { _ in }
        let address = listener.address
        try await self.waiter.wait(for: listener.close())
        do {
            let raw = try await self.dial(address)
            raw.channel.close(promise: nil)
        } catch {
            return
        }
        throw Failure(description: "a dial to nobody has succeeded")
    }

    private func aClosedListenerRefuses() async throws {
        let (listener, _) = try await self.listen { try $0.pipeline.syncOperations.addHandler(Echo()) }
        let open = try await self.dial(listener.address, collecting: 1)
        // One that is not past the listener yet ends with it; one that has answered is.
        open.raw.channel.writeAndFlush(ByteBuffer(string: "h"), promise: nil)
        let first = try await self.waiter.wait(for: open.collected)
        try self.expect(String(buffer: first) == "h", "the connection answers")
        try await self.waiter.wait(for: listener.close())
        do {
            let raw = try await self.dial(listener.address)
            raw.channel.close(promise: nil)
            throw Failure(description: "a closed listener accepts")
        } catch let failure as Failure {
            throw failure
        } catch {
            // As it should be. What was accepted before goes on.
            let answer = try await self.waiter.wait(for: self.exchange("ello", on: open.raw.channel))
            try self.expect(String(buffer: answer) == "ello", "an accepted connection outlives its listener")
            open.raw.channel.close(promise: nil)
        }
    }

    /// Sends a text, and collects as many bytes.
    private func exchange(_ text: String, on channel: any Channel) -> EventLoopFuture<ByteBuffer> {
        channel.eventLoop.flatSubmit {
            let promise = channel.eventLoop.makePromise(of: ByteBuffer.self)
            do {
                let collector = Collector(count: text.utf8.count, promise: promise)
                try channel.pipeline.syncOperations.addHandler(collector)
                channel.writeAndFlush(ByteBuffer(string: text), promise: nil)
            } catch {
                promise.fail(error)
            }
            return promise.futureResult
        }
    }

    private func manyConnectionsAtOnce() async throws {
        let (listener, _) = try await self.listen { try $0.pipeline.syncOperations.addHandler(Echo()) }
        var dials: [EventLoopFuture<Dialled>] = []
        for _ in 0..<50 { dials.append(self.dialFuture(listener.address, collecting: 5)) }
        var open: [Dialled] = []
        for dial in dials { open.append(try await self.waiter.wait(for: dial)) }
        for one in open { one.raw.channel.writeAndFlush(ByteBuffer(string: "hello"), promise: nil) }
        for one in open { _ = try await self.waiter.wait(for: one.collected) }
        try await self.end(listener, open.map(\.raw))
    }

    // MARK: Parts

    private struct Dialled: Sendable {
        let raw: RawConnection
        let collected: EventLoopFuture<ByteBuffer>
    }

    private struct Listener: TransportListener {
        private let listener: any TransportListener
        private let onClose: @Sendable () -> Void

        init(_ listener: any TransportListener, onClose: @escaping @Sendable () -> Void) {
            self.listener = listener
            self.onClose = onClose
        }

        var address: Multiaddr { self.listener.address }

        func close() -> EventLoopFuture<Void> {
            self.listener.close().always { _ in self.onClose() }
        }
    }

    /// What a listener has accepted. Strangers may be among it: ports that other tests of the process have let go are dialled
    /// to be refused.
    private final class Accepted: Sendable {
        private struct State {
            var connections: [Multiaddr: RawConnection] = [:]
            var waiting: [Multiaddr: EventLoopPromise<RawConnection>] = [:]
            var isClosed = false
        }

        private let state = Mutex(State())

        func add(_ connection: RawConnection) {
            self.state.withLock { state in
                state.connections[connection.remoteAddress] = connection
                return state.waiting.removeValue(forKey: connection.remoteAddress)
            }?.succeed(connection)
        }

        /// The connection that was dialled from an address, once it is accepted.
        func connection(from address: Multiaddr, on loop: any EventLoop) -> EventLoopFuture<RawConnection> {
            let promise = loop.makePromise(of: RawConnection.self)
            let result = self.state.withLock { state -> Result<RawConnection, any Error>? in
                if let connection = state.connections[address] { return .success(connection) }
                if state.isClosed { return .failure(Failure(description: "the listener was closed")) }
                state.waiting[address] = promise
                return nil
            }
            if let result { promise.completeWith(result) }
            loop.scheduleTask(in: .seconds(30)) {
                self.state.withLock { $0.waiting.removeValue(forKey: address) }?
                    .fail(Failure(description: "nobody was accepted from \(address)"))
            }
            return promise.futureResult
        }

        /// Nobody waits any more for a connection that never came.
        func close() {
            let waiting = self.state.withLock { state in
                defer { state.waiting = [:] }
                state.isClosed = true
                return state.waiting.values.map { $0 }
            }
            for promise in waiting { promise.fail(Failure(description: "the listener was closed")) }
        }
    }

    private func listen(
        _ handle: @escaping @Sendable (any Channel) throws -> Void
    ) async throws -> (any TransportListener, Accepted) {
        let accepted = Accepted()
        let listening = self.listener.listen(on: self.listenAddress, group: self.group) { raw in
            do {
                try handle(raw.channel)
                try raw.channel.syncOptions?.setOption(.autoRead, value: true)
                accepted.add(raw)
            } catch {
                raw.channel.close(promise: nil)
            }
        }
        return (Listener(try await self.waiter.wait(for: listening), onClose: accepted.close), accepted)
    }

    private func accepted(_ dialled: RawConnection, of accepted: Accepted) async throws -> RawConnection {
        try await self.waiter.wait(for: accepted.connection(from: dialled.localAddress, on: dialled.channel.eventLoop))
    }

    private func dialFuture(_ address: Multiaddr, collecting count: Int) -> EventLoopFuture<Dialled> {
        let loop = self.group.next()
        return loop.flatSubmit {
            self.dialer.dial(address, on: loop, options: TransportDialOptions(deadline: loop.now + .seconds(60)))
                .flatMapThrowing { raw in
                    let promise = loop.makePromise(of: ByteBuffer.self)
                    try raw.channel.pipeline.syncOperations.addHandler(Collector(count: count, promise: promise))
                    try raw.channel.syncOptions?.setOption(.autoRead, value: true)
                    return Dialled(raw: raw, collected: promise.futureResult)
                }
        }
    }

    private func dial(_ address: Multiaddr, collecting count: Int) async throws -> Dialled {
        try await self.waiter.wait(for: self.dialFuture(address, collecting: count))
    }

    private func dial(_ address: Multiaddr) async throws -> RawConnection {
        try await self.dial(address, collecting: 0).raw
    }

    private func end(_ listener: any TransportListener, _ connections: [RawConnection]) async throws {
        for connection in connections { connection.channel.close(promise: nil) }
        for connection in connections { try await self.waiter.wait(for: connection.channel.closeFuture) }
        try await self.waiter.wait(for: listener.close())
    }

    private func expect(_ holds: Bool, _ what: @autoclosure () -> String) throws {
        guard holds else { throw Failure(description: what()) }
    }
}
