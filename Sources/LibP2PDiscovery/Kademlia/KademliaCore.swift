import ByteStreams
import LibP2P
import Logging
import MeshCore
import Multiformats
import NIOCore
import PeerIdentity

/// The state of a DHT. Confined to one event loop.
final class KademliaCore {
    let host: Host
    let configuration: KademliaConfiguration
    let loop: any EventLoop
    var table: RoutingTable
    var providers: ProviderStore
    /// What this host provides, and when it is announced next.
    var provided: [[UInt8]: Scheduled<Void>?] = [:]
    var metrics = KademliaMetrics()
    var runs: [ObjectIdentifier: KademliaRun] = [:]
    /// Peers with requests under way, and how often they have told since what they speak. Bounded as the requests are.
    private var asked: [PeerID: (requests: Int, identifications: Int)] = [:]
    var reachability = Reachability.unknown
    /// Whether peers are answered.
    var isServing = false
    private var refreshTask: RepeatedTask?
    private(set) var isStopped = false

    init(host: Host, configuration: KademliaConfiguration, loop: any EventLoop) {
        self.host = host
        self.configuration = configuration
        self.loop = loop
        self.table = RoutingTable(
            own: host.peerID,
            bucketSize: configuration.bucketSize,
            diversity: configuration.maximumPerNetwork.map {
                RoutingTable.Diversity(perBucket: $0.perBucket, total: $0.total)
            },
            staleAfter: configuration.refreshInterval * 2
        )
        self.providers = ProviderStore(
            maximumKeys: configuration.maximumProviderKeys,
            maximumKeysPerPeer: configuration.maximumProviderKeysPerPeer,
            maximumPerKey: configuration.maximumProvidersPerKey,
            lifetime: configuration.providerLifetime
        )
    }

    var currentMetrics: KademliaMetrics {
        var metrics = self.metrics
        metrics.isServer = self.isServing
        metrics.tablePeers = self.table.count
        metrics.providerKeys = self.providers.keyCount
        metrics.runningLookups = self.runs.count
        metrics.providersRefused = self.providers.refused
        return metrics
    }

    /// Whether others should find this host in their tables. Before it is known whether they can dial it, a public address
    /// speaks for it.
    var mayServe: Bool {
        switch (self.configuration.mode, self.reachability) {
        case (.server, _), (.automatic, .publiclyReachable): true
        case (.client, _), (.automatic, .behindNAT): false
        case (.automatic, .unknown): self.host.advertisedAddresses.contains { !$0.isCircuit && $0.isPublic }
        }
    }

    func start() {
        let bound = NIOLoopBound(self, eventLoop: self.loop)
        self.refreshTask = self.loop.scheduleRepeatedTask(
            initialDelay: .zero,
            delay: self.configuration.refreshInterval
        ) { _ in bound.value.refresh().whenFailure { _ in } }
    }

    func stop() {
        self.isStopped = true
        self.refreshTask?.cancel()
        for task in self.provided.values { task?.cancel() }
        self.provided = [:]
        for run in self.runs.values { run.cancel(LibP2PDiscoveryError.stopped) }
    }

    // MARK: Table

    /// A peer that speaks the protocol, told over a connection that fits, is a server to remember.
    func identified(_ connection: Connection, _ identification: Identification) {
        let peer = connection.remotePeer
        self.asked[peer]?.identifications += 1
        guard identification.protocols.contains(self.configuration.protocolID) else {
            // It was a server and is one no longer.
            self.forget(peer)
            return
        }
        guard connection.isOpen,
            self.configuration.admits(connection.remoteAddress, known: self.host.peers.addresses(of: peer))
        else { return }
        let wasEmpty = self.table.count == 0
        self.remember(peer)
        // The first peer is the way to all others.
        if wasEmpty, self.table.count > 0 { self.refresh().whenFailure { _ in } }
    }

    func remember(_ peer: PeerID) {
        let address =
            self.host.connections(to: peer).first { !$0.isRelayed }?.remoteAddress.ipAddress
            ?? self.host.peers.addresses(of: peer).lazy.compactMap(\.ipAddress).first
        switch self.table.add(peer, address: address, now: self.loop.now) {
        case .added, .replaced: self.host.connectionManager.tag(peer, "kad", value: 5)
        case .known, .bucketFull, .networkFull, .own: break
        }
    }

    func forget(_ peer: PeerID) {
        if self.table.remove(peer) { self.host.connectionManager.untag(peer, "kad") }
    }

    // MARK: Requests

    /// Asks a peer. What becomes of it is noted in the table.
    func request(_ message: KademliaMessage, to peer: PeerID) -> EventLoopFuture<KademliaMessage> {
        self.metrics.requestsSent += 1
        let timeout = self.configuration.requestTimeout
        let wasConnected = !self.host.connections(to: peer).isEmpty
        let identifications = self.asked[peer]?.identifications ?? 0
        self.asked[peer, default: (0, 0)].requests += 1
        let answered = self.open(to: peer).flatMap { stream -> EventLoopFuture<KademliaMessage> in
            let promise = stream.channel.eventLoop.makePromise(of: KademliaMessage.self)
            do {
                try stream.channel.pipeline.syncOperations.addHandler(
                    KademliaRequester(message, timeout: timeout, promise: promise)
                )
                try stream.channel.syncOptions?.setOption(.autoRead, value: true)
            } catch {
                promise.fail(error)
            }
            promise.futureResult.whenComplete { result in
                if case .success = result { stream.channel.close(promise: nil) } else { stream.reset() }
            }
            return promise.futureResult
        }.hop(to: self.loop)
        answered.assumeIsolated().whenComplete { result in
            // What a connected peer has told in the meantime is newer than its answer.
            let told = self.finishRequest(to: peer)
            let isOutdated = wasConnected && told != identifications
            guard !self.isStopped else { return }
            switch result {
            case .success: if !isOutdated { self.remember(peer) }
            case .failure:
                self.metrics.requestsFailed += 1
                if !isOutdated { self.forget(peer) }
            }
        }
        return answered
    }

    /// Returns how often the peer has told what it speaks since the first of its requests under way began.
    private func finishRequest(to peer: PeerID) -> Int {
        guard let (requests, identifications) = self.asked[peer] else { return 0 }
        self.asked[peer] = requests > 1 ? (requests - 1, identifications) : nil
        return identifications
    }

    /// Tells a peer something that has no answer.
    func send(_ message: KademliaMessage, to peer: PeerID) -> EventLoopFuture<Void> {
        self.metrics.requestsSent += 1
        return self.open(to: peer).flatMap { stream in
            var bytes = ByteBuffer()
            bytes.writeVarintPrefixed(message.encoded())
            let written = stream.channel.writeAndFlush(bytes)
            stream.channel.close(promise: nil)
            return written
        }.hop(to: self.loop)
    }

    private func open(to peer: PeerID) -> EventLoopFuture<NegotiatedStream> {
        var dial = DialOptions()
        dial.timeout = self.configuration.requestTimeout
        return self.host.openStream(
            to: peer,
            protocols: [self.configuration.protocolID],
            // A refusal must fail what is sent, too.
            options: OpenStreamOptions(
                waitForAnswer: true,
                timeout: self.configuration.requestTimeout,
                dialOptions: dial
            )
        )
    }

    // MARK: Searches

    /// Searches for a key. `onAnswer` is called with every answer and tells whether the search may end.
    func lookup(
        _ kind: KademliaMessage.Kind,
        key: [UInt8],
        onAnswer: @escaping (PeerID, KademliaMessage) -> Bool = { _, _ in false }
    ) -> EventLoopFuture<[PeerID]> {
        guard self.runs.count < self.configuration.maximumLookups else {
            return self.loop.makeFailedFuture(
                LibP2PDiscoveryError(
                    code: .limitExceeded,
                    message: "\(self.runs.count) searches of the DHT are under way; the limit is maximumLookups"
                )
            )
        }
        let target = KademliaKey(hashing: key)
        let seeds = self.table.closest(to: target, count: self.configuration.bucketSize)
        guard !seeds.isEmpty else {
            return self.loop.makeFailedFuture(
                LibP2PDiscoveryError(
                    code: .noPeers,
                    message:
                        "no peer of \(self.configuration.protocolID) is known; connect to one or configure bootstrap peers"
                )
            )
        }
        let run = KademliaRun(
            core: self,
            request: KademliaMessage(kind, key: key),
            lookup: KademliaLookup(
                target: target,
                own: self.host.peerID,
                seeds: seeds,
                width: self.configuration.bucketSize,
                concurrency: self.configuration.concurrency
            ),
            onAnswer: onAnswer
        )
        self.runs[ObjectIdentifier(run)] = run
        return run.start()
    }

    /// Believes what a peer says of others, as far as it belongs to this DHT.
    func learn(_ peers: [KademliaMessage.Peer]) -> [PeerID] {
        peers.compactMap { peer in
            guard peer.id != self.host.peerID else { return nil }
            let addresses = self.configuration.filter(peer.addresses)
            if !addresses.isEmpty { self.host.peers.add(addresses, to: peer.id, lifetime: .found) }
            let isReachable = !addresses.isEmpty || !self.host.connections(to: peer.id).isEmpty
            return isReachable ? peer.id : nil
        }
    }
}

/// One search under way. Confined to the DHT's event loop.
final class KademliaRun {
    private let core: KademliaCore
    private let request: KademliaMessage
    private var lookup: KademliaLookup
    private let onAnswer: (PeerID, KademliaMessage) -> Bool
    private let promise: EventLoopPromise<[PeerID]>
    private var timer: Scheduled<Void>?
    private var isDone = false

    init(
        core: KademliaCore,
        request: KademliaMessage,
        lookup: KademliaLookup,
        onAnswer: @escaping (PeerID, KademliaMessage) -> Bool
    ) {
        self.core = core
        self.request = request
        self.lookup = lookup
        self.onAnswer = onAnswer
        self.promise = core.loop.makePromise()
    }

    func start() -> EventLoopFuture<[PeerID]> {
        // When time is up, what was found counts.
        self.timer = self.core.loop.assumeIsolated().scheduleTask(in: self.core.configuration.lookupTimeout) {
            self.finish(.success(self.lookup.closest))
        }
        self.pump()
        return self.promise.futureResult
    }

    func cancel(_ error: any Error) { self.finish(.failure(error)) }

    private func pump() {
        guard !self.isDone else { return }
        for peer in self.lookup.next() {
            self.core.request(self.request, to: peer).assumeIsolated().whenComplete { result in
                guard !self.isDone else { return }
                switch result {
                case .success(let answer):
                    let closer = self.core.learn(answer.closer)
                    self.lookup.answered(peer, closer: closer)
                    if self.onAnswer(peer, answer) { return self.finish(.success(self.lookup.closest)) }
                case .failure: self.lookup.failed(peer)
                }
                self.pump()
            }
        }
        if self.lookup.isDone { self.finish(.success(self.lookup.closest)) }
    }

    private func finish(_ result: Result<[PeerID], any Error>) {
        guard !self.isDone else { return }
        self.isDone = true
        self.timer?.cancel()
        self.core.runs[ObjectIdentifier(self)] = nil
        self.promise.completeWith(result)
    }
}
