/// What a server needs of a query: header, one question, EDNS. Holds no memory of its own.
public struct QueryHead: Hashable, Sendable {
    public var id: UInt16
    public var flags: MessageFlags
    /// Length of the question's name in wire form.
    public var nameLength: Int
    public var type: RecordType
    public var recordClass: RecordClass
    public var edns: EDNSHead?

    /// EDNS without its options.
    public struct EDNSHead: Hashable, Sendable {
        public var payloadSize: UInt16
        public var version: UInt8
        public var dnssecOK: Bool

        public init(payloadSize: UInt16, version: UInt8, dnssecOK: Bool) {
            self.payloadSize = payloadSize
            self.version = version
            self.dnssecOK = dnssecOK
        }
    }

    /// Where the question begins in every message that has one.
    public static let questionOffset = 12

    /// Octets of the question: name, type, class.
    public var questionLength: Int { self.nameLength + 4 }
}

/// How a datagram or stream message is to be met.
public enum QueryReading: Hashable, Sendable {
    /// Well formed; the name is in the scratch buffer in lower case.
    case query(QueryHead)
    /// To be answered by a header alone with this code.
    case refuse(id: UInt16, flags: MessageFlags, ResponseCode)
    /// No query: too short for a header, or itself a response. Answering could start a loop.
    case ignore
}

extension QueryHead {
    /// Reads a query without allocating.
    ///
    /// FORMERR: not exactly one question, a name that is malformed or compressed, records that do not parse, two OPT
    /// records. NOTIMP: an opcode other than QUERY. An EDNS version over 0 is left to the caller, who has to answer
    /// BADVERS with an OPT record.
    /// - Parameter scratch: receives the name in lower case; at least 255 octets.
    public static func read(
        _ bytes: UnsafeRawBufferPointer,
        lowercasedName scratch: UnsafeMutableRawBufferPointer
    ) -> QueryReading {
        var reader = WireReader(bytes)
        guard bytes.count >= QueryHead.questionOffset, let id = try? reader.readUInt16(),
            let rawFlags = try? reader.readUInt16()
        else { return .ignore }
        let flags = MessageFlags(rawValue: rawFlags)
        guard !flags.contains(.response) else { return .ignore }
        guard flags.opcode == 0 else { return .refuse(id: id, flags: flags, .notImplemented) }
        guard let head = try? QueryHead(&reader, id: id, flags: flags, scratch: scratch) else {
            return .refuse(id: id, flags: flags, .formatError)
        }
        return .query(head)
    }

    private init(
        _ reader: inout WireReader,
        id: UInt16,
        flags: MessageFlags,
        scratch: UnsafeMutableRawBufferPointer
    ) throws(DNSWireError) {
        let questions = try reader.readUInt16()
        let others = Int(try reader.readUInt16()) + Int(try reader.readUInt16())
        let additionals = Int(try reader.readUInt16())
        guard questions == 1 else { throw DNSWireError(.truncated, "not one question") }
        self.id = id
        self.flags = flags
        self.nameLength = try QueryHead.readQuestionName(&reader, scratch: scratch)
        self.type = RecordType(rawValue: try reader.readUInt16())
        self.recordClass = RecordClass(rawValue: try reader.readUInt16())
        for index in 0..<(others + additionals) {
            let isRoot = reader.offset < reader.bytes.count && reader.bytes[reader.offset] == 0
            try reader.skipName()
            let type = RecordType(rawValue: try reader.readUInt16())
            let payloadSize = try reader.readUInt16()
            let extended = try reader.readUInt32()
            try reader.skip(Int(try reader.readUInt16()))
            guard type == .opt else { continue }
            guard self.edns == nil, index >= others, isRoot else { throw DNSWireError(.invalidEDNS, "misplaced OPT") }
            self.edns = EDNSHead(
                payloadSize: payloadSize,
                version: UInt8(truncatingIfNeeded: extended >> 16),
                dnssecOK: extended & 0x8000 != 0
            )
        }
    }

    /// Nothing stands before the first question that its name could point to, so pointers are refused here.
    private static func readQuestionName(
        _ reader: inout WireReader,
        scratch: UnsafeMutableRawBufferPointer
    ) throws(DNSWireError) -> Int {
        let start = reader.offset
        while true {
            let length = try reader.readUInt8()
            if length == 0 { break }
            guard length <= 63 else { throw DNSWireError(.invalidName, "label type in the question") }
            try reader.skip(Int(length))
        }
        let count = reader.offset - start
        guard count <= DomainName.maximumLength, count <= scratch.count else {
            throw DNSWireError(.invalidName, "question name longer than 255 octets")
        }
        for index in 0..<count { scratch[index] = lowercasedASCII(reader.bytes[start + index]) }
        return count
    }
}

extension DomainName {
    /// Copies the name that `QueryHead.read` left in the scratch buffer.
    public init(scratch: UnsafeRawBufferPointer, length: Int) {
        self.init(uncheckedWire: Array(scratch[..<length]))
    }
}
