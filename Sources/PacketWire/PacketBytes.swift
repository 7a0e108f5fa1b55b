// Packets are read and changed where they lie. A bound that was not checked before ends the process instead of reading past the
// packet, also in release builds, where the standard library's own pointers check nothing.

extension UnsafeRawBufferPointer {
    /// The number in network order at `offset`.
    func network<Number: FixedWidthInteger & BitwiseCopyable>(_: Number.Type = Number.self, at offset: Int) -> Number {
        precondition(offset >= 0 && offset <= self.count - MemoryLayout<Number>.size)
        return Number(bigEndian: self.loadUnaligned(fromByteOffset: offset, as: Number.self))
    }
}

extension UnsafeMutableRawBufferPointer {
    func network<Number: FixedWidthInteger & BitwiseCopyable>(_: Number.Type = Number.self, at offset: Int) -> Number {
        UnsafeRawBufferPointer(self).network(at: offset)
    }

    /// Puts the number in network order at `offset`.
    func set<Number: FixedWidthInteger & BitwiseCopyable>(_ number: Number, at offset: Int) {
        precondition(offset >= 0 && offset <= self.count - MemoryLayout<Number>.size)
        self.storeBytes(of: number.bigEndian, toByteOffset: offset, as: Number.self)
    }

    /// Copies all of `bytes` to `offset`.
    func copy(_ bytes: UnsafeRawBufferPointer, to offset: Int = 0) {
        precondition(offset >= 0 && offset <= self.count - bytes.count)
        UnsafeMutableRawBufferPointer(rebasing: self[offset...]).copyMemory(from: bytes)
    }
}

extension UnsafeRawBufferPointer {
    /// The bytes of `range`, counted from zero.
    func part(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        precondition(range.lowerBound >= 0 && range.upperBound <= self.count)
        return UnsafeRawBufferPointer(rebasing: self[range])
    }
}
