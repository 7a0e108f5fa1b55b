import Multiformats

extension FuzzTarget {
    /// Multiaddrs, peer IDs and CIDs, binary and as text. What is read is written in one form that reads back the same.
    static let multiaddr = FuzzTarget(name: "multiaddr") { data, count in
        let bytes = UnsafeBufferPointer(start: data, count: count)
        let text = String(decoding: bytes, as: UTF8.self)
        for address in [try? Multiaddr(bytes: bytes), try? Multiaddr(text)] {
            guard let address else { continue }
            guard (try? Multiaddr(bytes: address.bytes)) == address, let again = try? Multiaddr(address.description),
                again == address, again.bytes == address.bytes, again.description == address.description
            else { fatalError("\(address) does not read back") }
            _ = (address.isPublic, address.peerID, address.relay?.target, address.withoutPeerID, address.port)
        }
        for peer in [try? PeerID(bytes: bytes), try? PeerID(text)] {
            guard let peer else { continue }
            guard (try? PeerID(bytes: peer.bytes)) == peer, (try? PeerID(peer.description)) == peer,
                (try? PeerID(peer.cid.description)) == peer
            else { fatalError("\(peer) does not read back") }
        }
        for cid in [try? CID(bytes: bytes), try? CID(text)] {
            guard let cid else { continue }
            guard (try? CID(bytes: cid.bytes)) == cid, (try? CID(cid.description)) == cid else {
                fatalError("\(cid) does not read back")
            }
        }
        return 0
    }
}
