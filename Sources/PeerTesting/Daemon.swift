import Glibc
public import Multiformats
public import NIOCore
import NIOPosix

/// A go-libp2p daemon (`p2pd`), spoken to by its control protocol: messages of protobuf behind their length as a varint, over a
/// unix socket. A stream is a socket of its own, which carries bytes after the daemon's answer.
public final class Daemon: Sendable {
    public let process: PeerProcess
    public let peerID: PeerID
    public let addresses: [Multiaddr]
    private let control: DaemonControl
    private let controlPath: String

    /// - Parameter options: for the daemon's command line.
    public static func start(
        _ program: String,
        listen: [String] = ["/ip4/127.0.0.1/tcp/0"],
        options: [String] = [],
        limit: TimeAmount = .minutes(10),
        on loop: any EventLoop
    ) async throws -> Daemon {
        let path = "/tmp/p2pd-\(getpid())-\(UInt64.random(in: .min ... .max)).sock"
        let process = try PeerProcess(
            [program, "-listen", "/unix\(path)", "-hostAddrs", listen.joined(separator: ",")]
                + ["-relayService=0", "-relay=0", "-natPortMap=0"] + options,
            limit: limit
        )
        _ = try await process.line("Peer ID:")
        let control = DaemonControl(path: path, loop: loop)
        // The socket of its control may come after its words.
        for _ in 0..<200 where access(path, F_OK) != 0 { try await Task.sleep(for: .milliseconds(20)) }
        let identity = try await control.call(.identify)
        guard let peer = identity.peer else { throw TestPeerError("a daemon without a peer ID") }
        return Daemon(process, control, path, peer, identity.addresses)
    }

    private init(
        _ process: PeerProcess,
        _ control: DaemonControl,
        _ controlPath: String,
        _ peer: PeerID,
        _ addresses: [Multiaddr]
    ) {
        self.process = process
        self.control = control
        self.controlPath = controlPath
        self.peerID = peer
        self.addresses = addresses
    }

    deinit {
        unlink(self.controlPath)
    }

    // MARK: Peers

    public func connect(to peer: PeerID, at addresses: [Multiaddr]) async throws {
        try await self.control.call(.connect) { writer in
            writer.write(messageTo: 2) { connect in
                connect.write(bytes: peer.bytes, to: 1)
                for address in addresses { connect.write(bytes: address.withoutPeerID.bytes, to: 2) }
                connect.write(int64: 10, to: 3)
            }
        }
    }

    public func disconnect(from peer: PeerID) async throws {
        try await self.control.call(.disconnect) { writer in
            writer.write(messageTo: 7) { $0.write(bytes: peer.bytes, to: 1) }
        }
    }

    /// The peers that it is connected to.
    public func peers() async throws -> Set<PeerID> {
        Set(try await self.control.call(.listPeers).peers.map(\.id))
    }

    // MARK: Streams

    /// Opens a stream to a peer that it is connected to.
    /// - Returns: a socket with `autoRead` off that carries the stream's bytes. Only for protocols whose peer waits to be asked: what
    ///   it says or does of itself may come before anybody reads.
    public func openStream(to peer: PeerID, _ item: TestProtocol) async throws -> any Channel {
        try await self.openStream(to: peer, item) { $0 }
    }

    /// Opens a stream to a peer that it is connected to, and does a transfer on it.
    public func run(_ transfer: Transfer, _ item: TestProtocol, with peer: PeerID) async throws -> Transfer.Outcome {
        try await self.start(transfer, item, with: peer).get()
    }

    /// - Returns: once the stream is open, what will become of the transfer.
    public func start(
        _ transfer: Transfer,
        _ item: TestProtocol,
        with peer: PeerID
    ) async throws -> EventLoopFuture<Transfer.Outcome> {
        try await self.openStream(to: peer, item) { transfer.run(on: $0) }
    }

    private func openStream<Result: Sendable>(
        to peer: PeerID,
        _ item: TestProtocol,
        then initializer: @escaping @Sendable (any Channel) -> Result
    ) async throws -> Result {
        try await self.control.exchange(.streamOpen) { writer in
            writer.write(messageTo: 3) { open in
                open.write(bytes: peer.bytes, to: 1)
                open.write(text: item.rawValue, to: 2)
                open.write(int64: 10, to: 3)
            }
        } then: { messages, channel in
            _ = try DaemonResponse(messages[0])
            return initializer(channel)
        }
    }

    /// Serves the test protocols that are a matter of bytes; the daemon connects to a socket of ours for every stream.
    /// - Returns: the listening socket.
    public func serveTestProtocols() async throws -> any Channel {
        let path = "\(self.controlPath).streams"
        let listener = try await self.control.listen(at: path) { message, channel in
            guard let item = try? DaemonResponse.protocolName(ofStream: message).flatMap(TestProtocol.init) else {
                return channel.close(promise: nil)
            }
            try? item.serve(channel)
        }
        try await self.control.call(.streamHandler) { writer in
            writer.write(messageTo: 4) { handler in
                handler.write(bytes: Multiaddr([.unix(path)]).bytes, to: 1)
                for item in TestProtocol.allCases where item != .reset { handler.write(text: item.rawValue, to: 2) }
                handler.write(bool: false, to: 3)
            }
        }
        return listener
    }

    // MARK: DHT

    private enum DHTRequest: UInt64 {
        case findPeer, findPeersConnectedToPeer, findProviders, closestPeers, publicKey, value, searchValue, putValue
        case provide
    }

    private static func write(
        _ type: DHTRequest,
        into writer: inout ProtobufWriter,
        _ body: (inout ProtobufWriter) -> Void
    ) {
        writer.write(messageTo: 5) { request in
            request.write(varint: type.rawValue, to: 1)
            body(&request)
            request.write(int64: Self.searchSeconds, to: 7)
        }
    }

    private static let searchSeconds: Int64 = 20

    /// Where its DHT says that a peer is. Fails if it finds nobody who knows.
    public func findPeer(_ peer: PeerID) async throws -> [Multiaddr] {
        let answer = try await self.control.call(.dht) { writer in
            Self.write(.findPeer, into: &writer) { $0.write(bytes: peer.bytes, to: 2) }
        }
        return answer.peers.first { $0.id == peer }?.addresses ?? []
    }

    /// Lets its DHT tell that it provides `cid`.
    public func provide(_ cid: CID) async throws {
        try await self.control.call(.dht) { writer in
            Self.write(.provide, into: &writer) { $0.write(bytes: cid.bytes, to: 3) }
        }
    }

    /// The providers of `cid` that its DHT finds, at most `count`.
    public func findProviders(of cid: CID, count: Int32 = 1) async throws -> [PeerID] {
        try await self.control.exchange(.dht) { writer in
            Self.write(.findProviders, into: &writer) { request in
                request.write(bytes: cid.bytes, to: 3)
                request.write(varint: UInt64(count), to: 6)
            }
        } then: { messages, channel in
            // The first is an answer, which says that a list begins; those that follow are what answers of the DHT hold.
            _ = try DaemonResponse(messages[0])
            let items = try messages.dropFirst().map { try DaemonResponse.DHTAnswer($0) }
            guard items.last?.isEnd == true else { return nil }
            channel.close(promise: nil)
            return items.compactMap { $0.peer?.id }
        }
    }
}
