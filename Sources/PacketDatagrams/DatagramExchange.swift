import Crypto
public import MeshCore
public import NIOCore

/// One side of an agreement on keys: an X25519 pair, used once, and what is told of it. Both hellos go by a stream that proves who sent
/// them, so the exchange need not.
public struct DatagramExchange: Sendable {
    public enum Role: Sendable, Hashable {
        /// Asks for the keys: whoever has opened the channel of packets.
        case opener
        case acceptor
    }

    static let name = "edgemesh packet-datagrams 1"

    public let hello: DatagramHello
    private let key: Curve25519.KeyAgreement.PrivateKey

    /// - Parameters:
    ///   - index: not zero; unlike those that are in use.
    ///   - answering: the hello that this side answers; nil for the side that asks.
    public init(
        index: UInt32,
        addresses: [TransportAddress],
        prefersAES: Bool,
        answering: DatagramHello? = nil
    ) {
        self.key = Curve25519.KeyAgreement.PrivateKey()
        self.hello = DatagramHello(
            key: Array(self.key.publicKey.rawRepresentation),
            index: index,
            addresses: addresses,
            // The answer says what is used: AES where both prefer it.
            prefersAES: answering.map { $0.prefersAES && prefersAES } ?? prefersAES,
            answered: answering?.index
        )
    }

    /// The session that both hellos make.
    /// - Parameters:
    ///   - asked: the bytes of the opener's hello.
    ///   - answer: those of the acceptor's.
    ///   - remote: what the peer's of them says.
    public func session(
        _ role: Role,
        asked: ByteBuffer,
        answer: ByteBuffer,
        remote: DatagramHello
    ) throws(DatagramError) -> DatagramSession {
        var transcript = SHA256()
        transcript.update(data: Array(Self.name.utf8))
        for hello in [asked, answer] {
            withUnsafeBytes(of: UInt32(clamping: hello.readableBytes).bigEndian) {
                transcript.update(bufferPointer: $0)
            }
            hello.withUnsafeReadableBytes { transcript.update(bufferPointer: $0) }
        }
        let salt = Array(transcript.finalize())
        let secret: SharedSecret
        do {
            let peer = try Curve25519.KeyAgreement.PublicKey(rawRepresentation: remote.key)
            secret = try self.key.sharedSecretFromKeyAgreement(with: peer)
        } catch {
            throw DatagramError(.badKey)
        }
        // What a key of small order makes of every other one (RFC 7748 section 6.1).
        guard secret.withUnsafeBytes({ $0.contains { $0 != 0 } }) else { throw DatagramError(.badKey) }
        func key(_ sender: String) -> SymmetricKey {
            secret.hkdfDerivedSymmetricKey(
                using: SHA256.self,
                salt: salt,
                sharedInfo: Array(sender.utf8),
                outputByteCount: 32
            )
        }
        let (opener, acceptor) = (key("opener"), key("acceptor"))
        let usesAES = role == .opener ? remote.prefersAES : self.hello.prefersAES
        return DatagramSession(
            ownIndex: self.hello.index,
            peerIndex: remote.index,
            sealing: DatagramCipher(usesAES: usesAES, key: role == .opener ? opener : acceptor),
            opening: DatagramCipher(usesAES: usesAES, key: role == .opener ? acceptor : opener)
        )
    }
}
