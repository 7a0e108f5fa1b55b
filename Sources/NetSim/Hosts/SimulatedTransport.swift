import Glibc
public import LibP2P
import MeshCore
public import Multiformats
public import NIOCore
import Synchronization

/// TCP of a simulated machine: `/ip4/203.0.113.1/tcp/4001`. Its ports can be reused for dials, as those of the real transport.
public final class SimulatedTransport: Transport {
    private let machine: Machine
    /// Where it listens, for dials that reuse a port.
    private let listening = Mutex<[TransportAddress]>([])

    public init(_ machine: Machine) {
        self.machine = machine
    }

    public func canDial(_ address: Multiaddr) -> Bool { Self.endpoint(of: address) != nil }
    public func canListen(on address: Multiaddr) -> Bool { self.canDial(address) }

    public func dial(
        _ address: Multiaddr,
        on loop: any EventLoop,
        options: TransportDialOptions
    ) -> EventLoopFuture<RawConnection> {
        guard let target = Self.endpoint(of: address) else { return loop.makeFailedFuture(Self.unsupported(address)) }
        guard options.deadline > loop.now else { return loop.makeFailedFuture(Self.late(target)) }
        let reused = options.localPort ?? (options.reusePort ? self.reusablePort(for: target) : nil)
        let dial = { @Sendable (port: UInt16?) -> EventLoopFuture<any Channel> in
            let any: IPAddress = target.address.family == .v4 ? .v4(.any) : .v6(.any)
            return self.machine.connect(
                to: target,
                from: port.map { TransportAddress(any, $0) },
                reuse: port != nil,
                deadline: options.deadline
            )
        }
        return dial(reused).flatMapError { error in
            // As with real sockets: that port has this connection already, or still lingers on it.
            let code = (error as? IOError)?.errnoCode
            guard reused != nil, options.localPort == nil, code == EADDRNOTAVAIL || code == EADDRINUSE else {
                return loop.makeFailedFuture(error)
            }
            return dial(nil)
        }.flatMapThrowing { channel in
            try RawConnection(channel)
        }.flatMapErrorThrowing { error in
            if case .connectTimeout? = error as? ChannelError { throw Self.late(target) }
            throw error
        }
    }

    public func listen(
        on address: Multiaddr,
        group: any EventLoopGroup,
        accept: @escaping @Sendable (RawConnection) -> Void
    ) -> EventLoopFuture<any TransportListener> {
        guard let endpoint = Self.endpoint(of: address) else {
            return group.next().makeFailedFuture(Self.unsupported(address))
        }
        let listening = self.machine.listen(on: endpoint, reuse: true) { channel in
            do { accept(try RawConnection(channel)) } catch { channel.close(promise: nil) }
        }
        return listening.map { listener in
            self.listening.withLock { $0.append(listener.address) }
            return Listener(listener: listener, address: Multiaddr(listener.address)) {
                self.listening.withLock { listening in
                    if let index = listening.firstIndex(of: listener.address) { listening.remove(at: index) }
                }
            }
        }
    }

    private struct Listener: TransportListener {
        let listener: SimulatedListener
        let address: Multiaddr
        let onClose: @Sendable () -> Void

        func close() -> EventLoopFuture<Void> {
            self.listener.close().always { _ in self.onClose() }
        }
    }

    private func reusablePort(for target: TransportAddress) -> UInt16? {
        let isLoopback = target.address.isLoopback
        return self.listening.withLock { listening in
            listening.first { listener in
                guard listener.address.family == target.address.family else { return false }
                guard !isLoopback || listener.port != target.port else { return false }
                return listener.address.isUnspecified || listener.address.isLoopback == isLoopback
            }?.port
        }
    }

    private static func endpoint(of address: Multiaddr) -> TransportAddress? {
        guard address.components.count == 2, case .tcp(let port) = address.components[1] else { return nil }
        return switch address.components[0] {
        case .ip4(let v4): TransportAddress(.v4(v4), port)
        case .ip6(let v6): TransportAddress(.v6(v6), port)
        default: nil
        }
    }

    private static func unsupported(_ address: Multiaddr) -> LibP2PError {
        LibP2PError(code: .notAllowed, message: "\(address) is no address of simulated TCP")
    }

    private static func late(_ address: TransportAddress) -> LibP2PError {
        LibP2PError(code: .timedOut, message: "no answer from \(address) in the simulated network")
    }
}

extension RawConnection {
    fileprivate init(_ channel: any Channel) throws {
        guard let simulated = channel as? SimulatedChannel, let local = simulated.local, let remote = simulated.remote
        else { throw ChannelError.ioOnClosedChannel }
        self.init(channel: channel, localAddress: Multiaddr(local), remoteAddress: Multiaddr(remote))
    }
}

extension Multiaddr {
    /// `/ip4/…/tcp/…`
    init(_ address: TransportAddress) {
        switch address.address {
        case .v4(let v4): self.init([.ip4(v4), .tcp(address.port)])
        case .v6(let v6): self.init([.ip6(v6), .tcp(address.port)])
        }
    }
}
