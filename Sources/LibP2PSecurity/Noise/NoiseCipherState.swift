import Crypto
import NIOCore

/// One direction of the transport: a key and a counter (Noise specification, 5.1, with ChaChaPoly).
struct NoiseCipherState {
    static let tagLength = 16

    private let key: SymmetricKey
    /// The nonce of the next message. The last one is reserved.
    private var counter: UInt64

    /// - Parameter counter: where a test begins.
    init(key: SymmetricKey, counter: UInt64 = 0) {
        self.key = key
        self.counter = counter
    }

    /// Appends the ciphertext of `plaintext` and its tag to `output`.
    /// - Throws: `exhausted` after 2^64 - 1 messages.
    mutating func seal(
        _ plaintext: ByteBuffer,
        authenticating data: [UInt8] = [],
        into output: inout ByteBuffer
    ) throws(LibP2PSecurityError) {
        let nonce = try self.nextNonce()
        do {
            let box = try plaintext.withUnsafeReadableBytes {
                try ChaChaPoly.seal($0, using: self.key, nonce: nonce, authenticating: data)
            }
            // Behind the nonce of 12 bytes ciphertext and tag lie as they go on the wire.
            output.writeBytes(box.combined.dropFirst(12))
        } catch {
            throw LibP2PSecurityError(code: .handshakeFailed, message: "a message could not be encrypted", cause: error)
        }
    }

    /// Appends the plaintext of `message`, which is ciphertext and tag, to `output`.
    /// - Throws: `malformed` if the tag does not prove it; `exhausted` after 2^64 - 1 messages.
    mutating func open(
        _ message: ByteBuffer,
        authenticating data: [UInt8] = [],
        into output: inout ByteBuffer
    ) throws(LibP2PSecurityError) {
        guard message.readableBytes >= Self.tagLength else {
            throw LibP2PSecurityError(
                code: .malformed,
                message: "a Noise message of \(message.readableBytes) bytes has no room for its tag"
            )
        }
        let nonce = try self.nextNonce()
        do {
            let plaintext = try message.withUnsafeReadableBytes { bytes in
                let box = try ChaChaPoly.SealedBox(
                    nonce: nonce,
                    ciphertext: UnsafeRawBufferPointer(rebasing: bytes.dropLast(Self.tagLength)),
                    tag: UnsafeRawBufferPointer(rebasing: bytes.suffix(Self.tagLength))
                )
                return try ChaChaPoly.open(box, using: self.key, authenticating: data)
            }
            output.writeBytes(plaintext)
        } catch {
            throw LibP2PSecurityError(
                code: .malformed,
                message:
                    "a Noise message that does not decrypt: it was changed on the way, or comes from another session",
                cause: error
            )
        }
    }

    private mutating func nextNonce() throws(LibP2PSecurityError) -> ChaChaPoly.Nonce {
        guard self.counter < .max else {
            throw LibP2PSecurityError(code: .exhausted, message: "all nonces of a Noise session are used; connect anew")
        }
        // 32 bits of zeros, then the counter, least significant byte first.
        let words = (
            UInt32(0), UInt32(truncatingIfNeeded: self.counter).littleEndian,
            UInt32(truncatingIfNeeded: self.counter >> 32).littleEndian
        )
        self.counter += 1
        do {
            return try withUnsafeBytes(of: words) { try ChaChaPoly.Nonce(data: $0) }
        } catch {
            throw LibP2PSecurityError(code: .handshakeFailed, message: "no nonce could be made", cause: error)
        }
    }
}
