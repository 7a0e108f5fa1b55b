import LibP2P
import Multiformats
import NIOCore

extension KademliaCore {
    /// The answer to a peer's request; nil where none is wanted.
    /// - Throws: For requests that make no sense or are not granted; the stream is reset then.
    func respond(to request: KademliaMessage, from peer: PeerID) throws(LibP2PDiscoveryError) -> KademliaMessage? {
        do throws(LibP2PDiscoveryError) {
            let response = try self.response(to: request, from: peer)
            self.metrics.requestsAnswered += 1
            return response
        } catch {
            self.metrics.requestsRefused += 1
            throw error
        }
    }

    private func response(
        to request: KademliaMessage,
        from peer: PeerID
    ) throws(LibP2PDiscoveryError) -> KademliaMessage? {
        var response = KademliaMessage(request.kind, key: request.key)
        switch request.kind {
        case .ping: break
        case .findNode:
            guard !request.key.isEmpty else { throw Self.refused("a search for an empty key", peer) }
            response.key = []
            response.closer = self.closer(to: request.key, for: peer)
        case .getProviders:
            guard (1...KademliaMessage.maximumProviderKeyLength).contains(request.key.count) else {
                throw Self.refused("a provider key of \(request.key.count) bytes", peer)
            }
            response.providers = self.providers.providers(of: request.key, now: self.loop.now)
                .prefix(KademliaMessage.maximumPeers).map { self.describe($0) }
            response.closer = self.closer(to: request.key, for: peer)
        case .addProvider:
            guard (1...KademliaMessage.maximumProviderKeyLength).contains(request.key.count) else {
                throw Self.refused("a provider key of \(request.key.count) bytes", peer)
            }
            // A peer speaks for itself only.
            for provider in request.providers where provider.id == peer && !provider.addresses.isEmpty {
                let addresses = self.configuration.filter(provider.addresses)
                self.host.peers.add(addresses, to: peer, lifetime: .found)
                self.providers.add(peer, for: request.key, now: self.loop.now)
            }
            return nil
        case .getValue:
            guard !request.key.isEmpty else { throw Self.refused("a value of an empty key", peer) }
            if let value = self.configuration.records?.value(of: request.key) {
                response.record = KademliaMessage.Record(key: request.key, value: value)
            }
            response.closer = self.closer(to: request.key, for: peer)
        case .putValue:
            guard let record = request.record, !request.key.isEmpty, record.key == request.key,
                self.configuration.records?.accept(record.value, for: record.key, from: peer) == true
            else { throw Self.refused("a value", peer) }
            response.record = record
        }
        return response
    }

    private static func refused(_ what: String, _ peer: PeerID) -> LibP2PDiscoveryError {
        LibP2PDiscoveryError(code: .malformed, message: "\(what) from \(peer) was not taken")
    }

    /// The nearest servers, and a peer that is searched for itself, if it is known where they are. Never the asker.
    private func closer(to key: [UInt8], for asker: PeerID) -> [KademliaMessage.Peer] {
        var peers = self.table.closest(to: KademliaKey(hashing: key), count: self.configuration.bucketSize + 1)
            .filter { $0 != asker }.prefix(self.configuration.bucketSize).map { $0 }
        if let target = try? PeerID(bytes: key), target != asker, !peers.contains(target) {
            if target == self.host.peerID { peers = [target] } else { peers.append(target) }
        }
        return peers.map { self.describe($0) }.filter { !$0.addresses.isEmpty }
    }

    private func describe(_ peer: PeerID) -> KademliaMessage.Peer {
        let isOwn = peer == self.host.peerID
        let addresses = isOwn ? self.ownAddresses : self.configuration.filter(self.host.peers.addresses(of: peer))
        return KademliaMessage.Peer(
            id: peer,
            addresses: Array(addresses.prefix(KademliaMessage.maximumAddresses)),
            isConnected: isOwn || !self.host.connections(to: peer).isEmpty
        )
    }
}
