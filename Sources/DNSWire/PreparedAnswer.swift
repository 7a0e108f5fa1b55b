public import NIOCore

/// The answer to one question in wire form, ready to be copied behind the question of any query for it.
///
/// Names are compressed against the question, which always stands at offset 12 and always has the same length, so the
/// bytes serve every query whatever the case of its name. Writing a reply is two copies and the patching of TTLs.
public final class PreparedAnswer: Sendable {
    /// One record in `body`.
    private struct Record: Sendable {
        var ttlOffset: UInt16
        var end: UInt16
    }

    public let responseCode: ResponseCode
    /// AA and AD as they are to be sent; other bits are the server's.
    public let flags: MessageFlags
    public let answerCount: Int
    private let authorityCount: Int
    private let body: [UInt8]
    private let records: [Record]
    /// Addresses of one name at the same size, which may be sent in any order.
    private let rotation: (start: Int, size: Int, count: Int)?

    /// - Parameter question: the name that every query for this answer has, in any case.
    public init(
        question: DomainName,
        responseCode: ResponseCode = .noError,
        flags: MessageFlags = [],
        answers: [ResourceRecord] = [],
        authorities: [ResourceRecord] = [],
        additionals: [ResourceRecord] = []
    ) {
        var writer = MessageWriter(base: QueryHead.questionOffset + question.wire.count + 4)
        writer.register(question, at: QueryHead.questionOffset)
        let base = writer.offset
        var records: [Record] = []
        func write(_ section: [ResourceRecord]) -> Int {
            var written = 0
            for record in section {
                let start = writer.offset
                // Room is kept for an OPT record, so that what is written here always fits a TCP reply.
                guard writer.append(record, limit: 65_535 - PreparedAnswer.maximumOPTLength) else { break }
                let nameLength = PreparedAnswer.encodedNameLength(writer.bytes[(start - base)...])
                records.append(
                    Record(ttlOffset: UInt16(start - base + nameLength + 4), end: UInt16(writer.bytes.count))
                )
                written += 1
            }
            return written
        }
        self.responseCode = responseCode
        self.flags = flags
        self.answerCount = write(answers)
        self.authorityCount = self.answerCount == answers.count ? write(authorities) : 0
        if self.authorityCount == authorities.count { _ = write(additionals) }
        self.body = writer.bytes
        self.records = records
        self.rotation = PreparedAnswer.rotation(records, types: answers.prefix(self.answerCount).map(\.type))
    }

    private static let maximumOPTLength = 11 + 4 + 2 + 64

    private static func encodedNameLength(_ bytes: ArraySlice<UInt8>) -> Int {
        var offset = bytes.startIndex
        while offset < bytes.endIndex, bytes[offset] != 0, bytes[offset] < 0xC0 { offset += 1 + Int(bytes[offset]) }
        return offset - bytes.startIndex + (offset < bytes.endIndex && bytes[offset] >= 0xC0 ? 2 : 1)
    }

    /// The last run of address records, if each has a compressed owner name (so that no pointer leads into the run).
    private static func rotation(
        _ records: [Record],
        types: [RecordType]
    ) -> (start: Int, size: Int, count: Int)? {
        guard let type = types.last, type == .a || type == .aaaa else { return nil }
        let size = type == .a ? 16 : 28
        var first = types.count
        while first > 0, types[first - 1] == type {
            let start = first > 1 ? Int(records[first - 2].end) : 0
            guard Int(records[first - 1].end) - start == size else { break }
            first -= 1
        }
        let count = types.count - first
        return count > 1 ? (first > 0 ? Int(records[first - 1].end) : 0, size, count) : nil
    }

    /// How TTLs are written.
    public enum TimeToLive: Sendable {
        /// As prepared.
        case asPrepared
        /// At most `cap` seconds when prepared, and `age` seconds have passed since.
        case aged(age: UInt32, cap: UInt32)
        /// The same for all records.
        case fixed(UInt32)

        func applied(to ttl: UInt32) -> UInt32 {
            switch self {
            case .asPrepared: return ttl
            case .fixed(let seconds): return seconds
            case .aged(let age, let cap):
                let capped = min(ttl, cap)
                return capped > age ? capped - age : 0
            }
        }
    }

    /// The parts of a reply that depend on the query and the server.
    public struct ReplyOptions: Sendable {
        /// The most octets of the reply.
        public var limit: Int
        public var timeToLive: TimeToLive = .asPrepared
        /// Which of several addresses comes first.
        public var rotation = 0
        public var recursionAvailable = false
        /// The UDP payload size to announce.
        public var payloadSize: UInt16 = 1232
        public var extendedError: ExtendedError?

        public init(limit: Int) {
            self.limit = limit
        }
    }

    /// Appends the reply to `query`. If records do not fit, those that do are sent, and TC is set unless only additional
    /// records are missing.
    /// - Parameter question: the question's bytes as the client sent them.
    public func writeReply(
        to query: QueryHead,
        question: UnsafeRawBufferPointer,
        options: ReplyOptions,
        into buffer: inout ByteBuffer
    ) {
        let optLength = query.edns == nil ? 0 : 11 + (options.extendedError.map { 6 + $0.text.utf8CodeUnitCount } ?? 0)
        let prefixLength = QueryHead.questionOffset + question.count
        var bodyLength = self.body.count
        var recordCount = self.records.count
        while prefixLength + bodyLength + optLength > options.limit, recordCount > 0 {
            recordCount -= 1
            bodyLength = recordCount > 0 ? Int(self.records[recordCount - 1].end) : 0
        }
        let answers = min(recordCount, self.answerCount)
        let authorities = min(recordCount - answers, self.authorityCount)
        let additionals = recordCount - answers - authorities
        var flags = query.replyFlags(self.responseCode)
        flags.formUnion(self.flags)
        // RFC 6840 section 5.7: AD is for those who asked for it.
        if query.edns?.dnssecOK != true, !query.flags.contains(.authenticData) { flags.remove(.authenticData) }
        if answers < self.answerCount || authorities < self.authorityCount { flags.insert(.truncated) }
        if options.recursionAvailable { flags.insert(.recursionAvailable) }
        let total = prefixLength + bodyLength + optLength
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: total) { target in
            func store(_ value: Int, at offset: Int) {
                target.storeBytes(
                    of: UInt16(truncatingIfNeeded: value).bigEndian,
                    toByteOffset: offset,
                    as: UInt16.self
                )
            }
            store(Int(query.id), at: 0)
            store(Int(flags.rawValue), at: 2)
            store(1, at: 4)
            store(answers, at: 6)
            store(authorities, at: 8)
            store(additionals + (optLength > 0 ? 1 : 0), at: 10)
            UnsafeMutableRawBufferPointer(rebasing: target[QueryHead.questionOffset...]).copyMemory(from: question)
            self.copyBody(
                into: UnsafeMutableRawBufferPointer(rebasing: target[prefixLength..<(prefixLength + bodyLength)]),
                recordCount: recordCount,
                options: options
            )
            if let edns = query.edns {
                PreparedAnswer.writeOPT(
                    into: UnsafeMutableRawBufferPointer(rebasing: target[(total - optLength)..<total]),
                    code: self.responseCode,
                    dnssecOK: edns.dnssecOK,
                    options: options
                )
            }
            return total
        }
    }

    private func copyBody(into target: UnsafeMutableRawBufferPointer, recordCount: Int, options: ReplyOptions) {
        self.body.withUnsafeBytes { source in
            guard let rotation = self.rotation, target.count >= rotation.start + rotation.size else {
                target.copyMemory(from: UnsafeRawBufferPointer(rebasing: source[..<target.count]))
                return
            }
            // If the reply is cut inside the run, the run is shorter, but any of its records may be among those sent.
            let sent = min(rotation.count, (target.count - rotation.start) / rotation.size)
            let runEnd = rotation.start + sent * rotation.size
            let shift = options.rotation % rotation.count
            func copy(_ range: Range<Int>, to offset: Int) {
                guard !range.isEmpty else { return }
                UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: source[range])
                )
            }
            copy(0..<rotation.start, to: 0)
            let head = min(sent, rotation.count - shift)
            let first = rotation.start + shift * rotation.size
            copy(first..<(first + head * rotation.size), to: rotation.start)
            copy(
                rotation.start..<(rotation.start + (sent - head) * rotation.size),
                to: rotation.start + head * rotation.size
            )
            copy(
                (rotation.start + rotation.count * rotation.size)..<max(
                    target.count,
                    rotation.start + rotation.count * rotation.size
                ),
                to: runEnd
            )
        }
        if case .asPrepared = options.timeToLive { return }
        for record in self.records.prefix(recordCount) {
            let offset = Int(record.ttlOffset)
            let ttl = UInt32(bigEndian: target.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
            target.storeBytes(
                of: options.timeToLive.applied(to: ttl).bigEndian,
                toByteOffset: offset,
                as: UInt32.self
            )
        }
    }

    private static func writeOPT(
        into target: UnsafeMutableRawBufferPointer,
        code: ResponseCode,
        dnssecOK: Bool,
        options: ReplyOptions
    ) {
        target[0] = 0
        target.storeBytes(of: RecordType.opt.rawValue.bigEndian, toByteOffset: 1, as: UInt16.self)
        target.storeBytes(of: options.payloadSize.bigEndian, toByteOffset: 3, as: UInt16.self)
        target[5] = UInt8(truncatingIfNeeded: code.rawValue >> 4)
        target[6] = 0
        target.storeBytes(of: UInt16(dnssecOK ? 0x8000 : 0).bigEndian, toByteOffset: 7, as: UInt16.self)
        target.storeBytes(of: UInt16(target.count - 11).bigEndian, toByteOffset: 9, as: UInt16.self)
        guard let error = options.extendedError else { return }
        target.storeBytes(of: UInt16(15).bigEndian, toByteOffset: 11, as: UInt16.self)
        target.storeBytes(of: UInt16(target.count - 15).bigEndian, toByteOffset: 13, as: UInt16.self)
        target.storeBytes(of: error.rawValue.bigEndian, toByteOffset: 15, as: UInt16.self)
        error.text.withUTF8Buffer {
            UnsafeMutableRawBufferPointer(rebasing: target[17...]).copyMemory(from: UnsafeRawBufferPointer($0))
        }
    }
}

extension QueryHead {
    /// The flags of any reply: QR, the opcode, RD and CD as asked, the code.
    func replyFlags(_ code: ResponseCode) -> MessageFlags {
        var flags = self.flags.intersection([.recursionDesired, .checkingDisabled])
        flags.insert(.response)
        flags.headerCode = UInt8(truncatingIfNeeded: code.rawValue & 0xF)
        return flags
    }
}

extension ByteBuffer {
    /// Appends a reply that is a header alone, for messages whose question cannot be repeated.
    public mutating func writeDNSHeaderReply(id: UInt16, flags query: MessageFlags, code: ResponseCode) {
        var flags = query.intersection(.recursionDesired)
        flags.insert(.response)
        flags.opcode = query.opcode
        flags.headerCode = UInt8(truncatingIfNeeded: code.rawValue & 0xF)
        self.writeMultipleIntegers(id, flags.rawValue, UInt64(0))
    }

    /// Appends a reply to the query in `query` that says only that the client should come back over TCP; nothing if the
    /// bytes are no query.
    public mutating func writeDNSTruncatedReply(to query: UnsafeRawBufferPointer) {
        withUnsafeTemporaryAllocation(byteCount: DomainName.maximumLength, alignment: 1) { scratch in
            guard case .query(let head) = QueryHead.read(query, lowercasedName: scratch) else { return }
            var flags = head.replyFlags(.noError)
            flags.insert(.truncated)
            self.writeMultipleIntegers(head.id, flags.rawValue, UInt16(1), UInt16(0), UInt32(0))
            self.writeBytes(query[QueryHead.questionOffset..<(QueryHead.questionOffset + head.questionLength)])
        }
    }
}
