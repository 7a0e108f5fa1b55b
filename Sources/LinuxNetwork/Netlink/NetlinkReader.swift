/// One message of a netlink datagram.
struct NetlinkMessage {
    static let noop: UInt16 = 1
    static let error: UInt16 = 2
    static let done: UInt16 = 3

    var type: UInt16
    var flags: UInt16
    var sequence: UInt32
    /// What follows the header, without padding.
    var payload: ArraySlice<UInt8>

    /// Splits a datagram into messages. Throws on a length that does not fit; never traps.
    static func parse(_ bytes: ArraySlice<UInt8>) throws(LinuxNetworkError) -> [NetlinkMessage] {
        var messages: [NetlinkMessage] = []
        var rest = bytes
        while rest.count >= 16 {
            let length = Int(rest.native(UInt32.self, at: 0))
            guard length >= 16, length <= rest.count else {
                throw LinuxNetworkError(.malformed, "netlink message of length \(length) in \(rest.count) bytes")
            }
            messages.append(
                NetlinkMessage(
                    type: rest.native(UInt16.self, at: 4),
                    flags: rest.native(UInt16.self, at: 6),
                    sequence: rest.native(UInt32.self, at: 8),
                    payload: rest.prefix(length).dropFirst(16)
                )
            )
            rest = rest.dropFirst((length + 3) & ~3)
        }
        return messages
    }

    /// The errno and the extended-acknowledgement text of an error message; errno 0 is an acknowledgement.
    func acknowledgement() throws(LinuxNetworkError) -> (errno: Int32, text: String?) {
        guard self.payload.count >= 20 else {
            throw LinuxNetworkError(.malformed, "netlink error message of \(self.payload.count) bytes")
        }
        let code = Int32(bitPattern: self.payload.native(UInt32.self, at: 0))
        // NLM_F_ACK_TLVS; the original request is only its header when NLM_F_CAPPED (0x100) is set.
        guard self.flags & 0x200 != 0 else { return (0 &- code, nil) }
        let echoed = Int(self.payload.native(UInt32.self, at: 4))
        let skipped = 4 + (self.flags & 0x100 != 0 ? 16 : (min(echoed, 1 << 24) + 3) & ~3)
        let text = try NetlinkAttributes(self.payload.dropFirst(skipped)).text(1)
        return (0 &- code, text)
    }
}

/// The attributes of a message or of a nested attribute, by type. Of repeated ones, `all` keeps every one in order.
struct NetlinkAttributes {
    private(set) var all: [(type: UInt16, value: ArraySlice<UInt8>)] = []

    init(_ bytes: ArraySlice<UInt8>) throws(LinuxNetworkError) {
        var rest = bytes
        while rest.count >= 4 {
            let length = Int(rest.native(UInt16.self, at: 0))
            guard length >= 4, length <= rest.count else {
                throw LinuxNetworkError(.malformed, "netlink attribute of length \(length) in \(rest.count) bytes")
            }
            // The two upper bits say "nested" and "network order".
            self.all.append((rest.native(UInt16.self, at: 2) & 0x3FFF, rest.prefix(length).dropFirst(4)))
            rest = rest.dropFirst((length + 3) & ~3)
        }
    }

    subscript(type: UInt16) -> ArraySlice<UInt8>? {
        self.all.first { $0.type == type }?.value
    }

    func nested(_ type: UInt16) throws(LinuxNetworkError) -> NetlinkAttributes? {
        guard let value = self[type] else { return nil }
        return try NetlinkAttributes(value)
    }

    /// The text before the first zero byte.
    func text(_ type: UInt16) -> String? {
        self[type].map { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    func network<Value: FixedWidthInteger>(_ type: UInt16, _: Value.Type) -> Value? {
        self.native(type, Value.self).map(Value.init(bigEndian:))
    }

    func native<Value: FixedWidthInteger>(_ type: UInt16, _: Value.Type) -> Value? {
        guard let value = self[type], value.count >= Value.bitWidth / 8 else { return nil }
        return value.native(Value.self, at: 0)
    }
}

extension ArraySlice<UInt8> {
    /// The host-order integer `offset` bytes after the start. The caller has checked that it is inside.
    func native<Value: FixedWidthInteger>(_: Value.Type, at offset: Int) -> Value {
        var value: Value = 0
        let start = self.startIndex + offset
        Swift.withUnsafeMutableBytes(of: &value) { $0.copyBytes(from: self[start..<start + Value.bitWidth / 8]) }
        return value
    }
}
