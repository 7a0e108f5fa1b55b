import ByteStreams
import MeshCore
public import Multiformats
public import NIOCore

/// Plain TCP: `/ip4/192.0.2.1/tcp/20006`, `/ip6/2001:db8::1/tcp/20006`.
public final class TCPTransport: Transport {
    private let sockets: TCPSockets

    public init(onShortage: @escaping AcceptShortage = { _, _ in }) {
        self.sockets = TCPSockets(onShortage: onShortage)
    }

    public func canDial(_ address: Multiaddr) -> Bool {
        address.tcpEndpoint?.rest.isEmpty ?? false
    }

    public func canListen(on address: Multiaddr) -> Bool {
        self.canDial(address) && address.zone == nil
    }

    public func dial(
        _ address: Multiaddr,
        on loop: any EventLoop,
        options: TransportDialOptions
    ) -> EventLoopFuture<RawConnection> {
        guard let endpoint = address.tcpEndpoint?.address else {
            return loop.makeFailedFuture(Self.unsupported(address))
        }
        return self.sockets.dial(endpoint, zone: address.zone, on: loop, options: options) { channel in
            channel.eventLoop.makeSucceededVoidFuture()
        }
        .flatMapThrowing { channel in try RawConnection(tcp: channel, layers: []) }
    }

    public func listen(
        on address: Multiaddr,
        group: any EventLoopGroup,
        accept: @escaping @Sendable (RawConnection) -> Void
    ) -> EventLoopFuture<any TransportListener> {
        guard let endpoint = address.tcpEndpoint?.address else {
            return group.next().makeFailedFuture(Self.unsupported(address))
        }
        return self.sockets.listen(on: endpoint, group: group) { channel in
            channel.eventLoop.makeCompletedFuture { accept(try RawConnection(tcp: channel, layers: [])) }
        }.map { SocketListener($0, layers: []) }
    }

    private static func unsupported(_ address: Multiaddr) -> LibP2PError {
        LibP2PError(code: .notAllowed, message: "\(address) is no address of TCP")
    }
}

/// A listening TCP socket, with what the transport has above TCP.
struct SocketListener: TransportListener {
    let channel: any Channel
    let address: Multiaddr

    init(_ listener: TCPListener, layers: [Multiaddr.Component]) {
        self.channel = listener.channel
        self.address = Multiaddr(tcp: listener.bound, layers)
    }

    func close() -> EventLoopFuture<Void> {
        let promise = self.channel.eventLoop.makePromise(of: Void.self)
        self.channel.closeFuture.cascade(to: promise)
        self.channel.close(promise: nil)
        return promise.futureResult
    }
}

extension RawConnection {
    /// A connection over a TCP socket; fails if the peer has gone already.
    init(tcp channel: any Channel, layers: [Multiaddr.Component]) throws {
        guard let local = channel.localAddress.flatMap({ TransportAddress($0) }),
            let remote = channel.remoteAddress.flatMap({ TransportAddress($0) })
        else { throw LibP2PError(code: .connectionClosed, message: "the connection ended before it was accepted") }
        self.init(
            channel: channel,
            localAddress: Multiaddr(tcp: local, layers),
            remoteAddress: Multiaddr(tcp: remote, layers)
        )
    }
}
