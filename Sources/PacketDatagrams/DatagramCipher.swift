import Crypto
import NIOCore

/// One direction of a session: a key, and a nonce of the datagram's counter behind four zeros.
struct DatagramCipher: Sendable {
    static let tagLength = 16

    let usesAES: Bool
    let key: SymmetricKey

    /// Appends ciphertext and tag.
    func seal(
        _ plaintext: UnsafeRawBufferPointer,
        counter: UInt64,
        authenticating header: UnsafeRawBufferPointer,
        into buffer: inout ByteBuffer
    ) throws {
        try Self.withNonce(counter) { nonce in
            // Behind the nonce of 12 bytes ciphertext and tag lie as they go on the wire.
            if self.usesAES {
                let box = try AES.GCM.seal(
                    plaintext,
                    using: self.key,
                    nonce: .init(data: nonce),
                    authenticating: header
                )
                guard let combined = box.combined else { throw DatagramError(.exhausted) }
                buffer.writeBytes(combined.dropFirst(12))
            } else {
                let box = try ChaChaPoly.seal(
                    plaintext,
                    using: self.key,
                    nonce: .init(data: nonce),
                    authenticating: header
                )
                buffer.writeBytes(box.combined.dropFirst(12))
            }
        }
    }

    /// Appends the plaintext of `sealed`, which is ciphertext and tag.
    func open(
        _ sealed: UnsafeRawBufferPointer,
        counter: UInt64,
        authenticating header: UnsafeRawBufferPointer,
        into buffer: inout ByteBuffer
    ) throws {
        let ciphertext = UnsafeRawBufferPointer(rebasing: sealed.dropLast(Self.tagLength))
        let tag = UnsafeRawBufferPointer(rebasing: sealed.suffix(Self.tagLength))
        try Self.withNonce(counter) { nonce in
            if self.usesAES {
                let box = try AES.GCM.SealedBox(nonce: .init(data: nonce), ciphertext: ciphertext, tag: tag)
                buffer.writeBytes(try AES.GCM.open(box, using: self.key, authenticating: header))
            } else {
                let box = try ChaChaPoly.SealedBox(nonce: .init(data: nonce), ciphertext: ciphertext, tag: tag)
                buffer.writeBytes(try ChaChaPoly.open(box, using: self.key, authenticating: header))
            }
        }
    }

    private static func withNonce(_ counter: UInt64, _ body: (UnsafeRawBufferPointer) throws -> Void) rethrows {
        let words = (
            UInt32(0), UInt32(truncatingIfNeeded: counter >> 32).bigEndian,
            UInt32(truncatingIfNeeded: counter).bigEndian
        )
        try withUnsafeBytes(of: words) { try body($0) }
    }
}
