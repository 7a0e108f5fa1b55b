import ByteStreams
import Documents
import LibP2P
import MeshCore
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import PeerIdentity
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    /// Peers that ask for what they may not have, or in ways that no peer should, and that do not answer what they are asked.
    @Suite(.serialized) struct MaliciousRequestTests {
        private struct Forbidden {
            let target: TransportAddress
            let reason: TargetRefusal
            var transport = TransportProtocol.tcp

            init(
                _ address: String,
                _ port: UInt16,
                _ reason: TargetRefusal,
                _ transport: TransportProtocol = .tcp
            ) throws {
                self.target = TransportAddress(try #require(IPAddress(address)), port)
                self.reason = reason
                self.transport = transport
            }
        }

        private static var forbidden: [Forbidden] {
            get throws {
                [
                    try Forbidden("10.9.9.9", 22, .notAnEndpoint), try Forbidden("10.1.0.7", 22, .notAnEndpoint),
                    // An endpoint of another node.
                    try Forbidden("10.2.0.7", 80, .notAnEndpoint),
                    // The MetaServer, this node's own sockets, and other spellings of them.
                    try Forbidden("127.0.0.1", 10550, .loopback), try Forbidden("127.8.8.8", 80, .loopback),
                    try Forbidden("::1", 10550, .loopback), try Forbidden("0.0.0.0", 10550, .loopback),
                    try Forbidden("::", 10550, .loopback), try Forbidden("::ffff:127.0.0.1", 10550, .loopback),
                    // The clouds' metadata, and the agent's own services on the bridge.
                    try Forbidden("169.254.169.254", 80, .notAnEndpoint),
                    try Forbidden("::ffff:169.254.169.254", 80, .notAnEndpoint),
                    try Forbidden("169.254.96.16", 53, .notAnEndpoint, .udp),
                    try Forbidden("169.254.96.16", 10800, .notAnEndpoint), try Forbidden("fe80::1", 80, .notAnEndpoint),
                ]
            }
        }

        @Test("targets that are not this node's to give are not dialled, whichever protocol and purpose asks for them")
        func forbiddenTargets() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let attacker = try await fixture.attacker()
                var expected: [TargetRefusal: UInt64] = [:]
                for item in try Self.forbidden {
                    for purpose in [TunnelTarget.Purpose.service, .socks] {
                        let request = OpenRequest(
                            item.transport,
                            to: item.target,
                            of: MaliciousPeerFixture.victim,
                            purpose: purpose
                        )
                        let reply = try await fixture.reply(to: request.framed, of: attacker)
                        let reason = purpose == .socks && item.reason == .notAnEndpoint ? .notThisNode : item.reason
                        #expect(reply.code == .notAllowed && reply.message.contains(reason.explanation), "\(reply)")
                        expected[reason, default: 0] += 1
                    }
                    let original = try await fixture.stream(attacker, TunnelProtocol.proxy)
                    let log = try await original.record()
                    original.writeAndFlush(
                        ProxyMessage.connect(item.transport, to: item.target, of: MaliciousPeerFixture.victim).framed,
                        promise: nil
                    )
                    try await eventually("the refusal", within: .seconds(60)) {
                        log.reads == [ProxyMessage.failed.framed] && log.hasEnded
                    }
                    expected[item.reason, default: 0] += 1
                }
                #expect(fixture.victim.access.refusals == expected)
                #expect(await fixture.counter("targetsRefused") == Int64(expected.values.reduce(0, +)))
                #expect(fixture.victim.access.lastRefused.count == TargetAccess.maximumRefused)
                let shown = await fixture.victim.status()["refusedTargets"]?.array ?? []
                #expect(shown.count == 16 && shown.last?["peer"]?.string == attacker.peerID.description)
                #expect(shown.last?["target"]?.string == "[fe80::1]:80")
                #expect(shown.last?["reason"]?.string == "notAnEndpoint")
                #expect(fixture.dialled.isEmpty)
                try await fixture.expectHonestIsServed()
            }
        }

        @Test("a request that names another node is turned down as such, in both protocols")
        func anotherNode() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let attacker = try await fixture.attacker()
                let request = OpenRequest(.tcp, to: MaliciousPeerFixture.echo, of: MaliciousPeerFixture.honest)
                #expect(try await fixture.reply(to: request.framed, of: attacker).code == .wrongNode)
                let original = try await fixture.stream(attacker, TunnelProtocol.proxy)
                let log = try await original.record()
                let connect = ProxyMessage.connect(.tcp, to: request.target, of: request.node)
                original.writeAndFlush(connect.framed, promise: nil)
                try await eventually("the refusal") { log.reads == [ProxyMessage.failed.framed] }
                #expect(fixture.victim.access.refusals == [.wrongNode: 2] && fixture.dialled.isEmpty)
                try await fixture.expectHonestIsServed()
            }
        }

        /// What stands where the length of a message is to stand.
        private static let badLengths: [[UInt8]] = [
            // One byte more than is read, 4 GiB, all 64 bits, and more than 64 bits.
            [0x81, 0x20], [0xFF, 0xFF, 0xFF, 0xFF, 0x0F], [UInt8](repeating: 0xFF, count: 8) + [0x7F],
            [UInt8](repeating: 0xFF, count: 16),
            // Not in its shortest form.
            [0x80, 0x00],
        ]

        @Test("a length that no message has is refused before anything is kept for it", arguments: Self.badLengths)
        func lengths(_ bytes: [UInt8]) async throws {
            try await MaliciousPeerFixture.with { fixture in
                fixture.victim.surroundings.packets.set { _ in }
                let attacker = try await fixture.attacker()
                let reply = try await fixture.reply(to: ByteBuffer(bytes: bytes), of: attacker)
                #expect(reply.code == .badRequest && !reply.message.isEmpty)
                for (protocolID, answer) in [
                    (TunnelProtocol.proxy, [ProxyMessage.failed.framed]), (TunnelProtocol.discovery, []),
                    (TunnelProtocol.originalPackets, []),
                ] {
                    let channel = try await fixture.stream(attacker, protocolID)
                    let log = try await channel.record()
                    channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: nil)
                    try await eventually("\(protocolID) ends") { log.isClosed || log.hasEnded }
                    #expect(log.reads == answer)
                }
                #expect(fixture.victim.acceptor.counters.refused == [.badRequest: 2])
                #expect(fixture.victim.packetAcceptor.counters.refused == [.badRequest: 1])
                #expect(fixture.victim.exchange.counters.failed == 1)
                try await fixture.expectNothingIsLeft(of: attacker)
                try await fixture.expectHonestIsServed()
            }
        }

        @Test("a datagram longer than UDP has ends its flow and no other")
        func longDatagrams() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let attacker = try await fixture.attacker()
                let request = OpenRequest(.udp, to: MaliciousPeerFixture.echo, of: MaliciousPeerFixture.victim)
                let channel = try await fixture.stream(attacker, TunnelProtocol.flow)
                let log = try await channel.record()
                channel.writeAndFlush(request.framed, promise: nil)
                #expect(try await MaliciousPeerFixture.reply(in: log).code == .ok)
                channel.writeAndFlush(ByteBuffer(bytes: [0, 1, 7]), promise: nil)
                try await eventually("the echo") { log.reads.dropFirst().first == ByteBuffer(bytes: [0, 1, 7]) }
                var long = ByteBuffer(integer: UInt16(DatagramFraming.maximumLength + 1))
                long.writeRepeatingByte(7, count: 1000)
                channel.writeAndFlush(long, promise: nil)
                try await eventually("the reset") { log.isClosed && log.error != nil }
                #expect(await fixture.victim.acceptor.book.total().datagrams.toTarget == 1)
                try await fixture.expectNothingIsLeft(of: attacker)
                try await fixture.expectHonestIsServed()
            }
        }

        // MARK: Answers

        /// An attacker that is a node of the cluster, and answers requests with these bytes, or not at all.
        private static func with(
            outbound: Int? = nil,
            answer: ByteBuffer? = nil,
            _ body: (MaliciousPeerFixture, Host) async throws -> Void
        ) async throws {
            try await MaliciousPeerFixture.with {
                $0.limits.outboundPerPeer = outbound
            } _: { fixture in
                let evil = try await fixture.attacker(identity: try .derived(nodeName: "edge-evil"))
                evil.handle(TunnelProtocol.flow) { stream in
                    if let answer { stream.channel.writeAndFlush(answer, promise: nil) }
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                fixture.victim.host.peers.add(evil.listenAddresses, to: evil.peerID, lifetime: .permanent)
                try await body(fixture, evil)
            }
        }

        @Test("who never answers makes nobody wait longer than he wants, and no more than the limit wait at once")
        func silence() async throws {
            try await Self.with(outbound: 8) { fixture, evil in
                let error = try await FlowFixture.error {
                    try await fixture.open(
                        from: fixture.victim,
                        "edge-evil",
                        MaliciousPeerFixture.echo,
                        within: .milliseconds(500)
                    )
                }
                #expect(error.code == .timedOut && error.message.contains("edge-evil"), "\(error)")
                let target = TunnelTarget(node: "edge-evil", address: MaliciousPeerFixture.echo)
                let loop = fixture.victim.loop
                let deadline = NIODeadline.now() + .seconds(600)
                let waiting = (0..<8).map { _ in fixture.victim.open(target, .tcp, on: loop, deadline: deadline) }
                try await eventually("all wait", within: .seconds(60)) {
                    fixture.victim.opener.tally.flows(with: evil.peerID) == 8
                }
                let refused = try await FlowFixture.error {
                    try await fixture.open(from: fixture.victim, "edge-evil", MaliciousPeerFixture.echo)
                }
                #expect(refused.code == .overloaded && refused.message.contains("8 flows of one peer"), "\(refused)")
                try await fixture.expectHonestIsServed()
                await evil.shutdown(deadline: .now())
                for flow in waiting { _ = try await FlowFixture.error { try await flow.get() } }
                #expect(fixture.victim.opener.tally.total == 0)
            }
        }

        private static let answers: [[UInt8]] = [
            [0xFF, 0xFF, 0xFF, 0xFF, 0x0F], [3, 0xFF, 0xFF, 0xFF],
            // A code that nobody knows, and a refusal with a message that forges lines of a log without end.
            [2, 8, 99],
            OpenReply(.badRequest).framed.readableBytesView
                + [0x12, 0xAC, 0x02] + [UInt8](repeating: 10, count: 300),
        ].map { Array($0) }

        @Test("answers that make no sense are told as such, in a line of bounded length", arguments: 0..<4)
        func nonsense(_ index: Int) async throws {
            var bytes = Self.answers[index]
            // The message of the last belongs to the reply.
            if index == 3 { bytes = [0xB1, 0x02] + bytes.dropFirst() }
            try await Self.with(answer: ByteBuffer(bytes: bytes)) { fixture, _ in
                let error = try await FlowFixture.error {
                    try await fixture.open(from: fixture.victim, "edge-evil", MaliciousPeerFixture.echo)
                }
                #expect(error.code == .badAnswer, "\(error)")
                #expect(!error.message.contains("\n") && error.message.utf8.count < 512)
                #expect(fixture.victim.opener.counters.failed == [.badAnswer: 1])
                #expect(fixture.victim.opener.tally.total == 0)
                try await fixture.expectHonestIsServed()
            }
        }
    }
}
