import LibP2P
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Synchronization
import Testing

@testable import LibP2PRelay

extension SocketTests {
    /// A relay and its users against peers that do not keep to the protocol.
    @Suite struct HostileRelayTests {
        /// Sends `bytes` on a hop stream and returns all that the relay says.
        private func ask(
            _ relay: Host,
            _ source: Host,
            _ bytes: ByteBuffer,
            ending: Bool = false
        ) async throws -> ByteBuffer {
            let stream = try await source.openStream(to: relay.peerID, protocols: [CircuitProtocol.hop])
            return try await stream.exchange(bytes, ending: ending)
        }

        private func answer(_ relay: Host, _ source: Host, _ message: ByteBuffer) async throws -> CircuitStatus? {
            var framed = ByteBuffer()
            framed.writeVarintPrefixed(message)
            var bytes = try await self.ask(relay, source, framed)
            let answer = try #require(try bytes.readVarintPrefixed(maximumLength: CircuitProtocol.maximumMessageLength))
            return try HopMessage(answer).status
        }

        private static let requests: [(ByteBuffer, CircuitStatus)] = [
            (ByteBuffer(bytes: [0x08, 0x07]), .malformedMessage),
            (ByteBuffer(bytes: [0xFF, 0xFF, 0xFF]), .malformedMessage),
            (HopMessage.status(.ok).buffer, .unexpectedMessage),
            (HopMessage(kind: .connect).buffer, .malformedMessage),
            (HopMessage.connect(to: KeyPair.generate().peerID).buffer, .noReservation),
        ]

        @Test func everyRequestIsAnswered() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve()
                let source = try await hosts.make(listens: false)
                try await source.join(relay)
                for (request, status) in Self.requests {
                    #expect(try await self.answer(relay, source, request) == status)
                }
                // To itself, and to the relay.
                let own = HopMessage.connect(to: source.peerID).buffer
                #expect(try await self.answer(relay, source, own) == .permissionDenied)
                let relays = HopMessage.connect(to: relay.peerID).buffer
                #expect(try await self.answer(relay, source, relays) == .noReservation)
                // Longer than any message may be.
                var endless = ByteBuffer()
                endless.writeUnsignedVarint(UInt64(1 << 20))
                var bytes = try await self.ask(relay, source, endless)
                let refusal = try #require(try bytes.readVarintPrefixed(maximumLength: 100))
                #expect(try HopMessage(refusal).status == .malformedMessage)
                #expect(await service.metrics().openCircuits == 0)
                #expect(try await self.answer(relay, source, HopMessage.reserve.buffer) == .ok)
            }
        }

        @Test func whoSaysNothingIsCutOff() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve { $0.requestTimeout = .milliseconds(50) }
                let source = try await hosts.make(listens: false)
                try await source.join(relay)
                await #expect(throws: (any Error).self) {
                    _ = try await self.ask(relay, source, ByteBuffer(bytes: [0x05, 0x08]))
                }
                withExtendedLifetime(service) {}
            }
        }

        /// A byte now and then is no message.
        private static func drip(on channel: any Channel) {
            channel.writeAndFlush(ByteBuffer(bytes: [0x7F]), promise: nil)
            channel.eventLoop.scheduleRepeatedTask(initialDelay: .zero, delay: .milliseconds(10)) { task in
                guard channel.isActive else { return task.cancel() }
                channel.writeAndFlush(ByteBuffer(bytes: [0]), promise: nil)
            }
        }

        @Test func whoDripsIsCutOff() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve {
                    $0.requestTimeout = .milliseconds(300)
                    $0.connectTimeout = .milliseconds(300)
                }
                let (source, target) = (try await hosts.make(listens: false), try await hosts.make(listens: false))
                try await source.join(relay)
                target.handle(CircuitProtocol.stop) { stream in
                    Self.drip(on: stream.channel)
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                try await target.join(relay)
                // The target's answer.
                let request = HopMessage.connect(to: target.peerID).buffer
                #expect(try await self.answer(relay, source, request) == .connectionFailed)
                try await eventually("the circuit is forgotten") { await service.metrics().openCircuits == 0 }
                // The source's request.
                let stream = try await source.openStream(to: relay.peerID, protocols: [CircuitProtocol.hop])
                Self.drip(on: stream.channel)
                try await stream.channel.eventLoop.submit { stream.channel.read() }.get()
                try await stream.channel.closeFuture.get()
                try await eventually("the stream is forgotten") { relay.metrics.openStreamsInbound == 0 }
            }
        }

        /// What the peer of a circuit answers to the relay, and what the source then hears.
        private static let answers: [(String, ByteBuffer?)] = [
            ("a status that is none", ByteBuffer(bytes: [0x02, 0x08, 0x01])),
            ("a refusal", ByteBuffer(bytes: [0x05, 0x08, 0x01, 0x20, 0xCA, 0x01])),
            ("a request", ByteBuffer(bytes: [0x02, 0x08, 0x00])),
            ("garbage", ByteBuffer(bytes: [0x03, 0xFF, 0xFF, 0xFF])),
            ("too much", ByteBuffer(bytes: [0xFF, 0xFF, 0x7F])),
            ("nothing", nil),
        ]

        @Test(arguments: Self.answers.indices) func aTargetThatDoesNotAcceptIsTold(_ index: Int) async throws {
            let (_, bytes) = Self.answers[index]
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve { $0.connectTimeout = .milliseconds(bytes == nil ? 100 : 30_000) }
                let target = try await hosts.make(listens: false)
                target.handle(CircuitProtocol.stop) { stream in
                    if let bytes { stream.channel.writeAndFlush(bytes, promise: nil) }
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                try await target.join(relay)
                let source = try await hosts.make(listens: false)
                try await source.join(relay)
                let request = HopMessage.connect(to: target.peerID).buffer
                #expect(try await self.answer(relay, source, request) == .connectionFailed)
                try await eventually("it is forgotten") { await service.metrics().openCircuits == 0 }
                #expect(await service.metrics().circuitsFailed == 1)
            }
        }

        @Test func aTargetThatKnowsNoCircuitsIsTold() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve()
                let target = try await hosts.make(listens: false)
                try await target.join(relay)
                let source = try await hosts.make(listens: false)
                try await source.join(relay)
                let request = HopMessage.connect(to: target.peerID).buffer
                #expect(try await self.answer(relay, source, request) == .connectionFailed)
                #expect(await service.metrics().circuitsFailed == 1)
            }
        }

        /// Bytes that come in one write with the request, and with the answer, are part of the circuit.
        @Test func bytesBehindTheMessagesAreNotLost() async throws {
            let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
            try await Hosts.with { hosts in
                let relay = try await hosts.make(group: group)
                let service = relay.serve()
                let target = try await hosts.make(listens: false)
                target.handle(CircuitProtocol.stop) { stream in
                    let channel = stream.channel
                    return channel.eventLoop.makeCompletedFuture {
                        let exchange = try MessageExchange.begin(on: channel)
                        exchange.read(within: .seconds(20)) { _ in
                            var answer = ByteBuffer()
                            answer.writeVarintPrefixed(StopMessage.status(.ok).buffer)
                            answer.writeString("early from target,")
                            channel.writeAndFlush(answer, promise: nil)
                            // Then an echo of what it has, with what came early.
                            guard var early = try? exchange.leave() else { return }
                            early.writeString("!")
                            channel.writeAndFlush(early, promise: nil)
                            channel.close(mode: .output, promise: nil)
                        }
                    }
                }
                try await target.join(relay)
                for _ in 0..<4 {
                    let source = try await hosts.make(listens: false)
                    try await source.join(relay)
                    var request = ByteBuffer()
                    request.writeVarintPrefixed(HopMessage.connect(to: target.peerID).buffer)
                    request.writeString("early from source")
                    var bytes = try await self.ask(relay, source, request)
                    let answer = try #require(try bytes.readVarintPrefixed(maximumLength: 100))
                    #expect(try HopMessage(answer).status == .ok)
                    #expect(String(buffer: bytes) == "early from target,!")
                }
                #expect(await service.metrics().bytesFromSources == 4 * 17)
            }
            try await group.shutdownGracefully()
        }

        @Test func nothingIsReservedOverARelay() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let outer = relay.serve()
                // A relay that is itself behind a relay.
                let inner = try await hosts.make(listens: false)
                let service = inner.serve()
                let client = hosts.client(of: inner, relay)
                try await client.holds(1)
                let source = try await hosts.make(listens: false)
                hosts.client(of: source)
                let connection = try await source.connect(to: inner.peerID, addresses: relay.circuit(to: inner))
                #expect(connection.isRelayed)
                #expect(try await self.answer(inner, source, HopMessage.reserve.buffer) == .permissionDenied)
                let request = HopMessage.connect(to: relay.peerID).buffer
                #expect(try await self.answer(inner, source, request) == .permissionDenied)
                #expect(await service.metrics().reservationsRefused == 1)
                withExtendedLifetime(outer) {}
            }
        }

        /// What a false relay says on a stop stream, and what it hears.
        private static let stops: [(ByteBuffer, CircuitStatus)] = [
            (StopMessage.status(.ok).buffer, .unexpectedMessage),
            (StopMessage(kind: .connect).buffer, .malformedMessage),
            (ByteBuffer(bytes: [0x08, 0x09]), .malformedMessage),
        ]

        @Test func falseRelaysAreRefused() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let target = try await hosts.make()
                let denied = KeyPair.generate().peerID
                let client = hosts.client(of: target) { $0.acceptCircuit = { _, source in source != denied } }
                _ = try await relay.connect(to: target.peerID, addresses: target.addresses)
                let requests = Self.stops + [(StopMessage.connect(from: denied, limit: nil).buffer, .permissionDenied)]
                for (request, status) in requests {
                    let stream = try await relay.openStream(to: target.peerID, protocols: [CircuitProtocol.stop])
                    var framed = ByteBuffer()
                    framed.writeVarintPrefixed(request)
                    var bytes = try await stream.exchange(framed, ending: false)
                    let answer = try #require(try bytes.readVarintPrefixed(maximumLength: 100))
                    #expect(try StopMessage(answer).status == status)
                }
                #expect(client.metrics.circuitsRefused == UInt64(requests.count))
                // Accepted, but then nothing that a handshake could be.
                let stream = try await relay.openStream(to: target.peerID, protocols: [CircuitProtocol.stop])
                var framed = ByteBuffer()
                framed.writeVarintPrefixed(StopMessage.connect(from: KeyPair.generate().peerID, limit: nil).buffer)
                framed.writeBytes([UInt8](repeating: 0xA5, count: 2000))
                _ = try? await stream.exchange(framed)
                try await eventually("it is given up") { target.metrics.inboundHandshakes == 0 }
                #expect(target.connections.count == 1)
            }
        }

        /// A relay that answers a request for a reservation or a circuit with nonsense.
        @Test(
            arguments: [
                [0x02, 0x08, 0x00], [0x02, 0x08, 0x02], [0x04, 0x08, 0x02, 0x28, 0x64], [0x03, 0xFF, 0xFF, 0xFF],
                [0xFF, 0xFF, 0x7F], [0x00],
            ] as [[UInt8]]
        ) func relaysThatTalkNonsenseAreGivenUp(_ answer: [UInt8]) async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                relay.handle(CircuitProtocol.hop) { stream in
                    stream.channel.writeAndFlush(ByteBuffer(bytes: answer), promise: nil)
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                let host = try await hosts.make(listens: false)
                let client = hosts.client(of: host, relay)
                try await eventually("it is tried again") { client.metrics.reservationsFailed >= 2 }
                #expect(client.reservations.isEmpty)
                let other = KeyPair.generate().peerID
                // An answer of OK makes a circuit, with nobody behind it: the handshake does not come about.
                await #expect(throws: LibP2PError.self) {
                    _ =
                        try await host.connect(
                            to: other,
                            addresses: relay.addresses.map { $0.appending(.circuit) },
                            options: DialOptions(timeout: .milliseconds(300))
                        ) as Connection
                }
            }
        }

        @Test func addressesThatMakeNoSenseAreNotDialled() async throws {
            try await Hosts.with { hosts in
                let host = try await hosts.make()
                hosts.client(of: host)
                let transport = CircuitTransport(host: host)
                let (a, b) = (KeyPair.generate().peerID, KeyPair.generate().peerID)
                let plain = try Multiaddr("/ip4/127.0.0.1/tcp/1")
                #expect(!transport.canDial(plain))
                #expect(!transport.canDial(plain.appending(.circuit)))
                #expect(transport.canDial(plain.appending(.p2p(a)).appending(.circuit)))
                #expect(
                    !transport.canDial(
                        plain.appending(.p2p(a)).appending(.circuit).appending(.p2p(b)).appending(.circuit)
                    )
                )
                for address in [
                    plain.appending(.p2p(a)).appending(.circuit),
                    plain.appending(.p2p(a)).appending(.circuit).appending(.p2p(a)),
                    plain.appending(.p2p(host.peerID)).appending(.circuit).appending(.p2p(a)),
                ] {
                    let loop = host.group.next()
                    await #expect(throws: LibP2PError.self) {
                        _ = try await transport.dial(
                            address,
                            on: loop,
                            options: TransportDialOptions(deadline: .now() + .seconds(5))
                        ).get()
                    }
                }
            }
        }
    }
}
