import DNSWire
import MeshCore
import NIOCore
import Testing

/// Octets from hexadecimal text; blanks are ignored.
func hex(_ text: String) -> ByteBuffer {
    let digits = text.compactMap(\.hexDigitValue)
    return ByteBuffer(
        bytes: stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    )
}

@Suite struct MessageTests {
    /// The names of RFC 1035 section 4.1.4 at their offsets: F.ISI.ARPA at 20, FOO.F.ISI.ARPA at 40, ARPA at 64, root at 92.
    @Test func followsThePointersOfRFC1035() throws {
        var bytes = hex("0001 8180 0001 0003 0000 0000 016d 016d 00 0001 0001").readableBytesView.map(\.self)
        // The question "m.m." ends at 21; records follow whose owners are the names of the section.
        #expect(bytes.count == 21)
        let first = bytes.count
        bytes += hex("0146 03495349 0441525041 00 0001 0001 0000000a 0004 01020304").readableBytesView
        let second = bytes.count
        bytes += hex("03464f4f").readableBytesView + [0xC0, UInt8(first)]
        bytes += hex("0001 0001 0000000a 0004 05060708").readableBytesView
        bytes += [0xC0, UInt8(first + 6)] + hex("0005 0001 0000000a 0002").readableBytesView + [0xC0, UInt8(second)]
        let message = try Message(parsing: ByteBuffer(bytes: bytes))
        #expect(message.answers.map(\.name.description) == ["F.ISI.ARPA.", "FOO.F.ISI.ARPA.", "ARPA."])
        #expect(message.answers[2].data == .cname(try DomainName("foo.f.isi.arpa")))
    }

    /// A query as dig sends it: EDNS with payload 1232, DO and a client cookie (RFC 7873), which is no option of ours.
    @Test func readsEDNSWithUnknownOptions() throws {
        let message = try Message(
            parsing: hex(
                """
                bead 0120 0001 0000 0000 0001 076578616d706c6503636f6d00 001c 0001
                00 0029 04d0 00 00 8000 000c 000a 0008 0102030405060708
                """
            )
        )
        #expect(message.id == 0xBEAD)
        #expect(message.questions == [Question(try DomainName("example.com"), .aaaa)])
        #expect(message.edns?.payloadSize == 1232)
        #expect(message.edns?.dnssecOK == true)
        #expect(message.edns?.options == [EDNS.Option(code: 10, data: [1, 2, 3, 4, 5, 6, 7, 8])])
    }

    @Test func joinsTheExtendedResponseCode() throws {
        let message = try Message(parsing: hex("0001 8000 0000 0000 0000 0001 00 0029 0200 01 00 0000 0000"))
        #expect(message.responseCode == .badVersion)
        #expect(try Message(parsing: message.encoded()) == message)
    }

    @Test func roundTripsEveryType() throws {
        let message = try Fixtures.everyType()
        let encoded = message.encoded()
        #expect(try Message(parsing: encoded) == message)
    }

    @Test func compressesNames() throws {
        var message = Message(id: 1, flags: .response, questions: [Question(try DomainName("www.example.com"), .a)])
        for octet in 1...3 {
            let data = RecordData.a(IPv4Address(10, 0, 0, UInt8(octet)))
            message.answers.append(ResourceRecord(try DomainName("WWW.example.com"), ttl: 5, data))
        }
        #expect(message.encoded().readableBytes == 12 + 21 + 3 * 16)
    }

    @Test(arguments: 12...200)
    func truncatesBetweenRecords(limit: Int) throws {
        var message = Message(id: 1, flags: .response, questions: [Question(try DomainName("a.b"), .a)])
        message.answers = try (0..<10).map {
            ResourceRecord(try DomainName("a.b"), ttl: 5, .a(IPv4Address(10, 0, 0, $0)))
        }
        let smallest = 12 + 9
        let encoded = message.encoded(limit: limit)
        let parsed = try Message(parsing: encoded)
        #expect(parsed.answers.count == min(10, max(0, limit - smallest) / 16))
        #expect(parsed.flags.contains(.truncated) == (parsed.answers.count < 10))
        #expect(encoded.readableBytes <= max(limit, smallest))
    }

    @Test func leavesOutAdditionalRecordsWithoutTC() throws {
        var message = Message(id: 1, flags: .response, questions: [Question(try DomainName("a.b"), .a)])
        message.answers = [ResourceRecord(try DomainName("a.b"), ttl: 5, .a(.loopback))]
        message.additionals = [ResourceRecord(try DomainName("c.b"), ttl: 5, .a(.loopback))]
        let parsed = try Message(parsing: message.encoded(limit: 12 + 9 + 16))
        #expect(parsed.answers.count == 1)
        #expect(parsed.additionals.isEmpty)
        #expect(!parsed.flags.contains(.truncated))
    }

    static let header = "0001 0000 0001 0000 0000 0000 "

    static let broken: [(String, DNSWireError.Code)] = [
        ("", .truncated),
        ("0001 0000 0001", .truncated),
        (header, .truncated),
        ("\(header)0361", .truncated),
        ("\(header)0161 00 0001", .truncated),
        // A pointer to itself, to what follows, and two that point at each other.
        ("\(header)c00c 0001 0001", .invalidPointer),
        ("\(header)c020 0001 0001", .invalidPointer),
        ("\(header)0161 c00c 0001 0001", .invalidPointer),
        ("\(header)c0", .truncated),
        // Label types 01 and 10.
        ("\(header)4161 00 0001 0001", .invalidName),
        ("\(header)8161 00 0001 0001", .invalidName),
        // An A record of three octets, one of five, a TXT string over the end of its record.
        ("0001 8000 0000 0001 0000 0000 00 0001 0001 00000000 0003 010203", .truncated),
        ("0001 8000 0000 0001 0000 0000 00 0001 0001 00000000 0005 0102030405", .invalidRecord),
        ("0001 8000 0000 0001 0000 0000 00 0010 0001 00000000 0002 0561 62636465", .truncated),
        // Two OPT records, OPT with a name, OPT as an answer, an option longer than its record.
        ("0001 0000 0000 0000 0000 0002 00 0029 0200 00000000 0000 00 0029 0200 00000000 0000", .invalidEDNS),
        ("0001 0000 0000 0000 0000 0001 016100 0029 0200 00000000 0000", .invalidEDNS),
        ("0001 8000 0000 0001 0000 0000 00 0029 0200 00000000 0000", .invalidEDNS),
        ("0001 0000 0000 0000 0000 0001 00 0029 0200 00000000 0005 000a 0002 0102", .invalidEDNS),
    ]

    @Test(arguments: MessageTests.broken)
    func refusesBrokenMessages(text: String, code: DNSWireError.Code) {
        #expect { try Message(parsing: hex(text)) } throws: { ($0 as? DNSWireError)?.code == code }
    }

    @Test func refusesANameGrownBeyondTheLimitByPointers() throws {
        // 128 labels, each of one octet and then a pointer to the one before.
        var bytes = Array(hex("0001 8000 0000 0001 0000 0000").readableBytesView)
        bytes += [0] + [0, 16, 0, 1, 0, 0, 0, 0]
        let lengthOffset = bytes.count
        bytes += [0, 0]
        var previous = bytes.count
        bytes += [1, 0x61, 0]
        for _ in 0..<140 {
            let here = bytes.count
            bytes += [1, 0x61, 0xC0 | UInt8(previous >> 8), UInt8(previous & 0xFF)]
            previous = here
        }
        let length = bytes.count - lengthOffset - 2
        bytes[lengthOffset] = UInt8(length >> 8)
        bytes[lengthOffset + 1] = UInt8(length & 0xFF)
        bytes[7] = 2
        // The TXT record's strings are those labels as long as lengths fit; only the second owner name matters.
        bytes += [0xC0 | UInt8(previous >> 8), UInt8(previous & 0xFF)] + [0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4]
        bytes[14] = 99
        #expect { try Message(parsing: ByteBuffer(bytes: bytes)) } throws: {
            ($0 as? DNSWireError)?.code == .invalidName
        }
    }
}

enum Fixtures {
    static func everyType() throws -> Message {
        let name = try DomainName("Host.example.COM")
        let other = try DomainName("other.Example.com")
        var message = Message(id: 0x1234, flags: [.response, .authoritative, .recursionDesired])
        message.questions = [Question(name, .any)]
        message.answers = [
            ResourceRecord(name, ttl: 30, .a(IPv4Address(192, 0, 2, 1))),
            ResourceRecord(name, ttl: 31, .aaaa(IPv6Address(high: 0x2001_0db8_0000_0000, low: 1))),
            ResourceRecord(name, ttl: 32, .cname(other)),
            ResourceRecord(name, ttl: 33, .mx(preference: 10, exchange: other)),
            ResourceRecord(name, ttl: 34, .txt([Array("1.1.0".utf8), []])),
            ResourceRecord(name, ttl: 35, .srv(priority: 1, weight: 2, port: 3, target: other)),
            ResourceRecord(name, ttl: 36, .ptr(other)),
            ResourceRecord(name, ttl: 37, .opaque(RecordType(rawValue: 65_280), [1, 2, 3])),
        ]
        let soa = StartOfAuthority(
            primary: other,
            mailbox: try DomainName("hostmaster.example.com"),
            serial: 1,
            refresh: 2,
            retry: 3,
            expire: 4,
            minimum: 5
        )
        message.authorities = [ResourceRecord(name, ttl: 40, .soa(soa)), ResourceRecord(name, ttl: 41, .ns(other))]
        message.additionals = [ResourceRecord(other, ttl: 50, .a(.loopback))]
        message.edns = EDNS(payloadSize: 1232)
        return message
    }
}
