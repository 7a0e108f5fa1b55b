import LibP2P
import Logging
import Multiformats
import NIOCore
import PeerIdentity

extension KademliaCore {
    // MARK: Peers

    func closestPeers(to key: [UInt8]) -> EventLoopFuture<[PeerID]> {
        self.lookup(.findNode, key: key)
    }

    func findPeer(_ peer: PeerID) -> EventLoopFuture<[Multiaddr]> {
        // A connected peer is where it is.
        if !self.host.connections(to: peer).isEmpty {
            let known = self.host.peers.addresses(of: peer)
            if !known.isEmpty { return self.loop.makeSucceededFuture(known) }
        }
        var found: [Multiaddr] = []
        return self.lookup(.findNode, key: peer.bytes) { _, answer in
            for named in answer.closer where named.id == peer {
                for address in self.configuration.filter(named.addresses) where !found.contains(address) {
                    if found.count < KademliaMessage.maximumAddresses { found.append(address) }
                }
            }
            return !found.isEmpty
        }.assumeIsolated().flatMapThrowing { _ in
            guard !found.isEmpty else {
                throw LibP2PDiscoveryError(code: .notFound, message: "nobody in the DHT knows where \(peer) is")
            }
            return found
        }.nonisolated()
    }

    // MARK: Providers

    func provide(_ key: [UInt8]) -> EventLoopFuture<Int> {
        guard self.provided[key] != nil || self.provided.count < self.configuration.maximumProvidedKeys else {
            return self.loop.makeFailedFuture(
                LibP2PDiscoveryError(
                    code: .limitExceeded,
                    message: "this host provides \(self.provided.count) keys; the limit is maximumProvidedKeys"
                )
            )
        }
        self.provided[key]??.cancel()
        self.provided[key] = .some(nil)
        let announced = self.announce(key)
        announced.assumeIsolated().whenComplete { result in
            guard self.provided[key] != nil, !self.isStopped else { return }
            let delay: TimeAmount
            switch result {
            case .success: delay = self.configuration.republishInterval
            case .failure: delay = self.configuration.republishRetry
            }
            self.provided[key] = self.loop.assumeIsolated().scheduleTask(in: delay) {
                self.provide(key).whenFailure { _ in }
            }
        }
        return announced
    }

    func stopProviding(_ key: [UInt8]) {
        self.provided.removeValue(forKey: key)??.cancel()
    }

    private func announce(_ key: [UInt8]) -> EventLoopFuture<Int> {
        self.providers.add(self.host.peerID, for: key, now: self.loop.now)
        return self.lookup(.findNode, key: key).assumeIsolated().flatMap { closest in
            var message = KademliaMessage(.addProvider, key: key)
            let addresses = Array(self.ownAddresses.prefix(KademliaMessage.maximumAddresses))
            message.providers = [KademliaMessage.Peer(id: self.host.peerID, addresses: addresses)]
            let sent = closest.map { self.send(message, to: $0) }
            return EventLoopFuture.whenAllComplete(sent, on: self.loop).assumeIsolated().flatMapThrowing { results in
                let told = results.count { if case .success = $0 { true } else { false } }
                guard told > 0 else {
                    throw LibP2PDiscoveryError(
                        code: .noPeers,
                        message: "no peer of the DHT could be told of a provider"
                    )
                }
                return told
            }.nonisolated()
        }.nonisolated()
    }

    var ownAddresses: [Multiaddr] { self.configuration.filter(self.host.advertisedAddresses) }

    func findProviders(of key: [UInt8], limit: Int) -> EventLoopFuture<[DiscoveredPeer]> {
        var found: [PeerID] = []
        var addresses: [PeerID: [Multiaddr]] = [:]
        func add(_ peer: PeerID, _ more: [Multiaddr]) {
            guard addresses[peer] != nil || found.count < limit else { return }
            if addresses[peer] == nil { found.append(peer) }
            for address in more where addresses[peer]?.contains(address) != true {
                guard (addresses[peer]?.count ?? 0) < KademliaMessage.maximumAddresses else { break }
                addresses[peer, default: []].append(address)
            }
            if addresses[peer] == nil { addresses[peer] = [] }
        }
        for peer in self.providers.providers(of: key, now: self.loop.now) {
            add(peer, peer == self.host.peerID ? self.ownAddresses : self.host.peers.addresses(of: peer))
        }
        func result() -> [DiscoveredPeer] {
            found.map { DiscoveredPeer(peer: $0, addresses: addresses[$0] ?? [], source: .dht) }
        }
        guard found.count < limit else { return self.loop.makeSucceededFuture(result()) }
        return self.lookup(.getProviders, key: key) { _, answer in
            _ = self.learn(answer.providers)
            for provider in answer.providers { add(provider.id, self.configuration.filter(provider.addresses)) }
            return found.count >= limit
        }.assumeIsolated().map { _ in result() }.flatMapErrorThrowing { error in
            guard !found.isEmpty else { throw error }
            return result()
        }.nonisolated()
    }

    // MARK: Refresh

    /// Buckets farther than this are as good as empty, and keys for them take long to find.
    private static let maximumRefreshedPrefix = 10

    func refresh() -> EventLoopFuture<Void> {
        guard !self.isStopped else { return self.loop.makeFailedFuture(LibP2PDiscoveryError.stopped) }
        self.providers.removeExpired(now: self.loop.now)
        return self.bootstrap().assumeIsolated().flatMap {
            self.checkIdle()
        }.flatMap {
            guard self.table.count > 0 else { return self.loop.makeSucceededVoidFuture() }
            var searches = [self.lookup(.findNode, key: self.host.peerID.bytes).map { _ in }]
            for prefix in self.table.prefixLengths where prefix <= Self.maximumRefreshedPrefix {
                guard let key = self.randomKey(prefixLength: prefix) else { continue }
                searches.append(self.lookup(.findNode, key: key).map { _ in })
            }
            return EventLoopFuture.andAllComplete(searches, on: self.loop)
        }.nonisolated()
    }

    /// With an empty table, connects to the bootstrap peers; identify then brings them into the table.
    private func bootstrap() -> EventLoopFuture<Void> {
        guard self.table.count == 0 else { return self.loop.makeSucceededVoidFuture() }
        let peers = self.configuration.bootstrapPeers.compactMap { address in address.peerID.map { ($0, address) } }
            .filter { $0.0 != self.host.peerID }.prefix(self.configuration.bucketSize)
        let connected = peers.map { peer, address -> EventLoopFuture<Void> in
            let connection: EventLoopFuture<Connection> = self.host.connect(to: peer, addresses: [address])
            return connection.map { _ in }.hop(to: self.loop)
        }
        return EventLoopFuture.andAllComplete(connected, on: self.loop)
    }

    /// Asks those that were of no use for a while; who does not answer is forgotten.
    private func checkIdle() -> EventLoopFuture<Void> {
        let idle = self.table.peers(idleSince: self.loop.now - self.configuration.refreshInterval)
        let checks = idle.prefix(4 * self.configuration.concurrency).map {
            self.request(KademliaMessage(.findNode, key: self.host.peerID.bytes), to: $0).map { _ in }
        }
        return EventLoopFuture.andAllComplete(checks, on: self.loop)
    }

    /// The bytes of a peer ID whose key shares a prefix of exactly that length with the own one.
    private func randomKey(prefixLength: Int) -> [UInt8]? {
        let own = KademliaKey(self.host.peerID)
        // Twice in a row of 2^(length + 1) tries it fails once in seven times; the next refresh tries again.
        for _ in 0..<(4 << prefixLength) {
            var key: [UInt8] = [0x12, 0x20]
            for _ in 0..<4 {
                let number = self.host.configuration.randomNumber()
                key += (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * UInt64($0))) }
            }
            if KademliaKey(hashing: key).commonPrefixLength(with: own) == prefixLength { return key }
        }
        return nil
    }
}
