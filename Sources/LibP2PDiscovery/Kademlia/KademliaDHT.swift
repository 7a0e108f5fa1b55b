import ByteStreams
public import LibP2P
public import Multiformats
public import NIOCore
import PeerIdentity
import Synchronization

/// A Kademlia DHT (libp2p/specs, kad-dht): finds peers that are not connected, and peers that provide something.
///
/// May be used from any thread; it works on one of the host's event loops. Whoever starts it stops it before the host. It is a
/// `PeerRouting` for the host.
public final class KademliaDHT: Sendable, PeerRouting {
    public let configuration: KademliaConfiguration
    let host: Host
    let loop: any EventLoop
    let core: NIOLoopBoundBox<KademliaCore?>
    private let observation = Mutex<Observation?>(nil)

    /// Makes a DHT that does nothing yet.
    public init(host: Host, configuration: KademliaConfiguration) {
        self.host = host
        self.configuration = configuration
        self.loop = host.group.next()
        self.core = .makeEmptyBox(valueType: KademliaCore.self, eventLoop: self.loop)
    }

    // MARK: Life

    /// Begins to take note of peers, to keep its table fresh, and, as a server, to answer.
    public func start() async throws {
        let (host, configuration, loop, box) = (self.host, self.configuration, self.loop, self.core)
        try await loop.submit {
            guard box.value == nil else { return }
            let core = KademliaCore(host: host, configuration: configuration, loop: loop)
            box.value = core
            core.start()
        }.get()
        self.observation.withLock { observation in
            observation?.cancel()
            observation = host.observe { [weak self] event in
                switch event {
                case .identified(let connection, let identification):
                    loop.execute { box.value?.identified(connection, identification) }
                case .reachabilityChanged(let reachability):
                    loop.execute {
                        box.value?.reachability = reachability
                        self?.followReachability()
                    }
                case .addressesChanged: loop.execute { self?.followReachability() }
                default: break
                }
            }
        }
        try await loop.submit { self.followReachability() }.get()
        for connection in host.connections {
            guard let identification = connection.identification else { continue }
            try await loop.submit { box.value?.identified(connection, identification) }.get()
        }
    }

    /// Ends searches, announcements and answers.
    public func stop() async {
        self.observation.withLock { observation in
            observation?.cancel()
            observation = nil
        }
        let box = self.core
        try? await self.loop.submit {
            if box.value?.isServing == true { self.host.stopHandling(self.configuration.protocolID) }
            box.value?.stop()
            box.value = nil
        }.get()
    }

    /// Begins or ceases to answer, as the mode has it. Peers hear of it by identify. On the DHT's event loop.
    private func followReachability() {
        guard let core = self.core.value, core.isServing != core.mayServe else { return }
        core.isServing = core.mayServe
        if core.isServing { self.serve() } else { self.host.stopHandling(self.configuration.protocolID) }
    }

    private func serve() {
        let (configuration, loop, box) = (self.configuration, self.loop, self.core)
        let bounds = HandlerOptions.Bounds(
            streams: configuration.maximumStreams,
            perPeer: configuration.maximumStreamsPerPeer
        )
        self.host.handle(configuration.protocolID, options: HandlerOptions(bounds: bounds)) { stream in
            stream.channel.eventLoop.makeCompletedFuture {
                let peer = stream.connection.remotePeer
                let streamLoop = stream.channel.eventLoop
                let responder = KademliaResponder(
                    maximumLength: configuration.maximumRequestBytes,
                    timeout: configuration.streamTimeout
                ) { request in
                    loop.submit {
                        guard let core = box.value else { throw LibP2PDiscoveryError.stopped }
                        return try core.respond(to: request, from: peer)
                    }.hop(to: streamLoop)
                }
                try stream.channel.pipeline.syncOperations.addHandler(responder)
                stream.channel.read()
            }
        }
    }

    public func metrics() async -> KademliaMetrics {
        let box = self.core
        return (try? await self.loop.submit { box.value?.currentMetrics ?? KademliaMetrics() }.get())
            ?? KademliaMetrics()
    }

    /// Fills the table: asks the bootstrap peers if it is empty, searches for this host's own neighbourhood and, beyond it,
    /// in the buckets that are known. Also done of itself.
    public func refresh() async throws {
        try await self.withCore { $0.refresh() }
    }

    private func withCore<Value: Sendable>(
        _ body: @escaping @Sendable (KademliaCore) -> EventLoopFuture<Value>
    ) async throws -> Value {
        let (loop, box) = (self.loop, self.core)
        return try await loop.flatSubmit { () -> EventLoopFuture<Value> in
            guard let core = box.value else { return loop.makeFailedFuture(LibP2PDiscoveryError.stopped) }
            return body(core)
        }.get()
    }

    // MARK: Peers

    /// Where a peer can be reached, as it or its neighbours in the DHT tell.
    /// - Throws: `notFound`, or `noPeers` while the table is empty.
    public func findPeer(_ peer: PeerID) async throws -> [Multiaddr] {
        try await self.withCore { $0.findPeer(peer) }
    }

    /// The peers whose keys are nearest to a key and that have answered, nearest first.
    public func closestPeers(to key: [UInt8]) async throws -> [PeerID] {
        try await self.withCore { $0.closestPeers(to: key) }
    }

    public func findAddresses(of peer: PeerID, on loop: any EventLoop) -> EventLoopFuture<[Multiaddr]> {
        let box = self.core
        return self.loop.flatSubmit { () -> EventLoopFuture<[Multiaddr]> in
            guard let core = box.value else { return box.eventLoop.makeSucceededFuture([]) }
            return core.findPeer(peer).recover { _ in [] }
        }.hop(to: loop)
    }

    // MARK: Providers

    /// Tells the peers nearest to `cid` that this host provides it, and again now and then until `stopProviding`.
    /// - Returns: how many peers were told.
    /// - Throws: `noPeers` if none could be told; it is tried again all the same.
    @discardableResult
    public func provide(_ cid: CID) async throws -> Int {
        try await self.withCore { $0.provide(cid.hash.bytes) }
    }

    public func stopProviding(_ cid: CID) async {
        let box = self.core
        try? await self.loop.submit { box.value?.stopProviding(cid.hash.bytes) }.get()
    }

    /// Peers that provide `cid`, at most `limit`, as many as are found until the search ends.
    public func findProviders(of cid: CID, limit: Int = 100) async throws -> [DiscoveredPeer] {
        try await self.withCore { $0.findProviders(of: cid.hash.bytes, limit: limit) }
    }

    // MARK: Rendezvous

    /// The content that stands for a meeting point: its name, hashed.
    public static func cid(rendezvous: String) -> CID {
        CID(codec: .raw, hash: .sha256(of: rendezvous.utf8))
    }

    /// Lets those who look for `rendezvous` find this host, until `stopAdvertising`. See `provide`.
    @discardableResult
    public func advertise(rendezvous: String) async throws -> Int {
        try await self.provide(Self.cid(rendezvous: rendezvous))
    }

    public func stopAdvertising(rendezvous: String) async {
        await self.stopProviding(Self.cid(rendezvous: rendezvous))
    }

    /// The other peers at the rendezvous. Their addresses get into the peer store, and each is told as `HostEvent.discovered`.
    public func findPeers(rendezvous: String, limit: Int = 100) async throws -> [DiscoveredPeer] {
        let found = try await self.findProviders(of: Self.cid(rendezvous: rendezvous), limit: limit)
            .filter { $0.peer != self.host.peerID }
        for peer in found { self.host.emit(.discovered(peer)) }
        return found
    }
}

extension LibP2PDiscoveryError {
    static let stopped = LibP2PDiscoveryError(code: .stopped, message: "the DHT is not running")
}
