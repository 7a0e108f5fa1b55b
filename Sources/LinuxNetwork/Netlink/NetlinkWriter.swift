/// Writes netlink messages one after the other into one growing buffer.
struct NetlinkWriter {
    private(set) var bytes: [UInt8] = []
    /// An attribute outgrew its 16-bit length: what was written is no message.
    private var isBroken = false
    private var messageStart = 0

    /// Flags of `nlmsghdr` (linux/netlink.h).
    struct Flags: OptionSet {
        var rawValue: UInt16
        static let request = Flags(rawValue: 0x1)
        static let ack = Flags(rawValue: 0x4)
        static let dump = Flags(rawValue: 0x300)
        static let replace = Flags(rawValue: 0x100)
        static let exclusive = Flags(rawValue: 0x200)
        static let create = Flags(rawValue: 0x400)
        static let append = Flags(rawValue: 0x800)
    }

    init(reserving capacity: Int = 256) {
        self.bytes.reserveCapacity(capacity)
    }

    /// What was written, if every attribute fits its length.
    func finished() throws(LinuxNetworkError) -> [UInt8] {
        guard !self.isBroken else {
            throw LinuxNetworkError(.tooLarge, "a netlink attribute of more than \(UInt16.max) bytes")
        }
        return self.bytes
    }

    /// The bytes of the message begun last, so far.
    var messageLength: Int { self.bytes.count - self.messageStart }

    mutating func begin(type: UInt16, flags: Flags, sequence: UInt32) {
        self.messageStart = self.bytes.count
        self.native(UInt32(0))
        self.native(type)
        self.native(flags.rawValue)
        self.native(sequence)
        self.native(UInt32(0))
    }

    /// Fills in the length of the message begun last.
    mutating func end() {
        self.patch(UInt32(truncatingIfNeeded: self.messageLength), at: self.messageStart)
    }

    /// Adds flags to the message begun last.
    mutating func addFlags(_ flags: Flags) {
        self.bytes[self.messageStart + 6] |= UInt8(truncatingIfNeeded: flags.rawValue)
        self.bytes[self.messageStart + 7] |= UInt8(truncatingIfNeeded: flags.rawValue >> 8)
    }

    mutating func native(_ value: some FixedWidthInteger) {
        withUnsafeBytes(of: value) { self.bytes.append(contentsOf: $0) }
    }

    /// Bytes as they are: a family's fixed header.
    mutating func bytes(_ value: [UInt8]) {
        self.bytes.append(contentsOf: value)
    }

    /// The header of nf_tables and ctnetlink messages: family, version 0, resource id in network order.
    mutating func netfilterHeader(family: UInt8, resource: UInt16 = 0) {
        self.bytes.append(family)
        self.bytes.append(0)
        self.native(resource.bigEndian)
    }

    mutating func attribute(_ type: UInt16, _ value: some Collection<UInt8>) {
        self.attributeHeader(type, length: value.count)
        self.bytes.append(contentsOf: value)
        self.pad()
    }

    /// A zero-terminated string.
    mutating func attribute(_ type: UInt16, text: String) {
        self.attributeHeader(type, length: text.utf8.count + 1)
        self.bytes.append(contentsOf: text.utf8)
        self.bytes.append(0)
        self.pad()
    }

    /// An integer in host order, as rtnetlink wants them.
    mutating func attribute(_ type: UInt16, native value: some FixedWidthInteger) {
        self.attributeHeader(type, length: value.bitWidth / 8)
        self.native(value)
        self.pad()
    }

    /// An integer in network order, as netfilter wants them.
    mutating func attribute(_ type: UInt16, network value: some FixedWidthInteger) {
        self.attribute(type, native: value.bigEndian)
    }

    mutating func nested(_ type: UInt16, _ body: (inout NetlinkWriter) -> Void) {
        let start = self.beginNested(type)
        body(&self)
        self.endNested(start)
    }

    mutating func beginNested(_ type: UInt16) -> Int {
        let start = self.bytes.count
        self.attributeHeader(type | 0x8000, length: 0)
        return start
    }

    mutating func endNested(_ start: Int) {
        self.patch(self.attributeLength(self.bytes.count - start), at: start)
    }

    private mutating func attributeHeader(_ type: UInt16, length: Int) {
        self.native(self.attributeLength(length + 4))
        self.native(type)
    }

    private mutating func attributeLength(_ length: Int) -> UInt16 {
        if length > UInt16.max { self.isBroken = true }
        return UInt16(truncatingIfNeeded: length)
    }

    private mutating func pad() {
        while self.bytes.count & 3 != 0 { self.bytes.append(0) }
    }

    private mutating func patch(_ value: some FixedWidthInteger, at offset: Int) {
        withUnsafeBytes(of: value) { source in
            for (index, byte) in source.enumerated() { self.bytes[offset + index] = byte }
        }
    }
}
