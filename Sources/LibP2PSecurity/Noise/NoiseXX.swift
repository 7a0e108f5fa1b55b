import Crypto
import NIOCore

/// The hash and keys to which a handshake adds all that it sends and agrees on (Noise specification, 5.2).
struct NoiseSymmetricState {
    private var chainingKey: [UInt8]
    private(set) var hash: [UInt8]
    private var cipher: NoiseCipherState?

    init(protocolName: String) {
        // A name of up to 32 bytes is its own hash, filled with zeros.
        let name = Array(protocolName.utf8)
        precondition(name.count <= 32)
        self.hash = name + [UInt8](repeating: 0, count: 32 - name.count)
        self.chainingKey = self.hash
    }

    mutating func mix(_ data: [UInt8]) {
        self.hash = Array(SHA256.hash(data: self.hash + data))
    }

    mutating func mix(secret: SharedSecret) {
        let keys = self.derive(from: secret.withUnsafeBytes { SymmetricKey(data: $0) })
        self.chainingKey = keys.0.withUnsafeBytes { Array($0) }
        self.cipher = NoiseCipherState(key: keys.1)
    }

    mutating func encrypt(_ plaintext: [UInt8]) throws(LibP2PSecurityError) -> [UInt8] {
        var output = ByteBuffer()
        if self.cipher == nil {
            output.writeBytes(plaintext)
        } else {
            try self.cipher?.seal(ByteBuffer(bytes: plaintext), authenticating: self.hash, into: &output)
        }
        let bytes = Array(output.readableBytesView)
        self.mix(bytes)
        return bytes
    }

    mutating func decrypt(_ bytes: [UInt8]) throws(LibP2PSecurityError) -> [UInt8] {
        var output = ByteBuffer()
        if self.cipher == nil {
            output.writeBytes(bytes)
        } else {
            try self.cipher?.open(ByteBuffer(bytes: bytes), authenticating: self.hash, into: &output)
        }
        self.mix(bytes)
        return Array(output.readableBytesView)
    }

    /// The ciphers of the two directions: from the initiator, and to it.
    func split() -> (NoiseCipherState, NoiseCipherState) {
        let keys = self.derive(from: SymmetricKey(data: [UInt8]()))
        return (NoiseCipherState(key: keys.0), NoiseCipherState(key: keys.1))
    }

    /// Noise's HKDF with two outputs is that of RFC 5869 without an info.
    private func derive(from secret: SymmetricKey) -> (SymmetricKey, SymmetricKey) {
        let bytes = HKDF<SHA256>.deriveKey(inputKeyMaterial: secret, salt: self.chainingKey, outputByteCount: 64)
            .withUnsafeBytes { Array($0) }
        return (SymmetricKey(data: bytes[..<32]), SymmetricKey(data: bytes[32...]))
    }
}

/// The handshake Noise_XX_25519_ChaChaPoly_SHA256 (Noise specification, 7.5), message by message:
///
///     -> e
///     <- e, ee, s, es
///     -> s, se
///
/// Calls out of turn are errors of the caller, not of the peer.
struct NoiseXX {
    static let protocolName = "Noise_XX_25519_ChaChaPoly_SHA256"
    private static let keyLength = 32
    private static let sealedKeyLength = 32 + NoiseCipherState.tagLength

    private let role: ConnectionRole
    private let staticKey: Curve25519.KeyAgreement.PrivateKey
    private let ephemeralKey: Curve25519.KeyAgreement.PrivateKey
    private var symmetric = NoiseSymmetricState(protocolName: NoiseXX.protocolName)
    private var remoteEphemeral: Curve25519.KeyAgreement.PublicKey?
    private(set) var remoteStatic: Curve25519.KeyAgreement.PublicKey?
    /// The message that comes next: 0, 1 or 2; 3 when all are done.
    private(set) var next = 0

    init(
        role: ConnectionRole,
        staticKey: Curve25519.KeyAgreement.PrivateKey,
        ephemeralKey: Curve25519.KeyAgreement.PrivateKey = .init(),
        prologue: [UInt8] = []
    ) {
        self.role = role
        self.staticKey = staticKey
        self.ephemeralKey = ephemeralKey
        self.symmetric.mix(prologue)
    }

    /// The hash of all that was said.
    var handshakeHash: [UInt8] { self.symmetric.hash }

    private var isOurs: Bool { self.next.isMultiple(of: 2) == (self.role == .initiator) }

    mutating func write(_ payload: [UInt8]) throws(LibP2PSecurityError) -> [UInt8] {
        precondition(self.next < 3 && self.isOurs)
        var message: [UInt8] = []
        if self.next < 2 {
            let key = Array(self.ephemeralKey.publicKey.rawRepresentation)
            self.symmetric.mix(key)
            message += key
        }
        if self.next == 1 { try self.mix(self.ephemeralKey, self.remoteEphemeral) }
        if self.next > 0 {
            message += try self.symmetric.encrypt(Array(self.staticKey.publicKey.rawRepresentation))
            try self.mix(self.staticKey, self.remoteEphemeral)
        }
        message += try self.symmetric.encrypt(payload)
        self.next += 1
        return message
    }

    /// - Returns: the payload.
    /// - Throws: `malformed` or `handshakeFailed`; the handshake is over then.
    mutating func read(_ message: [UInt8]) throws(LibP2PSecurityError) -> [UInt8] {
        precondition(self.next < 3 && !self.isOurs)
        var rest = message[...]
        if self.next < 2 {
            let key = try Self.take(Self.keyLength, from: &rest)
            self.remoteEphemeral = try Self.publicKey(key)
            self.symmetric.mix(key)
        }
        if self.next == 1 { try self.mix(self.ephemeralKey, self.remoteEphemeral) }
        if self.next > 0 {
            let sealed = try Self.take(Self.sealedKeyLength, from: &rest)
            self.remoteStatic = try Self.publicKey(self.symmetric.decrypt(sealed))
            try self.mix(self.ephemeralKey, self.remoteStatic)
        }
        let payload = try self.symmetric.decrypt(Array(rest))
        self.next += 1
        return payload
    }

    /// The ciphers for sending and for receiving, after the last message.
    func split() -> (send: NoiseCipherState, receive: NoiseCipherState) {
        precondition(self.next == 3)
        let (fromInitiator, toInitiator) = self.symmetric.split()
        return self.role == .initiator ? (fromInitiator, toInitiator) : (toInitiator, fromInitiator)
    }

    private mutating func mix(
        _ own: Curve25519.KeyAgreement.PrivateKey,
        _ remote: Curve25519.KeyAgreement.PublicKey?
    ) throws(LibP2PSecurityError) {
        do {
            guard let remote else { preconditionFailure("the pattern has the other side's key before it is used") }
            let secret = try own.sharedSecretFromKeyAgreement(with: remote)
            // Points of small order give zero, whatever our key is: a secret that everyone knows (RFC 7748, 6.1).
            guard secret.withUnsafeBytes({ $0.reduce(0, |) }) != 0 else { throw CryptoKitError.incorrectParameterSize }
            self.symmetric.mix(secret: secret)
        } catch {
            throw LibP2PSecurityError(
                code: .handshakeFailed,
                message: "no key agreement with the peer's key",
                cause: error
            )
        }
    }

    private static func take(_ count: Int, from rest: inout ArraySlice<UInt8>) throws(LibP2PSecurityError) -> [UInt8] {
        guard rest.count >= count else {
            throw LibP2PSecurityError(
                code: .malformed,
                message: "a Noise handshake message that is too short for its keys"
            )
        }
        defer { rest = rest.dropFirst(count) }
        return Array(rest.prefix(count))
    }

    private static func publicKey(_ bytes: [UInt8]) throws(LibP2PSecurityError) -> Curve25519.KeyAgreement.PublicKey {
        do {
            return try Curve25519.KeyAgreement.PublicKey(rawRepresentation: bytes)
        } catch {
            throw LibP2PSecurityError(code: .malformed, message: "a Noise key that is no key of X25519", cause: error)
        }
    }
}
