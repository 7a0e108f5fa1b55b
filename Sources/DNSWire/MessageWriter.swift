/// Appends fields of a message and compresses names against those already written.
struct MessageWriter {
    private(set) var bytes: [UInt8] = []
    /// Where in the message `bytes` begins.
    private let base: Int
    /// Offsets of name suffixes in the message, by their lower-cased wire form.
    private var suffixes: [ArraySlice<UInt8>: UInt16] = [:]

    /// The offset in the message of the next octet.
    var offset: Int { self.base + self.bytes.count }

    init(base: Int = 0) {
        self.base = base
    }

    /// Makes known a name that stands before `base`.
    mutating func register(_ name: DomainName, at offset: Int) {
        let key = name.lowercased.wire
        var start = 0
        while start < key.count, key[start] != 0 {
            guard offset + start < 0x4000 else { return }
            let suffix = key[start...]
            if self.suffixes[suffix] == nil { self.suffixes[suffix] = UInt16(offset + start) }
            start += 1 + Int(key[start])
        }
    }

    mutating func append(_ value: UInt8) { self.bytes.append(value) }
    mutating func append(_ value: [UInt8]) { self.bytes.append(contentsOf: value) }

    mutating func append(_ value: UInt16) {
        withUnsafeBytes(of: value.bigEndian) { self.bytes.append(contentsOf: $0) }
    }

    mutating func append(_ value: UInt32) {
        withUnsafeBytes(of: value.bigEndian) { self.bytes.append(contentsOf: $0) }
    }

    mutating func append(_ value: UInt64) {
        withUnsafeBytes(of: value.bigEndian) { self.bytes.append(contentsOf: $0) }
    }

    mutating func append(_ name: DomainName, compress: Bool) {
        let here = self.offset
        guard compress else {
            self.bytes.append(contentsOf: name.wire)
            return
        }
        let key = name.lowercased.wire
        var start = 0
        while key[start] != 0 {
            if let pointer = self.suffixes[key[start...]] {
                self.bytes.append(contentsOf: name.wire[..<start])
                self.append(UInt16(0xC000) | pointer)
                self.register(name, at: here)
                return
            }
            start += 1 + Int(key[start])
        }
        self.bytes.append(contentsOf: name.wire)
        self.register(name, at: here)
    }

    mutating func overwrite(_ value: UInt16, at offset: Int) {
        self.bytes[offset - self.base] = UInt8(truncatingIfNeeded: value >> 8)
        self.bytes[offset - self.base + 1] = UInt8(truncatingIfNeeded: value)
    }

    /// Takes back everything from `offset` on. Names written there must not be used again, so this ends compression.
    mutating func truncate(to offset: Int) {
        self.bytes.removeLast(self.offset - offset)
        self.suffixes = self.suffixes.filter { Int($0.value) < offset }
    }
}
