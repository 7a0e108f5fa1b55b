import DNSWire
import MeshCore
import Multiformats
import NIOCore
import Testing

@testable import LibP2PDiscovery

/// Names that others want, too, types of which there are no records, and addresses that mean something on one link only.
@Suite struct MDNSConflictTests {
    private let configuration = MDNSConfiguration(serviceName: "EDGEMESH_PLAYGOUND")
    private let other = TransportAddress(.v4(IPv4Address(10, 0, 0, 9)), 5353)
    private static let linkLocal = IPv6Address(high: 0xFE80 << 48, low: 7)

    private func interface(_ addresses: [IPAddress]) -> MulticastInterface {
        MulticastInterface(name: "eth0", index: 2, addresses: addresses)
    }

    private func link(_ number: UInt8, _ addresses: [IPAddress]) throws -> MDNSLink {
        MDNSLink(
            interface: self.interface(addresses),
            peer: try peer(number),
            names: try MDNSNames(serviceName: self.configuration.serviceName),
            configuration: self.configuration,
            generator: HostGenerator(number: seededNumbers(1)),
            now: seconds(0)
        )
    }

    /// A link of a host that listens at 10.0.0.NUMBER.
    private func link(at number: UInt8) throws -> MDNSLink {
        let address = IPAddress.v4(IPv4Address(10, 0, 0, number))
        var link = try self.link(number, [address])
        let listening = [try Multiaddr("/ip4/10.0.0.\(number)/tcp/20006")]
        _ = link.update(self.interface([address]), advertised: listening, now: seconds(0))
        return link
    }

    private func run(_ link: inout MDNSLink, until end: NIODeadline) -> [Message] {
        var sent: [Message] = []
        while link.deadline <= end {
            let now = link.deadline
            for case .multicast(let message) in link.advance(now: now) { sent.append(message) }
        }
        return sent
    }

    // MARK: Simultaneous probes

    /// Two hosts with the same random numbers probe for one name with different records.
    @Test func ofTwoThatProbeForOneNameTheLesserWaits() throws {
        var lesser = try self.link(at: 1)
        var greater = try self.link(at: 2)
        let first = try #require(self.run(&lesser, until: seconds(0.3)).first { !$0.authorities.isEmpty })
        let second = try #require(self.run(&greater, until: seconds(0.3)).first { !$0.authorities.isEmpty })
        #expect(lesser.responder?.records.instance == greater.responder?.records.instance)
        let name = lesser.responder?.records.instance
        let now = seconds(0.31)
        // Its own probe comes back, and is no one else's.
        _ = lesser.received(first, from: TransportAddress(.v4(IPv4Address(10, 0, 0, 1)), 5353), now: now)
        #expect(lesser.responder?.phase != .probing(0))
        _ = greater.received(first, from: self.other, now: now)
        #expect(greater.responder?.phase != .probing(0), "the greater goes on")
        _ = lesser.received(second, from: self.other, now: now)
        #expect(lesser.responder?.phase == .probing(0))
        #expect(lesser.responder?.records.instance == name, "the name may be free yet")
        #expect(self.run(&lesser, until: seconds(1.3)).allSatisfy { $0.authorities.isEmpty }, "it waits for a second")
        // By then the other has announced itself.
        let announced = try #require(self.run(&greater, until: seconds(1.3)).first { $0.flags.contains(.response) })
        _ = lesser.received(announced, from: self.other, now: seconds(1.3))
        #expect(lesser.responder?.records.instance != name)
    }

    /// The example of RFC 6762 section 8.2, and lists of which one is the beginning of the other.
    @Test func recordsAreComparedAsTheSpecificationHasIt() throws {
        let name = try DomainName("a.local")
        func records(_ data: RecordData...) -> [[UInt8]] { data.map { ResourceRecord(name, ttl: 1, $0) }.tieBreak }
        func isLess(_ first: [[UInt8]], _ second: [[UInt8]]) -> Bool {
            first.lexicographicallyPrecedes(second) { $0.lexicographicallyPrecedes($1) }
        }
        let low = RecordData.a(IPv4Address(169, 254, 99, 200))
        let high = RecordData.a(IPv4Address(169, 254, 200, 50))
        #expect(isLess(records(low), records(high)))
        #expect(!isLess(records(high), records(low)))
        #expect(!isLess(records(low, high), records(high, low)), "the order of records does not matter")
        #expect(isLess(records(low), records(low, high)))
        #expect(isLess(records(high), records(.aaaa(IPv6Address(high: 0, low: 0)))), "types come before data")
        let flushing = [ResourceRecord(name, ttl: 1, low, recordClass: .internet.withTopBit)]
        #expect(flushing.tieBreak == records(low), "the top bit is no part of the class")
    }

    @Test func probesForOtherNamesAreNoMatter() throws {
        var link = try self.link(at: 1)
        _ = self.run(&link, until: seconds(0.3))
        let service = try DomainName("EDGEMESH_PLAYGOUND.local")
        var probe = Message(id: 0)
        probe.questions = [Question(try service.prepending("zzz"), .any)]
        probe.authorities = [ResourceRecord(try service.prepending("zzz"), ttl: 1, .txt([[0xFF]]))]
        _ = link.received(probe, from: self.other, now: seconds(0.31))
        // Records without the question are no probe.
        let own = try #require(link.responder?.records.instance)
        probe.authorities = [ResourceRecord(own, ttl: 1, .txt([[0xFF]]))]
        _ = link.received(probe, from: self.other, now: seconds(0.32))
        #expect(link.responder?.phase != .probing(0))
    }

    // MARK: What there is not

    private func answer(_ link: inout MDNSLink, _ name: DomainName, _ type: RecordType) -> Message? {
        _ = self.run(&link, until: seconds(40))
        _ = link.received(Message(id: 0, questions: [Question(name, type)]), from: self.other, now: seconds(40))
        return self.run(&link, until: seconds(41)).first { $0.flags.contains(.response) }
    }

    @Test(arguments: [(RecordType.a, [RecordType.a]), (.aaaa, [.nsec]), (.any, [.a]), (.txt, [.nsec])])
    func aHostSaysWhichAddressesItDoesNotHave(_ asked: RecordType, _ answered: [RecordType]) throws {
        var link = try self.link(at: 1)
        let host = try #require(link.responder?.records.host)
        let message = try #require(self.answer(&link, host, asked))
        #expect(message.answers.map(\.type) == answered)
        let all = message.answers + message.additionals
        let denial = try #require(all.first { $0.type == .nsec })
        #expect(denial.name == host && denial.ttl == 120 && denial.recordClass.hasTopBit)
        // The name itself, then one window with one octet, in which only A is set.
        #expect(denial.data == .opaque(.nsec, host.wire + [0, 1, 0x40]))
    }

    @Test func anInstanceHasNoOtherTypes() throws {
        var link = try self.link(at: 1)
        let instance = try #require(link.responder?.records.instance)
        let message = try #require(self.answer(&link, instance, .a))
        #expect(message.answers.map(\.data) == [.opaque(.nsec, instance.wire + [0, 5, 0, 0, 0x80, 0, 0x40])])
        #expect(message.answers.first?.ttl == 3200)
    }

    @Test func namesThatOthersShareAreNotDenied() throws {
        var link = try self.link(at: 1)
        #expect(self.answer(&link, try DomainName("EDGEMESH_PLAYGOUND.local"), .txt) == nil)
        #expect(self.answer(&link, try DomainName("elsewhere.local"), .a) == nil)
    }

    // MARK: Link-local addresses

    private func linkLocalLink(_ number: UInt8, low: UInt64) throws -> MDNSLink {
        let address = IPAddress.v6(IPv6Address(high: 0xFE80 << 48, low: low))
        var link = try self.link(number, [address])
        let bound = [try Multiaddr("/ip6/::/tcp/20006"), try Multiaddr("/ip4/0.0.0.0/tcp/20006")]
        _ = link.update(self.interface([address]), advertised: [], bound: bound, now: seconds(0))
        return link
    }

    @Test func linkLocalAddressesGetTheZoneOfWhereTheyAreHeard() throws {
        var teller = try self.linkLocalLink(3, low: 3)
        let told = try #require(self.run(&teller, until: seconds(5)).first { $0.flags.contains(.response) })
        let texts = told.answers.compactMap { if case .txt(let strings) = $0.data { strings } else { nil } }
        #expect(texts.first == [Array("dnsaddr=/ip6/fe80::3/tcp/20006/p2p/\(try peer(3))".utf8)], "without a zone")
        var hearer = try self.linkLocalLink(4, low: 4)
        let source = TransportAddress(.v6(IPv6Address(high: 0xFE80 << 48, low: 3)), 5353)
        let findings = hearer.received(told, from: source, now: seconds(6)).findings
        #expect(findings.map(\.peer) == [try peer(3)])
        #expect(findings.first?.addresses == [try Multiaddr("/ip6zone/eth0/ip6/fe80::3/tcp/20006")])
    }

    @Test func zonesOfOthersAreNotBelieved() throws {
        var link = try self.linkLocalLink(4, low: 4)
        let service = try DomainName("EDGEMESH_PLAYGOUND.local")
        let text = "dnsaddr=/ip6zone/eth1/ip6/fe80::3/tcp/20006/p2p/\(try peer(3))"
        var message = Message(id: 0, flags: [.response])
        message.answers = [
            ResourceRecord(service, ttl: 100, .ptr(try service.prepending("x"))),
            ResourceRecord(try service.prepending("x"), ttl: 100, .txt([Array(text.utf8)])),
        ]
        #expect(link.received(message, from: self.other, now: seconds(6)).findings.isEmpty)
    }
}
