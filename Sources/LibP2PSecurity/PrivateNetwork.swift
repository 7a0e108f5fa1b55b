public import NIOCore

/// Private networks (libp2p/specs, pnet): every connection is encrypted with a key that all members share, below all else.
///
/// Each direction begins with a random nonce of 24 bytes, in front of the first write; all that follows is XOR the XSalsa20
/// keystream. The key authenticates nothing; that a peer has another one shows in the first bytes, which on every
/// connection of libp2p are the header of multistream-select.
public enum PrivateNetwork {
    /// The first bytes of every connection of libp2p: `/multistream/1.0.0` as a message of multistream-select.
    static let header: [UInt8] = [0x13] + Array("/multistream/1.0.0\n".utf8)

    /// Adds the encryption at the end of the pipeline; on the channel's loop, before any byte is read or written.
    ///
    /// A peer with another key or none is told by `LibP2PSecurityError.wrongPreSharedKey` in the pipeline, then the channel
    /// is closed. A peer that leaves without a valid byte is told by `suspectedPreSharedKey`.
    public static func add(to channel: any Channel, key: PreSharedKey) throws {
        try channel.pipeline.syncOperations.addHandler(PrivateNetworkHandler(key: key))
    }

    /// If the first bytes from a peer look as if it encrypted with a pre-shared key while this side has none: they are
    /// neither multistream-select, nor TLS, nor text as of HTTP.
    public static func looksEncrypted(_ firstBytes: some Collection<UInt8>) -> Bool {
        if firstBytes.isEmpty || zip(firstBytes, self.header).allSatisfy({ $0 == $1 }) { return false }
        if firstBytes.starts(with: [0x16, 0x03]) { return false }
        return !firstBytes.prefix(16).allSatisfy { (0x20..<0x7F).contains($0) || $0 == 0x0A || $0 == 0x0D }
    }
}

/// What a private network sees of its peer: collects the nonce, decrypts, and judges the first bytes.
struct PrivateNetworkReceiver {
    enum Failure: Error {
        case anotherKey
        case noKey
    }

    private enum State {
        case nonce([UInt8])
        /// So many bytes of the header were right.
        case header(XSalsa20, Int)
        case open(XSalsa20)
        case failed
    }

    private let key: PreSharedKey
    private var state = State.nonce([])

    init(key: PreSharedKey) {
        self.key = key
    }

    /// If the peer has proved that it has the same key.
    var isOpen: Bool {
        if case .open = self.state { true } else { false }
    }

    /// Takes what came from the peer.
    /// - Returns: the decrypted bytes, or nil as long as there are none.
    mutating func receive(_ bytes: ByteBuffer, allocator: ByteBufferAllocator) throws(Failure) -> ByteBuffer? {
        var bytes = bytes
        if case .nonce(var nonce) = self.state {
            nonce += bytes.readBytes(length: min(XSalsa20.nonceLength - nonce.count, bytes.readableBytes)) ?? []
            if nonce.starts(with: PrivateNetwork.header) {
                self.state = .failed
                throw .noKey
            }
            guard nonce.count == XSalsa20.nonceLength else {
                self.state = .nonce(nonce)
                return nil
            }
            self.state = .header(XSalsa20(key: self.key.bytes, nonce: nonce), 0)
        }
        guard bytes.readableBytes > 0 else { return nil }
        var plain = allocator.buffer(capacity: bytes.readableBytes)
        switch self.state {
        case .open(let cipher): cipher.apply(to: bytes, into: &plain)
        case .header(let cipher, let matched):
            cipher.apply(to: bytes, into: &plain)
            let expected = PrivateNetwork.header.dropFirst(matched)
            guard zip(plain.readableBytesView, expected).allSatisfy({ $0 == $1 }) else {
                self.state = .failed
                throw .anotherKey
            }
            let isWhole = plain.readableBytes >= expected.count
            self.state = isWhole ? .open(cipher) : .header(cipher, matched + plain.readableBytes)
        case .nonce, .failed: return nil
        }
        return plain
    }
}
