import DNSWire
import NIOCore
import Testing

func readHead(_ buffer: ByteBuffer) -> (reading: QueryReading, name: [UInt8]) {
    var scratch = [UInt8](repeating: 0, count: 256)
    let reading = buffer.withUnsafeReadableBytes { bytes in
        scratch.withUnsafeMutableBytes { QueryHead.read(bytes, lowercasedName: $0) }
    }
    if case .query(let head) = reading { return (reading, Array(scratch[..<head.nameLength])) }
    return (reading, [])
}

@Suite struct QueryHeadTests {
    @Test func readsAQuestionWithEDNS() throws {
        var query = Message(id: 7, flags: .recursionDesired, questions: [Question(try DomainName("WeB.Default"), .srv)])
        query.edns = EDNS(payloadSize: 4096)
        query.edns?.dnssecOK = true
        query.edns?.options = [EDNS.Option(code: 65_001, data: [1])]
        let (reading, name) = readHead(query.encoded())
        guard case .query(let head) = reading else { throw DNSWireError(.truncated, "\(reading)") }
        #expect(head.id == 7)
        #expect(head.type == .srv)
        #expect(head.edns == QueryHead.EDNSHead(payloadSize: 4096, version: 0, dnssecOK: true))
        #expect(name == (try DomainName("web.default").wire))
    }

    static let question = "0161 00 0001 0001"

    static let refusals: [(String, ResponseCode?)] = [
        // Too short for a header; a response.
        ("", nil), ("0001 0000 0001 0000 0000 00", nil), ("0001 8000 0001 0000 0000 0000 \(question)", nil),
        // Opcodes STATUS, NOTIFY, UPDATE.
        ("0001 1000 0001 0000 0000 0000 \(question)", .notImplemented),
        ("0001 2000 0001 0000 0000 0000 \(question)", .notImplemented),
        ("0001 2800 0001 0000 0000 0000 \(question)", .notImplemented),
        // No question, two, one that is cut, one with a pointer, a bad label type.
        ("0001 0000 0000 0000 0000 0000", .formatError),
        ("0001 0000 0002 0000 0000 0000 \(question)\(question)", .formatError),
        ("0001 0000 0001 0000 0000 0000 0161 00 0001", .formatError),
        ("0001 0000 0001 0000 0000 0000 c00c 0001 0001", .formatError),
        ("0001 0000 0001 0000 0000 0000 4161 00 0001 0001", .formatError),
        // Records announced that are not there; two OPT records; OPT in the answer section; OPT with a name.
        ("0001 0000 0001 0000 0000 0001 \(question)", .formatError),
        ("0001 0000 0001 0000 0000 0002 \(question)000029020000000000 0000 000029020000000000 0000", .formatError),
        ("0001 0000 0001 0001 0000 0000 \(question)000029020000000000 0000", .formatError),
        ("0001 0000 0001 0000 0000 0001 \(question)016100 0029020000000000 0000", .formatError),
    ]

    @Test(arguments: QueryHeadTests.refusals)
    func refusesAndIgnores(text: String, code: ResponseCode?) {
        let reading = readHead(hex(text)).reading
        switch (reading, code) {
        case (.ignore, nil): break
        case (.refuse(_, _, let given), let wanted?): #expect(given == wanted)
        default: Issue.record("\(reading) instead of \(String(describing: code))")
        }
    }

    /// The parser judges more than the reader of queries, found by fuzzing: a CNAME without data beside the OPT record.
    @Test func dataThatNoAnswerDependsOnIsNotJudged() throws {
        let query = hex(
            "1234 0100 0001 0000 0000 0002 0161 00 0001 0001 c00c 0005 0001 0000001e 0000 00 0029 04d0 00008000 0000"
        )
        guard case .query(let head) = readHead(query).reading else { throw DNSWireError(.truncated, "refused") }
        #expect(head.edns == QueryHead.EDNSHead(payloadSize: 1232, version: 0, dnssecOK: true))
        #expect(throws: DNSWireError.self) { try Message(parsing: query) }
        // An OPT record's name is the root itself, not a pointer to a zero octet.
        let pointing = hex("1234 0100 0001 0000 0000 0001 0161 00 0001 0001 c00e 0029 04d0 00008000 0000")
        #expect(throws: DNSWireError.self) { try Message(parsing: pointing) }
        guard case .refuse(_, _, .formatError) = readHead(pointing).reading else {
            Issue.record("a pointer as the name of an OPT record")
            return
        }
    }

    @Test func refusesANameOver255Octets() {
        let labels = String(repeating: "3f" + String(repeating: "61", count: 63), count: 4)
        #expect(
            readHead(hex("0001 0000 0001 0000 0000 0000 " + labels + "00 0001 0001")).reading
                == .refuse(id: 1, flags: [], .formatError)
        )
    }
}
