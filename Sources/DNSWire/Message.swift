public import NIOCore

/// What is asked.
public struct Question: Hashable, Sendable {
    public var name: DomainName
    public var type: RecordType
    public var recordClass: RecordClass

    public init(_ name: DomainName, _ type: RecordType, _ recordClass: RecordClass = .internet) {
        self.name = name
        self.type = type
        self.recordClass = recordClass
    }
}

/// What the OPT pseudo-record says (RFC 6891).
public struct EDNS: Hashable, Sendable {
    public struct Option: Hashable, Sendable {
        public var code: UInt16
        public var data: [UInt8]

        public init(code: UInt16, data: [UInt8]) {
            self.code = code
            self.data = data
        }
    }

    /// The largest UDP message that the sender takes.
    public var payloadSize: UInt16
    public var version: UInt8 = 0
    /// The DO bit (RFC 3225).
    public var dnssecOK = false
    /// Options as they came; an unknown one is no error.
    public var options: [Option] = []

    public init(payloadSize: UInt16) {
        self.payloadSize = payloadSize
    }
}

/// A whole message. For upstream traffic and tests; the server's hot path reads `QueryHead` and writes `PreparedAnswer`.
public struct Message: Hashable, Sendable {
    public var id: UInt16
    /// Without the response code, which `responseCode` holds whole.
    public var flags: MessageFlags
    public var responseCode: ResponseCode = .noError
    public var questions: [Question] = []
    public var answers: [ResourceRecord] = []
    public var authorities: [ResourceRecord] = []
    public var additionals: [ResourceRecord] = []
    public var edns: EDNS?

    static let headerLength = 12

    public init(id: UInt16, flags: MessageFlags = [], questions: [Question] = []) {
        self.id = id
        self.flags = flags
        self.questions = questions
    }

    /// Reads the readable bytes of `buffer`; octets after the last record are ignored.
    public init(parsing buffer: ByteBuffer) throws(DNSWireError) {
        let result = buffer.withUnsafeReadableBytes { bytes in
            Result { () throws(DNSWireError) in try Message(parsing: bytes) }
        }
        self = try result.get()
    }

    /// Reads a message.
    public init(parsing bytes: UnsafeRawBufferPointer) throws(DNSWireError) {
        var reader = WireReader(bytes)
        self.id = try reader.readUInt16()
        var flags = MessageFlags(rawValue: try reader.readUInt16())
        var code = UInt16(flags.headerCode)
        flags.headerCode = 0
        self.flags = flags
        let counts = (
            try reader.readUInt16(), try reader.readUInt16(), try reader.readUInt16(), try reader.readUInt16()
        )
        for _ in 0..<counts.0 {
            let name = try reader.readName()
            let type = RecordType(rawValue: try reader.readUInt16())
            self.questions.append(Question(name, type, RecordClass(rawValue: try reader.readUInt16())))
        }
        self.answers = try Message.readSection(&reader, counts.1)
        self.authorities = try Message.readSection(&reader, counts.2)
        for _ in 0..<counts.3 {
            let start = reader.offset
            let name = try reader.readName()
            let type = RecordType(rawValue: try reader.readUInt16())
            let recordClass = RecordClass(rawValue: try reader.readUInt16())
            guard type == .opt else {
                self.additionals.append(try reader.readRecord(name: name, type: type, recordClass: recordClass))
                continue
            }
            // RFC 6891 section 6.1.2: the name must be 0, so not a pointer to one either.
            guard self.edns == nil, bytes[start] == 0 else {
                throw DNSWireError(.invalidEDNS, "a second OPT record, or one with a name")
            }
            let (edns, extendedCode) = try Message.readEDNS(&reader, payloadSize: recordClass.rawValue)
            self.edns = edns
            code |= UInt16(extendedCode) << 4
        }
        self.responseCode = ResponseCode(rawValue: code)
    }

    private static func readSection(
        _ reader: inout WireReader,
        _ count: UInt16
    ) throws(DNSWireError) -> [ResourceRecord] {
        var records: [ResourceRecord] = []
        for _ in 0..<count {
            let name = try reader.readName()
            let type = RecordType(rawValue: try reader.readUInt16())
            let recordClass = RecordClass(rawValue: try reader.readUInt16())
            guard type != .opt else { throw DNSWireError(.invalidEDNS, "an OPT record outside the additional section") }
            records.append(try reader.readRecord(name: name, type: type, recordClass: recordClass))
        }
        return records
    }

    private static func readEDNS(
        _ reader: inout WireReader,
        payloadSize: UInt16
    ) throws(DNSWireError) -> (EDNS, extendedCode: UInt8) {
        var edns = EDNS(payloadSize: payloadSize)
        let extendedCode = try reader.readUInt8()
        edns.version = try reader.readUInt8()
        edns.dnssecOK = try reader.readUInt16() & 0x8000 != 0
        var remaining = Int(try reader.readUInt16())
        while remaining > 0 {
            let code = try reader.readUInt16()
            let data = try reader.readBytes(Int(try reader.readUInt16()))
            remaining -= 4 + data.count
            edns.options.append(EDNS.Option(code: code, data: data))
        }
        guard remaining == 0 else { throw DNSWireError(.invalidEDNS, "an option is longer than its OPT record") }
        return (edns, extendedCode)
    }

    /// The message in wire form, at most `limit` octets: records that do not fit are left out, and TC is set if one of
    /// the answer or authority section is among them (RFC 2181 section 9).
    public func encoded(limit: Int = 65_535) -> ByteBuffer {
        var writer = MessageWriter()
        var flags = self.flags
        flags.headerCode = UInt8(truncatingIfNeeded: self.responseCode.rawValue & 0xF)
        writer.append(self.id)
        writer.append(flags.rawValue)
        writer.append([UInt8](repeating: 0, count: 8))
        for question in self.questions {
            writer.append(question.name, compress: true)
            writer.append(question.type.rawValue)
            writer.append(question.recordClass.rawValue)
        }
        let ednsLength = self.edns.map { 11 + $0.options.reduce(0) { $0 + 4 + $1.data.count } } ?? 0
        var counts = (answers: 0, authorities: 0, additionals: 0)
        counts.answers = self.answers.prefix { writer.append($0, limit: limit - ednsLength) }.count
        if counts.answers == self.answers.count {
            counts.authorities = self.authorities.prefix { writer.append($0, limit: limit - ednsLength) }.count
        }
        if counts.answers == self.answers.count, counts.authorities == self.authorities.count {
            counts.additionals = self.additionals.prefix { writer.append($0, limit: limit - ednsLength) }.count
        } else {
            flags.insert(.truncated)
        }
        if let edns = self.edns {
            writer.append(edns, responseCode: self.responseCode)
            counts.additionals += 1
        }
        writer.overwrite(flags.rawValue, at: 2)
        writer.overwrite(UInt16(truncatingIfNeeded: self.questions.count), at: 4)
        writer.overwrite(UInt16(truncatingIfNeeded: counts.answers), at: 6)
        writer.overwrite(UInt16(truncatingIfNeeded: counts.authorities), at: 8)
        writer.overwrite(UInt16(truncatingIfNeeded: counts.additionals), at: 10)
        return ByteBuffer(bytes: writer.bytes)
    }
}

extension MessageWriter {
    /// Appends the record, or nothing if the message would grow over `limit`.
    mutating func append(_ record: ResourceRecord, limit: Int) -> Bool {
        let start = self.offset
        self.append(record)
        guard self.offset <= limit else {
            self.truncate(to: start)
            return false
        }
        return true
    }

    fileprivate mutating func append(_ edns: EDNS, responseCode: ResponseCode) {
        self.append(UInt8(0))
        self.append(RecordType.opt.rawValue)
        self.append(edns.payloadSize)
        self.append(UInt8(truncatingIfNeeded: responseCode.rawValue >> 4))
        self.append(edns.version)
        self.append(UInt16(edns.dnssecOK ? 0x8000 : 0))
        self.append(UInt16(truncatingIfNeeded: edns.options.reduce(0) { $0 + 4 + $1.data.count }))
        for option in edns.options {
            self.append(option.code)
            self.append(UInt16(truncatingIfNeeded: option.data.count))
            self.append(option.data)
        }
    }
}
