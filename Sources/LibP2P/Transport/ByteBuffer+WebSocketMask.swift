import NIOCore

extension ByteBuffer {
    /// Appends `bytes`, masked or unmasked (RFC 6455 section 5.3), eight at a time; NIO's own masking takes one at a time.
    /// - Parameter key: as it lies in memory when read from the wire.
    mutating func writeMasked(_ bytes: ByteBuffer, key: UInt32) {
        let count = bytes.readableBytes
        self.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { output in
            bytes.withUnsafeReadableBytes { input in
                let wideKey = UInt64(key) << 32 | UInt64(key)
                for word in 0..<count / 8 {
                    let masked = input.loadUnaligned(fromByteOffset: word &* 8, as: UInt64.self) ^ wideKey
                    output.storeBytes(of: masked, toByteOffset: word &* 8, as: UInt64.self)
                }
                withUnsafeBytes(of: key) { key in
                    for index in count / 8 * 8..<count { output[index] = input[index] ^ key[index % 4] }
                }
            }
            return count
        }
    }
}
