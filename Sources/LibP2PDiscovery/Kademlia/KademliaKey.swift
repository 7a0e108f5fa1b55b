import Multiformats
import PeerIdentity

/// A point of the key space: the SHA-256 of a peer ID or of a key (libp2p/specs, kad-dht, "Distance").
struct KademliaKey: Hashable, Sendable {
    /// Big-endian words, the most significant first.
    let words: SIMD4<UInt64>

    static let bits = 256

    init(words: SIMD4<UInt64>) {
        self.words = words
    }

    init(hashing bytes: some Collection<UInt8>) {
        var words = SIMD4<UInt64>()
        for (index, byte) in Multihash.sha256(of: bytes).digest.prefix(32).enumerated() {
            words[index / 8] = words[index / 8] << 8 | UInt64(byte)
        }
        self.words = words
    }

    init(_ peer: PeerID) { self.init(hashing: peer.bytes) }

    /// The XOR metric; also a key, as it compares like one.
    func distance(to other: KademliaKey) -> KademliaKey { KademliaKey(words: self.words ^ other.words) }

    /// 256 with itself.
    func commonPrefixLength(with other: KademliaKey) -> Int {
        let distance = self.words ^ other.words
        for index in 0..<4 where distance[index] != 0 { return index * 64 + distance[index].leadingZeroBitCount }
        return Self.bits
    }
}

extension KademliaKey: Comparable {
    static func < (lhs: KademliaKey, rhs: KademliaKey) -> Bool {
        for index in 0..<4 where lhs.words[index] != rhs.words[index] { return lhs.words[index] < rhs.words[index] }
        return false
    }
}
