import CSalsa20
import NIOCore

/// An XSalsa20 keystream and the position in it. A class, because the state is large and has one owner.
final class XSalsa20 {
    static let nonceLength = 24

    private var stream = csalsa20_stream()

    /// - Parameters:
    ///   - key: 32 bytes.
    ///   - nonce: 24 bytes.
    init(key: [UInt8], nonce: [UInt8]) {
        precondition(key.count == 32 && nonce.count == Self.nonceLength)
        csalsa20_xsalsa20_init(&self.stream, key, nonce)
    }

    /// Writes what is readable of `input`, encrypted or decrypted, to `output`.
    ///
    /// From one buffer into another: those of NIO are shared with its pool of receive buffers or with the writer, so that
    /// working in place would copy first and then pass over the bytes again.
    func apply(to input: ByteBuffer, into output: inout ByteBuffer) {
        let count = input.readableBytes
        output.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { target in
            input.withUnsafeReadableBytes { source in
                if let target = target.baseAddress, let source = source.baseAddress {
                    csalsa20_xor(
                        &self.stream,
                        target.assumingMemoryBound(to: UInt8.self),
                        source.assumingMemoryBound(to: UInt8.self),
                        count
                    )
                }
            }
            return count
        }
    }
}
