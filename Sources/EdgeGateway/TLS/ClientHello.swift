/// What the gateway must know of a TLS connection before it is anybody's: the name that the client asks for.
///
/// Read from the first bytes (RFC 8446 section 4.1.2, RFC 6066 section 3), which stay as they are. Bounded, without recursion;
/// what is no ClientHello is refused.
struct ClientHello: Sendable, Hashable {
    /// In lower case without a final dot; nil if the client names none.
    var serverName: String?
    var applicationProtocols: [String]

    /// The longest that is waited for: a ClientHello with large key shares has some 2 KiB.
    static let maximumBytes = 32 * 1024

    /// Nil if more bytes are needed.
    static func parse(_ bytes: some Collection<UInt8>) throws(GatewayError) -> ClientHello? {
        guard let handshake = try self.handshake(bytes) else { return nil }
        return try self.hello(handshake)
    }

    private static func refused(_ what: String) -> GatewayError { GatewayError(.clientHello, what) }

    /// The ClientHello's body, put together from the records that carry it.
    private static func handshake(_ bytes: some Collection<UInt8>) throws(GatewayError) -> [UInt8]? {
        var records = Reader(Array(bytes.prefix(self.maximumBytes)))
        let isAll = bytes.count < self.maximumBytes
        var message: [UInt8] = []
        while true {
            if message.count >= 4 {
                guard message[0] == 1 else { throw self.refused("the first TLS message is no ClientHello") }
                let length = Int(message[1]) << 16 | Int(message[2]) << 8 | Int(message[3])
                guard length <= self.maximumBytes else { throw self.refused("the ClientHello is too long") }
                if message.count >= 4 + length { return Array(message[4..<(4 + length)]) }
            }
            if let type = records.peek, type != 22 { throw self.refused("the first bytes are no TLS") }
            guard let header = records.take(5) else { break }
            guard header[1] == 3, header[2] <= 4 else { throw self.refused("the first bytes are no TLS") }
            let length = Int(header[3]) << 8 | Int(header[4])
            guard (1...16_384).contains(length) else { throw self.refused("a TLS record of a forbidden length") }
            guard let fragment = records.take(length) else { break }
            message += fragment
        }
        guard isAll else { throw self.refused("the ClientHello is too long") }
        return nil
    }

    private static func hello(_ body: [UInt8]) throws(GatewayError) -> ClientHello {
        var reader = Reader(body)
        var hello = ClientHello(serverName: nil, applicationProtocols: [])
        let broken = self.refused("the ClientHello is broken")
        // legacy_version, random, legacy_session_id, cipher_suites, legacy_compression_methods
        guard reader.take(34) != nil, reader.vector(1) != nil, reader.vector(2) != nil, reader.vector(1) != nil else {
            throw broken
        }
        // TLS 1.2 allows a hello without extensions.
        guard !reader.isEmpty else { return hello }
        guard let block = reader.vector(2), reader.isEmpty else { throw broken }
        var extensions = Reader(block)
        var seen: Set<Int> = []
        while !extensions.isEmpty {
            guard let type = extensions.number(2), let data = extensions.vector(2) else { throw broken }
            guard seen.insert(type).inserted else { throw self.refused("the ClientHello has an extension twice") }
            switch type {
            case 0:
                guard let name = try self.serverName(data) else { throw broken }
                hello.serverName = name
            case 16:
                guard let protocols = self.applicationProtocols(data) else { throw broken }
                hello.applicationProtocols = protocols
            default: break
            }
        }
        return hello
    }

    /// One name of type `host_name`.
    private static func serverName(_ data: [UInt8]) throws(GatewayError) -> String? {
        var outer = Reader(data)
        guard let list = outer.vector(2), outer.isEmpty else { return nil }
        var names = Reader(list)
        guard names.number(1) == 0, var name = names.vector(2), names.isEmpty else { return nil }
        if name.last == UInt8(ascii: ".") { name.removeLast() }
        guard (1...253).contains(name.count), !name.contains(UInt8(ascii: ":")) else { return nil }
        let text = ASCII.lowercased(name)
        guard ASCII.isAuthority(text) else { throw self.refused("the ClientHello asks for what is no name") }
        return text
    }

    private static func applicationProtocols(_ data: [UInt8]) -> [String]? {
        var outer = Reader(data)
        guard let list = outer.vector(2), outer.isEmpty else { return nil }
        var reader = Reader(list)
        var protocols: [String] = []
        while !reader.isEmpty {
            guard let name = reader.vector(1), !name.isEmpty else { return nil }
            protocols.append(String(decoding: name, as: UTF8.self))
        }
        return protocols
    }

    /// Takes pieces from the front; nil where there are not enough bytes.
    private struct Reader {
        private let bytes: [UInt8]
        private var index = 0

        init(_ bytes: [UInt8]) { self.bytes = bytes }

        var isEmpty: Bool { self.index == self.bytes.count }
        var peek: UInt8? { self.isEmpty ? nil : self.bytes[self.index] }

        mutating func take(_ count: Int) -> [UInt8]? {
            guard count <= self.bytes.count - self.index else { return nil }
            defer { self.index += count }
            return Array(self.bytes[self.index..<(self.index + count)])
        }

        mutating func number(_ width: Int) -> Int? { self.take(width)?.reduce(0) { $0 << 8 | Int($1) } }

        /// Bytes behind their count, which has `width` bytes.
        mutating func vector(_ width: Int) -> [UInt8]? { self.number(width).flatMap { self.take($0) } }
    }
}
