import DNSWire
import MeshCore
import Multiformats
import NIOCore
import Testing

@testable import LibP2PDiscovery

@Suite struct MDNSMachineTests {
    let configuration = MDNSConfiguration(serviceName: "EDGEMESH_PLAYGOUND")
    let source = TransportAddress(.v4(IPv4Address(10, 0, 0, 9)), 5353)

    private func interface(_ host: UInt8) -> MulticastInterface {
        MulticastInterface(
            name: "eth0",
            index: 2,
            addresses: [.v4(IPv4Address(10, 0, 0, host)), .v6(IPv6Address(high: 0xFE80 << 48, low: UInt64(host)))]
        )
    }

    private func link(_ number: UInt8, configuration: MDNSConfiguration? = nil) throws -> MDNSLink {
        let configuration = configuration ?? self.configuration
        return MDNSLink(
            interface: self.interface(number),
            peer: try peer(number),
            names: try MDNSNames(serviceName: configuration.serviceName),
            configuration: configuration,
            generator: HostGenerator(number: seededNumbers(UInt64(number))),
            now: seconds(0)
        )
    }

    private func announced(_ number: UInt8) throws -> [Multiaddr] {
        [
            try Multiaddr("/ip4/10.0.0.\(number)/tcp/20006"), try Multiaddr("/ip4/172.17.0.1/tcp/20006"),
            try Multiaddr("/ip4/10.0.0.\(number)/tcp/20006/p2p/\(peer(99))/p2p-circuit"),
        ]
    }

    /// Runs the link until `end` and gives what it sends, with the time.
    private func run(_ link: inout MDNSLink, until end: NIODeadline) -> [(NIODeadline, MDNSOutput)] {
        var sent: [(NIODeadline, MDNSOutput)] = []
        while link.deadline <= end {
            let now = link.deadline
            for output in link.advance(now: now) { sent.append((now, output)) }
        }
        return sent
    }

    /// A link that is past its announcements.
    private func runningLink(_ number: UInt8) throws -> MDNSLink {
        var link = try self.link(number)
        _ = link.update(self.interface(number), advertised: try self.announced(number), now: seconds(0))
        _ = self.run(&link, until: seconds(30))
        return link
    }

    private func messages(_ outputs: [(NIODeadline, MDNSOutput)]) -> [Message] {
        outputs.compactMap { if case .multicast(let message) = $0.1 { message } else { nil } }
    }

    private func query(_ questions: Question..., known: [ResourceRecord] = [], truncated: Bool = false) -> Message {
        var message = Message(id: 0, flags: truncated ? .truncated : [], questions: questions)
        message.answers = known
        return message
    }

    private var pointerQuestion: Question {
        get throws { Question(try DomainName("EDGEMESH_PLAYGOUND.local"), .ptr) }
    }

    // MARK: Announcing

    @Test func probesThriceThenAnnouncesTwice() throws {
        var link = try self.link(1)
        #expect(link.update(self.interface(1), advertised: try self.announced(1), now: seconds(0)).isEmpty)
        let sent = self.run(&link, until: seconds(5))
        let probes = sent.filter {
            if case .multicast(let message) = $0.1 { !message.authorities.isEmpty } else { false }
        }
        try #require(probes.count == 3)
        #expect(probes[0].0 <= seconds(0.25))
        #expect(probes[1].0 - probes[0].0 == .milliseconds(250))
        let announcements = sent.filter {
            if case .multicast(let message) = $0.1 { message.flags.contains(.response) } else { false }
        }
        try #require(announcements.count == 2)
        #expect(announcements[0].0 - probes[2].0 == .milliseconds(250))
        #expect(announcements[1].0 - announcements[0].0 == .seconds(1))
        guard case .multicast(let message) = announcements[0].1 else { return }
        // Through the wire, as others see it.
        let read = try Message(parsing: message.encoded(limit: MulticastDNS.maximumSent))
        let texts = read.answers.compactMap { if case .txt(let strings) = $0.data { strings } else { nil } }
        #expect(
            texts.first?.map { String(decoding: $0, as: UTF8.self) }
                == ["dnsaddr=/ip4/10.0.0.1/tcp/20006/p2p/\(try peer(1))"],
            "the container's address and the circuit are not told"
        )
        #expect(read.answers.contains { $0.data == .a(IPv4Address(10, 0, 0, 1)) && $0.recordClass.hasTopBit })
        #expect(read.answers.contains { $0.type == .srv && $0.ttl == 3200 })
        #expect(read.answers.contains { $0.type == .ptr && !$0.recordClass.hasTopBit })
    }

    @Test func nothingIsAnnouncedWithoutAddresses() throws {
        var link = try self.link(1)
        _ = link.update(self.interface(1), advertised: [try Multiaddr("/ip4/127.0.0.1/tcp/1")], now: seconds(0))
        let sent = self.messages(self.run(&link, until: seconds(10)))
        #expect(!sent.isEmpty)
        #expect(sent.allSatisfy { !$0.flags.contains(.response) && $0.authorities.isEmpty })
    }

    @Test func newAddressesAreAnnouncedBehindAGoodbye() throws {
        var link = try self.runningLink(1)
        let moved = [try Multiaddr("/ip4/10.0.0.1/tcp/20007")]
        let goodbye = link.update(self.interface(1), advertised: moved, now: seconds(31))
        guard case .multicast(let message)? = goodbye.first else {
            Issue.record("no goodbye")
            return
        }
        #expect(message.answers.allSatisfy { $0.ttl == 0 })
        let announced = self.messages(self.run(&link, until: seconds(31.5)))
        #expect(announced.contains { $0.encoded().getString(at: 0, length: 0) != nil && $0.flags.contains(.response) })
        #expect(link.update(self.interface(1), advertised: moved, now: seconds(32)).isEmpty)
    }

    @Test func aConflictMakesItTakeAnotherName() throws {
        var link = try self.runningLink(1)
        let name = try #require(link.responder?.records.instance)
        var message = Message(id: 0, flags: [.response])
        message.answers = [ResourceRecord(name, ttl: 100, .txt([Array("other".utf8)]))]
        _ = link.received(message, from: self.source, now: seconds(31))
        #expect(link.responder?.records.instance != name)
        #expect(link.responder?.phase == .probing(0))
        // Its own packet, which the kernel gives back, is none.
        let mine = TransportAddress(.v4(IPv4Address(10, 0, 0, 1)), 5353)
        let renamed = try #require(link.responder?.records.instance)
        message.answers = [ResourceRecord(renamed, ttl: 100, .txt([Array("other".utf8)]))]
        _ = link.received(message, from: mine, now: seconds(32))
        #expect(link.responder?.records.instance == renamed)
    }

    // MARK: Answering

    @Test func answersWhoBrowsesWithAllThatTheyAskNext() throws {
        var link = try self.runningLink(1)
        let now = seconds(40)
        #expect(link.received(self.query(try self.pointerQuestion), from: self.source, now: now).outputs.isEmpty)
        let answers = self.run(&link, until: seconds(40.2)).filter {
            if case .multicast(let message) = $0.1 { message.flags.contains(.response) } else { false }
        }
        try #require(answers.count == 1)
        #expect(answers[0].0 >= now + .milliseconds(20) && answers[0].0 <= now + .milliseconds(120))
        let message = self.messages(answers)[0]
        #expect(message.answers.map(\.type) == [.ptr])
        #expect(Set(message.additionals.map(\.type)) == [.srv, .txt, .a, .nsec])
    }

    @Test func aRecordIsNotMulticastTwiceInASecond() throws {
        var link = try self.runningLink(1)
        for step in 0..<20 {
            let other = TransportAddress(.v4(IPv4Address(10, 0, 0, UInt8(20 + step))), 5353)
            let now = seconds(40 + Double(step) * 0.05)
            _ = self.run(&link, until: now)
            _ = link.received(self.query(try self.pointerQuestion), from: other, now: now)
        }
        let answers = self.run(&link, until: seconds(45)).filter {
            if case .multicast(let message) = $0.1 { message.flags.contains(.response) } else { false }
        }
        for (first, second) in zip(answers, answers.dropFirst()) { #expect(second.0 - first.0 >= .seconds(1)) }
        #expect(answers.count <= 3)
    }

    @Test(arguments: [(3200, false), (1600, false), (1599, true)])
    func knownAnswersAreSpared(ttl: UInt32, isAnswered: Bool) throws {
        var link = try self.runningLink(1)
        let records = try #require(link.responder?.records)
        let known = [ResourceRecord(records.names.service, ttl: ttl, .ptr(records.instance))]
        _ = link.received(self.query(try self.pointerQuestion, known: known), from: self.source, now: seconds(40))
        let answers = self.messages(self.run(&link, until: seconds(41))).filter { $0.flags.contains(.response) }
        #expect(answers.isEmpty == !isAnswered)
    }

    @Test func knownAnswersMayFollow() throws {
        var link = try self.runningLink(1)
        let records = try #require(link.responder?.records)
        let known = [ResourceRecord(records.names.service, ttl: 3200, .ptr(records.instance))]
        _ = link.received(self.query(try self.pointerQuestion, truncated: true), from: self.source, now: seconds(40))
        #expect(self.messages(self.run(&link, until: seconds(40.3))).allSatisfy { !$0.flags.contains(.response) })
        var rest = Message(id: 0)
        rest.answers = known
        _ = link.received(rest, from: self.source, now: seconds(40.31))
        #expect(self.messages(self.run(&link, until: seconds(41))).allSatisfy { !$0.flags.contains(.response) })
    }

    @Test func plainResolversAreAnsweredByUnicast() throws {
        var link = try self.runningLink(1)
        let resolver = TransportAddress(.v4(IPv4Address(10, 0, 0, 9)), 40_000)
        let question = Question(try DomainName("_services._dns-sd._udp.local"), .ptr)
        var asked = self.query(question)
        asked.id = 77
        guard
            case .unicast(let message, to: resolver)? = link.received(asked, from: resolver, now: seconds(40)).outputs
                .first
        else {
            Issue.record("no unicast answer")
            return
        }
        #expect(message.id == 77)
        #expect(message.questions == [question])
        #expect(message.answers.allSatisfy { $0.ttl <= 10 && !$0.recordClass.hasTopBit })
    }

    @Test func pendingAnswersAreBounded() throws {
        var link = try self.runningLink(1)
        for number in 0..<1000 {
            let other = TransportAddress(.v4(IPv4Address(rawValue: UInt32(number))), 5353)
            _ = link.received(self.query(try self.pointerQuestion), from: other, now: seconds(40))
        }
        let answers = self.messages(self.run(&link, until: seconds(43))).filter { $0.flags.contains(.response) }
        #expect(answers.count == 1)
    }

    // MARK: Browsing

    @Test func queriesAtGrowingIntervals() throws {
        var link = try self.link(1)
        let times = self.run(&link, until: seconds(300)).map(\.0)
        #expect(times[0] >= seconds(0.02) && times[0] <= seconds(0.12))
        let gaps = zip(times, times.dropFirst()).map { ($1 - $0).nanoseconds / 1_000_000_000 }
        #expect(Array(gaps.prefix(8)) == [1, 2, 4, 8, 16, 32, 60, 60])
    }

    @Test func twoLinksFindEachOther() throws {
        var first = try self.runningLink(1)
        var second = try self.runningLink(2)
        _ = first.received(self.query(try self.pointerQuestion), from: self.source, now: seconds(50))
        var found: [MDNSFinding] = []
        for (now, output) in self.run(&first, until: seconds(51)) {
            guard case .multicast(let message) = output else { continue }
            let read = try Message(parsing: message.encoded(limit: MulticastDNS.maximumSent))
            let from = TransportAddress(.v4(IPv4Address(10, 0, 0, 1)), 5353)
            found += second.received(read, from: from, now: now).findings
        }
        #expect(found.map(\.peer) == [try peer(1)])
        #expect(found.first?.addresses == [try Multiaddr("/ip4/10.0.0.1/tcp/20006")])
        #expect(found.first?.isNew == true)
        // What is known is told to others, who need not answer then.
        let query = try #require(self.messages(self.run(&second, until: seconds(120))).first)
        #expect(query.answers.count == 1)
    }

    private func announcement(_ name: String, _ strings: [String], ttl: UInt32 = 3200) throws -> Message {
        let service = try DomainName("EDGEMESH_PLAYGOUND.local")
        let instance = try service.prepending(name)
        var message = Message(id: 0, flags: [.response, .authoritative])
        message.answers = [ResourceRecord(service, ttl: ttl, .ptr(instance))]
        message.additionals = [
            ResourceRecord(instance, ttl: ttl, .txt(strings.map { Array($0.utf8) }), recordClass: .internet.withTopBit)
        ]
        return message
    }

    @Test func hostileTextsAreIgnored() throws {
        var link = try self.runningLink(1)
        let good = "dnsaddr=/ip4/10.0.0.2/tcp/1/p2p/\(try peer(2))"
        let message = try self.announcement(
            "x",
            [
                "", "dnsaddr=", "dnsaddr=/ip4/1.2.3.4", "dnsaddr=/ip4/127.0.0.1/tcp/1/p2p/\(try peer(2))", "v=1",
                "dnsaddr=/ip4/10.0.0.1/tcp/1/p2p/\(try peer(2))", good,
                "dnsaddr=/ip4/10.0.0.3/tcp/1/p2p/\(try peer(1))",
                "dnsaddr=/ip4/10.0.0.3/tcp/1/p2p/\(try peer(3))/p2p-circuit/p2p/\(try peer(2))",
            ]
        )
        let findings = link.received(message, from: self.source, now: seconds(40)).findings
        #expect(findings.map(\.peer) == [try peer(2)])
        #expect(findings.first?.addresses == [try Multiaddr("/ip4/10.0.0.2/tcp/1")])
        // Answers come from port 5353 only.
        let elsewhere = TransportAddress(.v4(IPv4Address(10, 0, 0, 9)), 1000)
        #expect(link.received(try self.announcement("y", [good]), from: elsewhere, now: seconds(41)).findings.isEmpty)
    }

    @Test func aPeerIsNewOnceUntilItsTextChangesOrItSaysGoodbye() throws {
        var link = try self.runningLink(1)
        let text = "dnsaddr=/ip4/10.0.0.2/tcp/1/p2p/\(try peer(2))"
        func hear(_ message: Message, _ time: Double) -> [Bool] {
            link.received(message, from: self.source, now: seconds(time)).findings.map(\.isNew)
        }
        #expect(hear(try self.announcement("x", [text]), 40) == [true])
        #expect(hear(try self.announcement("x", [text]), 41) == [false])
        #expect(hear(try self.announcement("x", [text, text.replacing2()]), 42) == [true])
        #expect(hear(try self.announcement("x", [text], ttl: 0), 43) == [])
        #expect(hear(try self.announcement("x", [text]), 43.5) == [true])
        _ = hear(try self.announcement("x", [text], ttl: 0), 44)
        _ = self.run(&link, until: seconds(46))
        #expect(link.querier.count == 0)
    }

    @Test func asksAgainBeforeAnAnnouncementEnds() throws {
        var link = try self.runningLink(1)
        let text = "dnsaddr=/ip4/10.0.0.2/tcp/1/p2p/\(try peer(2))"
        _ = link.received(try self.announcement("x", [text], ttl: 1000), from: self.source, now: seconds(40))
        let times = self.run(&link, until: seconds(1100)).map(\.0)
        for percent in [80, 85, 90, 95] { #expect(times.contains(seconds(40 + Double(percent) * 10))) }
        #expect(link.querier.count == 0)
    }

    @Test func aTextThatDoesNotComeIsAskedFor() throws {
        var link = try self.runningLink(1)
        var message = try self.announcement("x", [])
        message.additionals = []
        _ = link.received(message, from: self.source, now: seconds(40))
        let queries = self.messages(self.run(&link, until: seconds(40.5)))
        #expect(queries.contains { $0.questions.contains { $0.type == .txt } })
    }

    @Test func instancesAreBounded() throws {
        var configuration = self.configuration
        configuration.maximumInstances = 10
        var link = try self.link(1, configuration: configuration)
        for number in 0..<50 {
            _ = link.received(try self.announcement("x\(number)", []), from: self.source, now: seconds(1))
        }
        #expect(link.querier.count == 10)
        #expect(link.querier.instancesDropped == 40)
        // Who comes behind a flood of names that never end is found all the same.
        for number in 0..<50 {
            let flood = try self.announcement("y\(number)", [], ttl: .max >> 1)
            _ = link.received(flood, from: self.source, now: seconds(2))
        }
        let text = "dnsaddr=/ip4/10.0.0.2/tcp/1/p2p/\(try peer(2))"
        let honest = try self.announcement("z", [text], ttl: .max >> 1)
        let findings = link.received(honest, from: self.source, now: seconds(3)).findings
        #expect(findings.map(\.lifetime) == [.seconds(Int64(MDNSQuerier.maximumLifetime))])
        #expect(link.querier.count == 10)
        _ = self.run(&link, until: seconds(2 + 4500 + 10))
        #expect(link.querier.count == 0)
    }

    @Test func aQueryOfAnotherStandsForTheOwn() throws {
        var link = try self.link(1)
        _ = self.run(&link, until: seconds(70))
        let due = link.deadline
        _ = link.received(self.query(try self.pointerQuestion), from: self.source, now: due - .seconds(5))
        #expect(link.deadline > due)
        // Others may not silence it for ever.
        for _ in 0..<10 {
            _ = link.received(self.query(try self.pointerQuestion), from: self.source, now: link.deadline - .seconds(1))
        }
        #expect(link.deadline <= due + .seconds(4 * 60))
    }
}

extension String {
    /// Another port in the text of an address.
    fileprivate func replacing2() -> String {
        self.split(separator: "/tcp/1/").joined(separator: "/tcp/2/")
    }
}
