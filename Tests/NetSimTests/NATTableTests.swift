import MeshCore
import NIOCore
import Testing

@testable import NetSim

/// The behaviours of RFC 4787 and RFC 5382, by the numbers of their requirements.
@Suite struct NATTableTests {
    private static let outside: IPAddress = "198.51.100.1"
    private static let inside: TransportAddress = "10.0.0.2:4001"
    private let start = SimulatedLoop.start

    private func udp(_ from: TransportAddress, _ to: TransportAddress) -> Packet {
        Packet(from: from, to: to, .udp(ByteBuffer()))
    }

    private func tcp(_ from: TransportAddress, _ to: TransportAddress, _ flags: TCPSegment.Flags) -> Packet {
        Packet(from: from, to: to, .tcp(TCPSegment(flags, sequence: 7, acknowledgement: 9)))
    }

    private func forwarded(_ verdict: Verdict) -> Packet? {
        if case .forward(let packet) = verdict { packet } else { nil }
    }

    private func nat(_ behavior: NATBehavior) -> NATTable {
        NATTable(behavior, outside: [Self.outside], seed: 42)
    }

    /// Where three remotes see the inside endpoint: one, another port of its address, another address.
    @Test(arguments: [
        (Dependence.endpointIndependent, [0, 0, 0]),
        (.addressDependent, [0, 0, 1]),
        (.addressAndPortDependent, [0, 1, 2]),
    ])
    func mappings(_ mapping: Dependence, _ groups: [Int]) throws {
        var nat = self.nat(NATBehavior(mapping: mapping, ports: .random))
        let remotes: [TransportAddress] = ["203.0.113.1:1000", "203.0.113.1:2000", "203.0.113.2:1000"]
        var seen: [UInt16] = []
        for remote in remotes {
            let packet = try #require(self.forwarded(nat.outbound(self.udp(Self.inside, remote), at: self.start)))
            #expect(packet.source.address == Self.outside)
            #expect(packet.destination == remote)
            seen.append(packet.source.port)
        }
        let distinct = seen.reduce(into: [UInt16]()) { if !$0.contains($1) { $0.append($1) } }
        #expect(seen.map { distinct.firstIndex(of: $0) ?? -1 } == groups)
        // The same flow keeps its mapping.
        let again = self.forwarded(nat.outbound(self.udp(Self.inside, remotes[0]), at: self.start))
        #expect(again?.source.port == seen[0])
    }

    /// Who is let in: the remote itself, another port of its address, another address.
    @Test(arguments: [
        (Dependence.endpointIndependent, [true, true, true]),
        (.addressDependent, [true, true, false]),
        (.addressAndPortDependent, [true, false, false]),
    ])
    func filters(_ filtering: Dependence, _ passes: [Bool]) throws {
        let remotes: [TransportAddress] = ["203.0.113.1:1000", "203.0.113.1:2000", "203.0.113.2:1000"]
        for (remote, passes) in zip(remotes, passes) {
            var nat = self.nat(NATBehavior(filtering: filtering))
            let out = try #require(self.forwarded(nat.outbound(self.udp(Self.inside, remotes[0]), at: self.start)))
            let answer = self.forwarded(nat.inbound(self.udp(remote, out.source), at: self.start))
            #expect(answer?.destination == (passes ? Self.inside : nil))
            var tcp = self.nat(NATBehavior(filtering: filtering))
            let syn = try #require(
                self.forwarded(tcp.outbound(self.tcp(Self.inside, remotes[0], .syn), at: self.start))
            )
            let opening = self.forwarded(tcp.inbound(self.tcp(remote, syn.source, .syn), at: self.start))
            #expect(opening?.destination == (passes ? Self.inside : nil))
        }
    }

    @Test func nothingIsLetInWithoutAMapping() {
        var nat = self.nat(.fullCone)
        #expect(self.forwarded(nat.inbound(self.udp("203.0.113.1:1", "198.51.100.1:4001"), at: self.start)) == nil)
        // Nor is the middle of a connection that nobody has opened.
        _ = nat.outbound(self.tcp(Self.inside, "203.0.113.1:1", .syn), at: self.start)
        let stray = self.tcp("203.0.113.9:1", "198.51.100.1:4001", [.syn, .ack])
        #expect(self.forwarded(nat.inbound(stray, at: self.start)) == nil)
    }

    /// An answer to what a filter let in leaves by the port that it came to, whatever the mapping depends on.
    @Test(arguments: Dependence.allCases)
    func answersLeaveByTheSamePort(_ mapping: Dependence) throws {
        var nat = self.nat(NATBehavior(mapping: mapping, filtering: .endpointIndependent, ports: .random))
        let out = try #require(
            self.forwarded(nat.outbound(self.tcp(Self.inside, "203.0.113.1:1", .syn), at: self.start))
        )
        let stranger: TransportAddress = "203.0.113.77:99"
        #expect(self.forwarded(nat.inbound(self.tcp(stranger, out.source, .syn), at: self.start)) != nil)
        let answer = self.forwarded(nat.outbound(self.tcp(Self.inside, stranger, [.syn, .ack]), at: self.start))
        #expect(answer?.source == out.source)
    }

    @Test func portsArePreservedWhereTheyAreFree() {
        var nat = self.nat(.portRestrictedCone)
        let first = self.forwarded(nat.outbound(self.udp("10.0.0.2:4001", "203.0.113.1:1"), at: self.start))
        let second = self.forwarded(nat.outbound(self.udp("10.0.0.3:4001", "203.0.113.2:1"), at: self.start))
        #expect(first?.source.port == 4001)
        #expect(second?.source.port == 4002)
        let low = self.forwarded(nat.outbound(self.udp("10.0.0.2:53", "203.0.113.1:1"), at: self.start))
        #expect(low?.source.port == 53)
    }

    /// Two inside endpoints share a port as long as their remotes tell them apart, as on Linux.
    @Test func masqueradeOverloadsPorts() {
        var nat = self.nat(.linuxMasquerade)
        let first = self.forwarded(nat.outbound(self.tcp("10.0.0.2:4001", "203.0.113.1:1", .syn), at: self.start))
        let second = self.forwarded(nat.outbound(self.tcp("10.0.0.3:4001", "203.0.113.2:1", .syn), at: self.start))
        let third = self.forwarded(nat.outbound(self.tcp("10.0.0.4:4001", "203.0.113.1:1", .syn), at: self.start))
        #expect(first?.source.port == 4001)
        #expect(second?.source.port == 4001)
        #expect(third?.source.port == 4002)
        let answer = self.tcp("203.0.113.2:1", "198.51.100.1:4001", [.syn, .ack])
        #expect(self.forwarded(nat.inbound(answer, at: self.start))?.destination == "10.0.0.3:4001")
    }

    @Test func sequentialPortsFollowEachOther() throws {
        var nat = self.nat(NATBehavior(mapping: .addressAndPortDependent, ports: .sequential))
        let ports = try (1...3).map { number in
            let remote = TransportAddress("203.0.113.1", UInt16(number))
            return try #require(self.forwarded(nat.outbound(self.udp(Self.inside, remote), at: self.start))).source.port
        }
        #expect(ports[1] == ports[0] + 1 && ports[2] == ports[1] + 1)
    }

    @Test func hairpinsHaveAnOutsideSource() throws {
        var nat = self.nat(NATBehavior(filtering: .endpointIndependent, hairpinning: true))
        let target = try #require(
            self.forwarded(nat.outbound(self.udp("10.0.0.3:5000", "203.0.113.1:1"), at: self.start))
        ).source
        let packet = self.forwarded(nat.hairpin(self.udp(Self.inside, target), at: self.start))
        #expect(packet?.destination == "10.0.0.3:5000")
        #expect(packet?.source == "198.51.100.1:4001")
        var without = self.nat(.fullCone)
        _ = without.outbound(self.udp("10.0.0.3:5000", "203.0.113.1:1"), at: self.start)
        #expect(self.forwarded(without.hairpin(self.udp(Self.inside, target), at: self.start)) == nil)
    }

    /// REQ-5 and REQ-6 of RFC 4787: mappings last five minutes after the last packet.
    @Test(arguments: [(299, true), (301, false)])
    func datagramMappingsExpire(_ seconds: Int64, isLive: Bool) throws {
        var nat = self.nat(.fullCone)
        let out = try #require(self.forwarded(nat.outbound(self.udp(Self.inside, "203.0.113.1:1"), at: self.start)))
        let later = self.start + .seconds(seconds)
        #expect((self.forwarded(nat.inbound(self.udp("203.0.113.1:1", out.source), at: later)) != nil) == isLive)
    }

    @Test(arguments: [true, false])
    func inboundPacketsMayRefresh(_ refreshes: Bool) throws {
        var nat = self.nat(NATBehavior(inboundRefresh: refreshes))
        let out = try #require(self.forwarded(nat.outbound(self.udp(Self.inside, "203.0.113.1:1"), at: self.start)))
        let answer = self.udp("203.0.113.1:1", out.source)
        #expect(self.forwarded(nat.inbound(answer, at: self.start + .seconds(200))) != nil)
        #expect((self.forwarded(nat.inbound(answer, at: self.start + .seconds(400))) != nil) == refreshes)
    }

    /// REQ-5 of RFC 5382: 4 minutes while a connection opens or closes, 2 hours and 4 minutes when it is established.
    @Test(arguments: [
        (["syn"], Int64(239), true), (["syn"], 241, false),
        (["syn", "in syn ack", "ack"], 7439, true), (["syn", "in syn ack", "ack"], 7441, false),
        (["syn", "in syn ack", "ack", "fin ack"], 241, false),
        (["syn", "in syn ack", "ack", "in rst"], 241, false),
    ])
    func connectionsExpire(_ packets: [String], _ seconds: Int64, isLive: Bool) throws {
        var nat = self.nat(.portRestrictedCone)
        let remote: TransportAddress = "203.0.113.1:1"
        for text in packets {
            var words = text.split(separator: " ").map(String.init)
            let isInbound = words.first == "in"
            if isInbound { words.removeFirst() }
            let flags = TCPSegment.Flags(words.map { ["syn": .syn, "ack": .ack, "fin": .fin, "rst": .rst][$0] ?? [] })
            let verdict =
                isInbound
                ? nat.inbound(self.tcp(remote, "198.51.100.1:4001", flags), at: self.start)
                : nat.outbound(self.tcp(Self.inside, remote, flags), at: self.start)
            #expect(self.forwarded(verdict) != nil)
        }
        let probe = self.tcp(remote, "198.51.100.1:4001", .ack)
        #expect((self.forwarded(nat.inbound(probe, at: self.start + .seconds(seconds))) != nil) == isLive)
    }

    @Test(arguments: NATBehavior.UnsolicitedSYN.allCases)
    func unsolicitedConnections(_ policy: NATBehavior.UnsolicitedSYN) throws {
        var nat = self.nat(NATBehavior(unsolicitedSYN: policy))
        let syn = self.tcp("203.0.113.1:1", "198.51.100.1:4001", .syn)
        switch nat.inbound(syn, at: self.start) {
        case .reply(let packet):
            #expect(policy == .reset)
            #expect(packet.destination == syn.source)
            guard case .tcp(let segment) = packet.payload else { return #expect(Bool(false)) }
            #expect(segment.flags == [.rst, .ack])
            #expect(segment.acknowledgement == 8)
        case .drop: #expect(policy == .drop)
        case .forward: #expect(Bool(false), "let in")
        }
    }

    @Test func mappingsAreBounded() {
        var nat = self.nat(NATBehavior(maximumMappings: 3))
        for number in 1...3 {
            let from = TransportAddress("10.0.0.2", UInt16(number))
            #expect(self.forwarded(nat.outbound(self.udp(from, "203.0.113.1:1"), at: self.start)) != nil)
        }
        let fourth = self.udp("10.0.0.2:4", "203.0.113.1:1")
        #expect(self.forwarded(nat.outbound(fourth, at: self.start)) == nil)
        #expect(nat.mappings == 3)
        #expect(self.forwarded(nat.outbound(fourth, at: self.start + .minutes(6))) != nil)
        #expect(nat.mappings == 1)
    }

    @Test func aRestartForgetsEverything() throws {
        var nat = self.nat(.fullCone)
        let out = try #require(
            self.forwarded(nat.outbound(self.tcp(Self.inside, "203.0.113.1:1", .syn), at: self.start))
        )
        nat.reset()
        #expect(
            self.forwarded(nat.inbound(self.tcp("203.0.113.1:1", out.source, [.syn, .ack]), at: self.start)) == nil
        )
        #expect(self.forwarded(nat.outbound(self.tcp(Self.inside, "203.0.113.1:1", .ack), at: self.start)) == nil)
    }

    /// REQ-10 of RFC 5382: errors find their way to whom they concern.
    @Test func errorsAreTranslated() throws {
        var nat = self.nat(NATBehavior(ports: .random))
        let out = try #require(self.forwarded(nat.outbound(self.udp(Self.inside, "203.0.113.1:1"), at: self.start)))
        let error = try #require(out.unreachable(.port, from: "203.0.113.1"))
        let told = try #require(self.forwarded(nat.inbound(error, at: self.start)))
        guard case .unreachable(let about) = told.payload else { return #expect(Bool(false)) }
        #expect(told.destination.address == Self.inside.address)
        #expect(about.source == Self.inside)
    }
}

@Suite struct FirewallTableTests {
    private let start = SimulatedLoop.start

    private func passes(_ verdict: Verdict) -> Bool {
        if case .forward = verdict { true } else { false }
    }

    @Test func onlyWhatBelongsToSomethingFromInsideGetsIn() {
        var firewall = FirewallTable()
        let (inside, remote): (TransportAddress, TransportAddress) = ("[2001:db8::2]:4001", "[2001:db8:1::1]:80")
        let syn = TCPSegment(.syn, sequence: 1)
        #expect(!self.passes(firewall.inbound(Packet(from: remote, to: inside, .tcp(syn)), at: self.start)))
        #expect(self.passes(firewall.outbound(Packet(from: inside, to: remote, .tcp(syn)), at: self.start)))
        #expect(self.passes(firewall.inbound(Packet(from: remote, to: inside, .tcp(syn)), at: self.start)))
        firewall.reset()
        #expect(!self.passes(firewall.inbound(Packet(from: remote, to: inside, .tcp(syn)), at: self.start)))
    }

    @Test func openPortsAreOpenAndOthersRejectIfTold() {
        var firewall = FirewallTable(openPorts: [443], rejects: true)
        let syn = TCPSegment(.syn, sequence: 1)
        let remote: TransportAddress = "203.0.113.1:1"
        let open = firewall.inbound(Packet(from: remote, to: "198.51.100.1:443", .tcp(syn)), at: self.start)
        #expect(self.passes(open))
        guard case .reply = firewall.inbound(Packet(from: remote, to: "198.51.100.1:80", .tcp(syn)), at: self.start)
        else {
            return #expect(Bool(false), "not rejected")
        }
    }
}
