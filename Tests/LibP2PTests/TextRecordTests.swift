import DNSWire
import MeshCore
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import LibP2P

extension SocketTests {
    /// TXT records from DNS servers on loopback.
    @Suite struct TextRecordTests {
        /// A server that answers over UDP and TCP as the test says, without framing its lies.
        struct Server {
            let address: TransportAddress
            let channels: [any Channel]
            let questions: Counter

            final class Counter: Sendable {
                let udp = Mutex(0)
                let tcp = Mutex(0)
            }

            static func start(
                udp: @escaping @Sendable (Message) -> [Message],
                tcp: @escaping @Sendable (Message) -> [Message] = { _ in [] }
            ) async throws -> Server {
                let group = MultiThreadedEventLoopGroup.singleton
                let counter = Counter()
                let datagrams = try await DatagramBootstrap(group: group).channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(Packets(counter: counter, answer: udp))
                    }
                }.bind(host: "127.0.0.1", port: 0).get()
                let bound = try #require(datagrams.localAddress)
                let bootstrap = ServerBootstrap(group: group).childChannelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(Stream(counter: counter, answer: tcp))
                    }
                }
                guard let streams = try? await bootstrap.bind(to: bound).get() else {
                    // The port is someone else's over TCP: another.
                    try await datagrams.close()
                    return try await Self.start(udp: udp, tcp: tcp)
                }
                return Server(
                    address: try #require(TransportAddress("\(bound.ipAddress ?? ""):\(bound.port ?? 0)")),
                    channels: [datagrams, streams],
                    questions: counter
                )
            }

            func stop() async throws {
                for channel in self.channels { try await channel.close() }
            }
        }

        final class Packets: ChannelInboundHandler {
            typealias InboundIn = AddressedEnvelope<ByteBuffer>
            typealias OutboundOut = AddressedEnvelope<ByteBuffer>
            let counter: Server.Counter
            let answer: (Message) -> [Message]

            init(counter: Server.Counter, answer: @escaping (Message) -> [Message]) {
                self.counter = counter
                self.answer = answer
            }

            func channelRead(context: ChannelHandlerContext, data: NIOAny) {
                let packet = self.unwrapInboundIn(data)
                guard let query = try? Message(parsing: packet.data) else { return }
                self.counter.udp.withLock { $0 += 1 }
                for answer in self.answer(query) {
                    let envelope = AddressedEnvelope(remoteAddress: packet.remoteAddress, data: answer.encoded())
                    context.writeAndFlush(self.wrapOutboundOut(envelope), promise: nil)
                }
            }
        }

        final class Stream: ChannelInboundHandler {
            typealias InboundIn = ByteBuffer
            typealias OutboundOut = ByteBuffer
            let counter: Server.Counter
            let answer: (Message) -> [Message]

            init(counter: Server.Counter, answer: @escaping (Message) -> [Message]) {
                self.counter = counter
                self.answer = answer
            }

            func channelRead(context: ChannelHandlerContext, data: NIOAny) {
                var bytes = self.unwrapInboundIn(data)
                guard let packet = bytes.readLengthPrefixedSlice(as: UInt16.self),
                    let query = try? Message(parsing: packet)
                else { return }
                self.counter.tcp.withLock { $0 += 1 }
                for answer in self.answer(query) {
                    let encoded = answer.encoded()
                    var output = ByteBuffer(integer: UInt16(encoded.readableBytes))
                    output.writeImmutableBuffer(encoded)
                    // In pieces, as a network may.
                    while output.readableBytes > 0 {
                        let piece = output.readSlice(length: min(100, output.readableBytes)) ?? ByteBuffer()
                        context.writeAndFlush(self.wrapOutboundOut(piece), promise: nil)
                    }
                }
                context.close(promise: nil)
            }
        }

        private static func answer(_ query: Message, _ texts: [String], _ flags: MessageFlags = []) -> Message {
            var message = Message(id: query.id, flags: flags.union(.response), questions: query.questions)
            message.answers = texts.map { text in
                // Each string has at most 255 bytes.
                let bytes = Array(text.utf8)
                let strings = stride(from: 0, to: bytes.count, by: 200).map {
                    Array(bytes[$0..<min(bytes.count, $0 + 200)])
                }
                return ResourceRecord(query.questions[0].name, ttl: 1, .txt(strings))
            }
            return message
        }

        private static func ask(
            _ servers: [TransportAddress],
            timeout: TimeAmount = .seconds(30)
        ) async throws -> [String] {
            let loop = MultiThreadedEventLoopGroup.singleton.next()
            return try await TextRecordClient(servers: servers, timeout: timeout)
                .texts(of: "_dnsaddr.a.example", on: loop).get()
        }

        @Test func textsComeOverUDP() async throws {
            let long = String(repeating: "x", count: 500)
            let server = try await Server.start(udp: { query in
                // Answers to other questions come first.
                var forged = Self.answer(query, ["forged"])
                forged.id &+= 1
                var other = Self.answer(query, ["other"])
                other.questions = [Question(.root, .txt)]
                return [forged, other, query, Self.answer(query, ["dnsaddr=/a", long])]
            })
            #expect(try await Self.ask([server.address]) == ["dnsaddr=/a", long])
            #expect(server.questions.tcp.withLock { $0 } == 0)
            try await server.stop()
        }

        @Test func whatDoesNotFitComesOverTCP() async throws {
            let texts = (0..<50).map { "dnsaddr=/ip4/192.0.2.\($0)/tcp/1" }
            let server = try await Server.start(
                udp: { [Self.answer($0, [], .truncated)] },
                tcp: { [Self.answer($0, texts)] }
            )
            #expect(try await Self.ask([server.address]) == texts)
            #expect(server.questions.tcp.withLock { $0 } == 1)
            try await server.stop()
        }

        @Test func theNextServerIsAsked() async throws {
            let broken = try await Server.start(udp: { query in
                var message = Self.answer(query, [])
                message.responseCode = .serverFailure
                return [message]
            })
            // Truncated, and then nothing over TCP.
            let cut = try await Server.start(udp: { [Self.answer($0, [], .truncated)] })
            let sound = try await Server.start(udp: { [Self.answer($0, ["yes"])] })
            #expect(try await Self.ask([broken.address, cut.address, sound.address]) == ["yes"])
            for server in [broken, cut, sound] { try await server.stop() }
        }

        @Test func failuresAreNamed() async throws {
            let unknown = try await Server.start(udp: { query in
                var message = Self.answer(query, [])
                message.responseCode = .nameError
                return [message]
            })
            var error = await #expect(throws: LibP2PError.self) { try await Self.ask([unknown.address]) }
            #expect(error?.code == .resolutionFailed)
            #expect(unknown.questions.udp.withLock { $0 } == 1)
            let silent = try await Server.start(udp: { _ in [] })
            error = await #expect(throws: LibP2PError.self) {
                try await Self.ask([silent.address], timeout: .milliseconds(20))
            }
            #expect(error?.code == .resolutionFailed)
            #expect(silent.questions.udp.withLock { $0 } == 2)
            let loop = MultiThreadedEventLoopGroup.singleton.next()
            error = await #expect(throws: LibP2PError.self) {
                try await TextRecordClient(servers: [silent.address])
                    .texts(of: String(repeating: "a", count: 300), on: loop).get()
            }
            #expect(error?.code == .resolutionFailed)
            for server in [unknown, silent] { try await server.stop() }
        }

        @Test func serversAreThoseOfResolvConf() throws {
            let text =
                "# nameserver 1.1.1.1\nsearch a b\nnameserver 192.0.2.1\n\tnameserver  2001:db8::1  # x\r\n"
                + "nameserver fe80::1%eth0\nnameserver\nnameserver 192.0.2.3\nnameserver 192.0.2.4\noptions ndots:5"
            #expect(
                TextRecordClient.servers(resolvConf: text).map(\.description)
                    == ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"]
            )
            #expect(TextRecordClient.servers(resolvConf: "").map(\.description) == ["127.0.0.1:53"])
        }
    }
}
