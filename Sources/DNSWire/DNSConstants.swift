/// A record or question type (RFC 1035 section 3.2.2 and the IANA registry).
public struct RecordType: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt16

    @inlinable
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    public static let a = RecordType(rawValue: 1)
    public static let ns = RecordType(rawValue: 2)
    public static let cname = RecordType(rawValue: 5)
    public static let soa = RecordType(rawValue: 6)
    public static let ptr = RecordType(rawValue: 12)
    public static let hinfo = RecordType(rawValue: 13)
    public static let mx = RecordType(rawValue: 15)
    public static let txt = RecordType(rawValue: 16)
    public static let aaaa = RecordType(rawValue: 28)
    public static let srv = RecordType(rawValue: 33)
    public static let opt = RecordType(rawValue: 41)
    public static let ixfr = RecordType(rawValue: 251)
    public static let axfr = RecordType(rawValue: 252)
    public static let any = RecordType(rawValue: 255)

    public var description: String {
        switch self {
        case .a: "A"
        case .ns: "NS"
        case .cname: "CNAME"
        case .soa: "SOA"
        case .ptr: "PTR"
        case .hinfo: "HINFO"
        case .mx: "MX"
        case .txt: "TXT"
        case .aaaa: "AAAA"
        case .srv: "SRV"
        case .opt: "OPT"
        case .ixfr: "IXFR"
        case .axfr: "AXFR"
        case .any: "ANY"
        default: "TYPE\(self.rawValue)"
        }
    }
}

/// A record or question class.
public struct RecordClass: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt16

    @inlinable
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    public static let internet = RecordClass(rawValue: 1)
    public static let chaos = RecordClass(rawValue: 3)
    /// QCLASS "any" (RFC 1035 section 3.2.5).
    public static let any = RecordClass(rawValue: 255)

    /// The top bit, which multicast DNS takes for itself: a question with it welcomes a unicast answer, a record with it
    /// replaces what is cached (RFC 6762 sections 5.4 and 10.2).
    public var hasTopBit: Bool { self.rawValue & 0x8000 != 0 }
    public var withTopBit: RecordClass { RecordClass(rawValue: self.rawValue | 0x8000) }
    public var withoutTopBit: RecordClass { RecordClass(rawValue: self.rawValue & 0x7FFF) }
}

/// A response code; values over 15 need EDNS (RFC 6891 section 6.1.3).
public struct ResponseCode: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt16

    @inlinable
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    public static let noError = ResponseCode(rawValue: 0)
    public static let formatError = ResponseCode(rawValue: 1)
    public static let serverFailure = ResponseCode(rawValue: 2)
    public static let nameError = ResponseCode(rawValue: 3)
    public static let notImplemented = ResponseCode(rawValue: 4)
    public static let refused = ResponseCode(rawValue: 5)
    public static let badVersion = ResponseCode(rawValue: 16)

    public var description: String {
        switch self {
        case .noError: "NOERROR"
        case .formatError: "FORMERR"
        case .serverFailure: "SERVFAIL"
        case .nameError: "NXDOMAIN"
        case .notImplemented: "NOTIMP"
        case .refused: "REFUSED"
        case .badVersion: "BADVERS"
        default: "RCODE\(self.rawValue)"
        }
    }
}

/// The second 16 bits of the header (RFC 1035 section 4.1.1, RFC 4035 for AD and CD).
public struct MessageFlags: RawRepresentable, OptionSet, Hashable, Sendable {
    public var rawValue: UInt16

    @inlinable
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    public static let response = MessageFlags(rawValue: 1 << 15)
    public static let authoritative = MessageFlags(rawValue: 1 << 10)
    public static let truncated = MessageFlags(rawValue: 1 << 9)
    public static let recursionDesired = MessageFlags(rawValue: 1 << 8)
    public static let recursionAvailable = MessageFlags(rawValue: 1 << 7)
    public static let authenticData = MessageFlags(rawValue: 1 << 5)
    public static let checkingDisabled = MessageFlags(rawValue: 1 << 4)

    /// Zero for a standard query.
    public var opcode: UInt8 {
        get { UInt8(truncatingIfNeeded: self.rawValue >> 11 & 0xF) }
        set { self.rawValue = self.rawValue & ~0x7800 | UInt16(newValue & 0xF) << 11 }
    }

    /// The four bits of the response code that the header holds.
    public var headerCode: UInt8 {
        get { UInt8(truncatingIfNeeded: self.rawValue & 0xF) }
        set { self.rawValue = self.rawValue & ~0xF | UInt16(newValue & 0xF) }
    }
}

/// Why an answer is as it is, for people (RFC 8914).
public enum ExtendedError: UInt16, Hashable, Sendable {
    case staleAnswer = 3
    case notReady = 14
    case staleNameError = 19
    case noReachableAuthority = 22

    var text: StaticString {
        switch self {
        case .staleAnswer, .staleNameError: "kept past its time: no upstream reachable"
        case .notReady: "no upstream configured"
        case .noReachableAuthority: "no upstream reachable"
        }
    }
}
