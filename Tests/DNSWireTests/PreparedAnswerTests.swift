import DNSWire
import MeshCore
import NIOCore
import Testing

@Suite struct PreparedAnswerTests {
    private func reply(
        _ answer: PreparedAnswer,
        to query: Message,
        _ adjust: (inout PreparedAnswer.ReplyOptions) -> Void = { _ in }
    ) throws -> (message: Message, bytes: ByteBuffer) {
        let encoded = query.encoded()
        guard case .query(let head) = readHead(encoded).reading else { throw DNSWireError(.truncated, "no query") }
        var options = PreparedAnswer.ReplyOptions(limit: 65_535)
        adjust(&options)
        var buffer = ByteBuffer()
        encoded.withUnsafeReadableBytes { bytes in
            let question = UnsafeRawBufferPointer(rebasing: bytes[12..<(12 + head.questionLength)])
            answer.writeReply(to: head, question: question, options: options, into: &buffer)
        }
        return (try Message(parsing: buffer), buffer)
    }

    private func addresses(_ count: Int) throws -> PreparedAnswer {
        let name = try DomainName("web.default")
        let records = (0..<count).map {
            ResourceRecord(name, ttl: 30, .a(IPv4Address(10, 0, UInt8($0 / 256), UInt8($0 % 256))))
        }
        return PreparedAnswer(question: name, flags: .authoritative, answers: records)
    }

    @Test func repeatsTheQuestionAsItWasAsked() throws {
        var query = Message(id: 77, flags: .recursionDesired, questions: [Question(try DomainName("wEb.DEFAULT"), .a)])
        query.edns = EDNS(payloadSize: 4096)
        let (message, bytes) = try self.reply(try self.addresses(1), to: query) { $0.recursionAvailable = true }
        #expect(message.id == 77)
        #expect(message.flags == [.response, .authoritative, .recursionDesired, .recursionAvailable])
        #expect(message.questions[0].name.description == "wEb.DEFAULT.")
        #expect(message.answers[0].name.description == "wEb.DEFAULT.")
        #expect(message.edns?.payloadSize == 1232)
        #expect(bytes.readableBytes == 12 + 17 + 16 + 11)
    }

    @Test func saysTheSameAsTheMessageItWasMadeFrom() throws {
        var message = try Fixtures.everyType()
        let answer = PreparedAnswer(
            question: message.questions[0].name,
            flags: .authoritative,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals
        )
        var query = Message(id: message.id, flags: .recursionDesired, questions: message.questions)
        query.edns = message.edns
        message.flags = [.response, .authoritative, .recursionDesired]
        #expect(try self.reply(answer, to: query).message == message)
    }

    @Test func rotatesAddresses() throws {
        let query = Message(id: 1, questions: [Question(try DomainName("web.default"), .a)])
        let answer = try self.addresses(3)
        let plain = try self.reply(answer, to: query).message.answers
        for shift in 0..<7 {
            let rotated = try self.reply(answer, to: query) { $0.rotation = shift }.message.answers
            #expect(rotated == Array(plain[(shift % 3)...] + plain[..<(shift % 3)]))
        }
    }

    @Test func rotatesBehindAnAliasOnly() throws {
        let name = try DomainName("alias.default")
        let target = try DomainName("target.example")
        let answer = PreparedAnswer(
            question: name,
            answers: [ResourceRecord(name, ttl: 5, .cname(target))]
                + (1...2).map { ResourceRecord(target, ttl: 5, .a(IPv4Address(10, 0, 0, $0))) },
            additionals: [ResourceRecord(target, ttl: 5, .aaaa(.loopback))]
        )
        let query = Message(id: 1, questions: [Question(name, .a)])
        let message = try self.reply(answer, to: query) { $0.rotation = 1 }.message
        #expect(message.answers.map(\.type) == [.cname, .a, .a])
        #expect(message.answers[1].data == .a(IPv4Address(10, 0, 0, 2)))
        #expect(message.answers[2].data == .a(IPv4Address(10, 0, 0, 1)))
        #expect(message.additionals.count == 1)
    }

    @Test(arguments: [0, 5, 17])
    func cutsAtTheLimitOfEveryRotation(shift: Int) throws {
        let query = Message(id: 1, questions: [Question(try DomainName("web.default"), .a)])
        let answer = try self.addresses(100)
        let (message, bytes) = try self.reply(answer, to: query) {
            $0.limit = 512
            $0.rotation = shift
        }
        #expect(message.flags.contains(.truncated))
        #expect(message.answers.count == (512 - 12 - 17) / 16)
        #expect(bytes.readableBytes <= 512)
        #expect(message.answers[0].data == .a(IPv4Address(10, 0, 0, UInt8(shift))))
        #expect(Set(message.answers).count == message.answers.count)
    }

    @Test func keepsRoomForTheOPTRecord() throws {
        var query = Message(id: 1, questions: [Question(try DomainName("web.default"), .a)])
        query.edns = EDNS(payloadSize: 512)
        let (message, bytes) = try self.reply(try self.addresses(100), to: query) { $0.limit = 512 }
        #expect(message.edns != nil)
        #expect(bytes.readableBytes <= 512)
        #expect(message.answers.count == (512 - 12 - 17 - 11) / 16)
    }

    @Test func agesTTLs() throws {
        let name = try DomainName("a.b")
        let answer = PreparedAnswer(
            question: name,
            answers: [ResourceRecord(name, ttl: 300, .txt([[1]])), ResourceRecord(name, ttl: 20, .txt([[2]]))]
        )
        let query = Message(id: 1, questions: [Question(name, .txt)])
        func ttls(_ rule: PreparedAnswer.TimeToLive) throws -> [UInt32] {
            try self.reply(answer, to: query) { $0.timeToLive = rule }.message.answers.map(\.ttl)
        }
        #expect(try ttls(.asPrepared) == [300, 20])
        #expect(try ttls(.aged(age: 5, cap: 100)) == [95, 15])
        #expect(try ttls(.aged(age: 25, cap: 100)) == [75, 0])
        #expect(try ttls(.fixed(30)) == [30, 30])
    }

    @Test func tellsTheExtendedError() throws {
        let answer = PreparedAnswer(question: .root, responseCode: .serverFailure)
        var query = Message(id: 1, questions: [Question(try DomainName("a.b"), .a)])
        query.edns = EDNS(payloadSize: 1232)
        let message = try self.reply(answer, to: query) { $0.extendedError = .noReachableAuthority }.message
        #expect(message.responseCode == .serverFailure)
        #expect(message.edns?.options.first?.code == 15)
        #expect(message.edns?.options.first?.data.prefix(2) == [0, 22])
    }

    @Test func fitsTCPWhateverItIsMadeFrom() throws {
        let answer = try self.addresses(6000)
        let query = Message(id: 1, questions: [Question(try DomainName("web.default"), .a)])
        let (message, bytes) = try self.reply(answer, to: query)
        #expect(bytes.readableBytes <= 65_535)
        #expect(message.answers.count > 4000)
    }
}
