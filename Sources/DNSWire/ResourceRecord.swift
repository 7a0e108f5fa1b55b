public import MeshCore

/// The data of a record, decoded for the types that the mesh works with.
public enum RecordData: Hashable, Sendable {
    case a(IPv4Address)
    case aaaa(IPv6Address)
    case cname(DomainName)
    case ns(DomainName)
    case ptr(DomainName)
    case soa(StartOfAuthority)
    case mx(preference: UInt16, exchange: DomainName)
    case txt([[UInt8]])
    case srv(priority: UInt16, weight: UInt16, port: UInt16, target: DomainName)
    /// Any other type: its number and bytes as they came (RFC 3597).
    case opaque(RecordType, [UInt8])

    public var type: RecordType {
        switch self {
        case .a: .a
        case .aaaa: .aaaa
        case .cname: .cname
        case .ns: .ns
        case .ptr: .ptr
        case .soa: .soa
        case .mx: .mx
        case .txt: .txt
        case .srv: .srv
        case .opaque(let type, _): type
        }
    }
}

/// The data of an SOA record (RFC 1035 section 3.3.13). Times are in seconds.
public struct StartOfAuthority: Hashable, Sendable {
    public var primary: DomainName
    public var mailbox: DomainName
    public var serial: UInt32
    public var refresh: UInt32
    public var retry: UInt32
    public var expire: UInt32
    /// How long a negative answer may be kept (RFC 2308 section 4).
    public var minimum: UInt32

    public init(
        primary: DomainName,
        mailbox: DomainName,
        serial: UInt32,
        refresh: UInt32,
        retry: UInt32,
        expire: UInt32,
        minimum: UInt32
    ) {
        self.primary = primary
        self.mailbox = mailbox
        self.serial = serial
        self.refresh = refresh
        self.retry = retry
        self.expire = expire
        self.minimum = minimum
    }
}

/// One resource record.
public struct ResourceRecord: Hashable, Sendable {
    public var name: DomainName
    public var recordClass: RecordClass
    /// Seconds.
    public var ttl: UInt32
    public var data: RecordData

    public var type: RecordType { self.data.type }

    public init(_ name: DomainName, ttl: UInt32, _ data: RecordData, recordClass: RecordClass = .internet) {
        self.name = name
        self.recordClass = recordClass
        self.ttl = ttl
        self.data = data
    }
}

extension WireReader {
    /// Reads a record whose type is not OPT.
    mutating func readRecord(
        name: DomainName,
        type: RecordType,
        recordClass: RecordClass
    ) throws(DNSWireError) -> ResourceRecord {
        // A TTL with the top bit set counts as zero (RFC 2181 section 8).
        let ttl = try self.readUInt32()
        let length = Int(try self.readUInt16())
        let end = self.offset + length
        guard end <= self.bytes.count else { throw DNSWireError(.truncated, "\(type) data at \(self.offset)") }
        var reader = WireReader(UnsafeRawBufferPointer(rebasing: self.bytes[..<end]), offset: self.offset)
        let data = try reader.readData(type: type, isInternet: recordClass.withoutTopBit == .internet, end: end)
        guard reader.offset == end else {
            throw DNSWireError(.invalidRecord, "\(type) data of \(length) octets has \(end - reader.offset) too many")
        }
        self.offset = end
        return ResourceRecord(name, ttl: ttl > 0x7FFF_FFFF ? 0 : ttl, data, recordClass: recordClass)
    }

    private mutating func readData(
        type: RecordType,
        isInternet: Bool,
        end: Int
    ) throws(DNSWireError) -> RecordData {
        guard isInternet else { return .opaque(type, try self.readBytes(end - self.offset)) }
        switch type {
        case .a: return .a(IPv4Address(rawValue: try self.readUInt32()))
        case .aaaa: return .aaaa(IPv6Address(high: try self.readUInt64(), low: try self.readUInt64()))
        case .cname: return .cname(try self.readName())
        case .ns: return .ns(try self.readName())
        case .ptr: return .ptr(try self.readName())
        case .mx: return .mx(preference: try self.readUInt16(), exchange: try self.readName())
        case .txt:
            var strings: [[UInt8]] = []
            while self.offset < end { strings.append(try self.readBytes(Int(try self.readUInt8()))) }
            return .txt(strings)
        case .srv:
            return .srv(
                priority: try self.readUInt16(),
                weight: try self.readUInt16(),
                port: try self.readUInt16(),
                target: try self.readName()
            )
        case .soa:
            return .soa(
                StartOfAuthority(
                    primary: try self.readName(),
                    mailbox: try self.readName(),
                    serial: try self.readUInt32(),
                    refresh: try self.readUInt32(),
                    retry: try self.readUInt32(),
                    expire: try self.readUInt32(),
                    minimum: try self.readUInt32()
                )
            )
        default:
            return .opaque(type, try self.readBytes(end - self.offset))
        }
    }
}

extension MessageWriter {
    mutating func append(_ record: ResourceRecord) {
        self.append(record.name, compress: true)
        self.append(record.type.rawValue)
        self.append(record.recordClass.rawValue)
        self.append(record.ttl)
        let lengthOffset = self.offset
        self.append(UInt16(0))
        self.append(record.data)
        self.overwrite(UInt16(truncatingIfNeeded: self.offset - lengthOffset - 2), at: lengthOffset)
    }

    private mutating func append(_ data: RecordData) {
        switch data {
        case .a(let address): self.append(address.rawValue)
        case .aaaa(let address):
            self.append(address.high)
            self.append(address.low)
        case .cname(let name), .ns(let name), .ptr(let name): self.append(name, compress: true)
        case .mx(let preference, let exchange):
            self.append(preference)
            self.append(exchange, compress: true)
        case .txt(let strings):
            for string in strings {
                self.append(UInt8(truncatingIfNeeded: min(string.count, 255)))
                self.append(Array(string.prefix(255)))
            }
        case .srv(let priority, let weight, let port, let target):
            self.append(priority)
            self.append(weight)
            self.append(port)
            // RFC 2782: the target is not compressed.
            self.append(target, compress: false)
        case .soa(let soa):
            self.append(soa.primary, compress: true)
            self.append(soa.mailbox, compress: true)
            for value in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] { self.append(value) }
        case .opaque(_, let bytes): self.append(bytes)
        }
    }
}
