import Crypto
public import MeshCore
public import NIOCore

/// Who agrees on keys, as the stream between them has proven it: the bytes of their peer IDs.
public struct DatagramParties: Sendable, Hashable {
    public var opener: [UInt8]
    public var acceptor: [UInt8]

    public init(opener: [UInt8], acceptor: [UInt8]) {
        self.opener = opener
        self.acceptor = acceptor
    }
}

/// One side of an agreement on keys: an X25519 pair, used once, and what is told of it. Both hellos go by a stream that proves who sent
/// them, so the exchange need not; the keys are of these two peers alone, so that nobody can pass a hello on as its own.
public struct DatagramExchange: Sendable {
    public enum Role: Sendable, Hashable {
        /// Asks for the keys: whoever has opened the channel of packets.
        case opener
        case acceptor
    }

    static let name = "edgemesh packet-datagrams 1"
    private static let keyLength = 32

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
        self.init(key: .init(), index: index, addresses: addresses, prefersAES: prefersAES, answering: answering)
    }

    /// - Parameter key: one that was never used before.
    init(
        key: Curve25519.KeyAgreement.PrivateKey,
        index: UInt32,
        addresses: [TransportAddress],
        prefersAES: Bool,
        answering: DatagramHello? = nil
    ) {
        self.key = key
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
    ///   - parties: this side and the other.
    ///   - asked: the bytes of the opener's hello.
    ///   - answer: those of the acceptor's.
    ///   - remote: what the peer's of them says.
    public func session(
        _ role: Role,
        of parties: DatagramParties,
        asked: ByteBuffer,
        answer: ByteBuffer,
        remote: DatagramHello
    ) throws(DatagramError) -> DatagramSession {
        var transcript = SHA256()
        transcript.update(data: Array(Self.name.utf8))
        let said = [ByteBuffer(bytes: parties.opener), ByteBuffer(bytes: parties.acceptor), asked, answer]
        for part in said {
            withUnsafeBytes(of: UInt32(clamping: part.readableBytes).bigEndian) {
                transcript.update(bufferPointer: $0)
            }
            part.withUnsafeReadableBytes { transcript.update(bufferPointer: $0) }
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
                outputByteCount: Self.keyLength
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
