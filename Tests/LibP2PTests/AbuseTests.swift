import LibP2PSecurity
import MeshTesting
import Multiformats
import NIOCore
import PeerIdentity
import Synchronization
import Testing
import Yamux

@testable import LibP2P

extension SocketTests {
    /// What a peer with a good identity may do on its connection, and what ends it.
    @Suite struct AbuseTests {
        /// Two hosts with a connection, as the peer sees it.
        private static func connected(
            _ configure: (inout HostConfiguration) -> Void = { _ in },
            prepare: (Host) -> Void = { _ in },
            _ body: (_ server: Host, _ peer: Host, _ connection: Connection) async throws -> Void
        ) async throws {
            let server = try await makeHost(configure)
            // What it tells in the test's words is not to be followed by the truth.
            let peer = try await makeHost(listen: []) { $0.identifyPushDelay = .hours(1) }
            try await withHosts(server, peer) {
                prepare(peer)
                let connection = try await peer.connect(to: server.peerID, addresses: server.listenAddresses)
                try await eventually("the server has it, too") { server.connections.count == 1 }
                try await body(server, peer, connection)
            }
        }

        /// Frames of yamux as the peer likes them, below its own session.
        private static func frame(
            _ type: UInt8,
            _ flags: UInt16,
            _ stream: UInt32,
            _ payload: String = ""
        ) -> ByteBuffer {
            var frame = ByteBuffer()
            frame.writeMultipleIntegers(UInt8(0), type, flags, stream, UInt32(payload.utf8.count))
            frame.writeString(payload)
            return frame
        }

        /// The peer's own session knows nothing of the streams that its test opens, and is not to hear of them.
        private static func stopListening(_ connection: Connection) async throws {
            let channel = connection.channel
            try await channel.eventLoop.submit {
                try channel.pipeline.syncOperations.addHandler(DeafHandler(), position: .first)
            }.get()
        }

        private static func expectEnd(
            _ server: Host,
            _ connection: Connection,
            because reason: String
        ) async throws {
            try await eventually("the connection is closed", within: .seconds(60)) { server.connections.isEmpty }
            #expect(server.metrics.connectionsAbused == 1)
            let error = try #require(connection.closeError)
            #expect(error.code == .limitExceeded)
            #expect(error.description.contains(reason), "\(error)")
            try await eventually("nothing is left") { server.resources.withLock { $0.scopeCount == 0 } }
        }

        /// After CVE-2023-44487 of HTTP/2: each stream costs the victim much and the attacker nothing.
        @Test(
            arguments: [
                (HostConfiguration().failedStreamBurst, "failedStreamsPerSecond"),
                // Too often, or without reading that they are refused: whichever comes first.
                (1e9, "the peer opens"),
            ]
        )
        func aHundredThousandStreamsThatAreResetEndTheConnection(_ burst: Double, _ reason: String) async throws {
            try await Self.connected {
                $0.yamux.maximumInboundStreams = 1000
                $0.failedStreamBurst = burst
            } _: { server, _, connection in
                let accepted = try #require(server.connections.first)
                try await Self.stopListening(connection)
                let ours = connection.channel
                let began = NIODeadline.now()
                for batch in 0..<100 as Range<UInt32> {
                    var frames = ByteBuffer()
                    for index in 0..<1000 as Range<UInt32> {
                        // Streams of the peer's own begin with low numbers.
                        let id = 2 * (1000 * batch + index) + 1001
                        frames.writeImmutableBuffer(Self.frame(1, 1, id))
                        frames.writeImmutableBuffer(Self.frame(1, 8, id))
                    }
                    ours.writeAndFlush(frames, promise: nil)
                }
                try await Self.expectEnd(server, accepted, because: reason)
                // The burst, and what each second adds by `resetsPerSecond`.
                let seconds = (NIODeadline.now() - began).nanoseconds / 1_000_000_000 + 1
                #expect(server.metrics.streamsAccepted < 6000 + 200 * UInt64(seconds), "it went on for too long")
            }
        }

        /// The same, but the victim is made to do the resetting (CVE-2025-8671).
        @Test func streamsThatAgreeOnNothingEndTheConnection() async throws {
            try await Self.connected {
                $0.failedStreamBurst = 100
                $0.failedStreamsPerSecond = 1
            } _: { server, _, connection in
                let accepted = try #require(server.connections.first)
                try await Self.stopListening(connection)
                for index in 0..<1000 as Range<UInt32> {
                    connection.channel.writeAndFlush(Self.frame(0, 1, 2 * index + 1001, "no header\n"), promise: nil)
                }
                try await Self.expectEnd(server, accepted, because: "failedStreamsPerSecond")
                #expect(server.metrics.streamsAccepted < 1000)
            }
        }

        @Test func aFewStreamsThatAgreeOnNothingDoNoHarm() async throws {
            try await Self.connected { server, _, connection in
                for _ in 0..<100 {
                    await #expect(throws: (any Error).self) {
                        try await connection.openStream(protocols: ["/none", "/neither"]).get()
                    }
                }
                try await eventually("all are counted") { server.metrics.negotiationsFailed >= 100 }
                #expect(connection.isOpen)
                #expect(server.metrics.connectionsAbused == 0)
            }
        }

        // MARK: Identify

        private static let endless = ByteBuffer(repeating: 1, count: 1 << 20)

        /// As many addresses and names as its bounds let through, and one address of far too many parts.
        private static let full: ByteBuffer = {
            var all = ByteBuffer()
            for part in 0..<3 as Range<UInt8> {
                var writer = ProtobufWriter()
                for number in 0..<200 as Range<UInt8> {
                    writer.write(bytes: [4, 192, 0, part, number, 6, 0, 1], to: 2)
                    writer.write(text: "/\(part)/\(number)", to: 3)
                }
                writer.write(bytes: (0..<200).flatMap { _ in [0xA2, 0x02] as [UInt8] }, to: 2)
                writer.write(text: String(repeating: "a", count: 2000), to: 6)
                all.writeVarintPrefixed(writer.buffer)
            }
            return all
        }()

        private static func identifies(_ host: Host, as message: ByteBuffer) {
            host.handle(.identify) { stream in
                stream.channel.writeAndFlush(message, promise: nil)
                stream.channel.close(mode: .output, promise: nil)
                return stream.channel.eventLoop.makeSucceededVoidFuture()
            }
        }

        private static func tellsWithoutEnd(_ host: Host) { self.identifies(host, as: self.endless) }
        private static func tellsAllThatFits(_ host: Host) { self.identifies(host, as: self.full) }

        @Test func aHugeIdentifyIsCutOff() async throws {
            try await Self.connected(prepare: Self.tellsWithoutEnd) { server, peer, connection in
                try await eventually("identify has failed") { server.metrics.identifiesFailed == 1 }
                #expect(server.connections(to: peer.peerID).first?.identification == nil)
                #expect(connection.isOpen)
                server.echo("/echo")
                let stream = try await connection.openStream(protocols: ["/echo"]).get()
                #expect(try await stream.exchange("still here") == "still here")
            }
        }

        @Test func aFullIdentifyIsCutDown() async throws {
            try await Self.connected(prepare: Self.tellsAllThatFits) { server, peer, _ in
                try await eventually("identified") {
                    server.connections(to: peer.peerID).first?.identification != nil
                }
                let told = try #require(server.connections(to: peer.peerID).first?.identification)
                #expect(told.listenAddresses.count == IdentifyMessage.maximumAddresses)
                #expect(told.listenAddresses.allSatisfy { $0.components.count == 2 }, "no bomb among them")
                #expect(told.protocols.count == IdentifyMessage.maximumProtocols)
                #expect(told.agentVersion.count == 256)
                #expect(
                    server.peers.addresses(of: peer.peerID).count
                        <= server.configuration.peerStore.maximumAddressesPerPeer
                )
            }
        }

        @Test func anIdentifyThatDripsIsGivenUp() async throws {
            try await Self.connected {
                $0.identifyTimeout = .milliseconds(300)
            } prepare: { peer in
                peer.handle(.identify) { stream in
                    stream.channel.eventLoop.scheduleRepeatedTask(
                        initialDelay: .zero,
                        delay: .milliseconds(10)
                    ) { task in
                        guard stream.channel.isActive else { return task.cancel() }
                        stream.channel.writeAndFlush(ByteBuffer(bytes: [0x7F]), promise: nil)
                    }
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
            } _: { server, _, connection in
                try await eventually("identify has failed") { server.metrics.identifiesFailed == 1 }
                #expect(connection.isOpen)
            }
        }

        // MARK: Memory

        /// A protocol whose handler does not read yet, as it waits for something else: what comes with the proposal waits in the
        /// session, where it counts.
        @Test func littleIsHeldForHandlersThatDoNotReadYet() async throws {
            try await Self.connected { server, _, connection in
                server.handle("/stalled") { $0.channel.eventLoop.makeSucceededVoidFuture() }
                let stream = try await connection.openStream(protocols: ["/stalled"]).get()
                stream.channel.writeAndFlush(ByteBuffer(repeating: 1, count: 200 * 1024), promise: nil)
                try await eventually("all has come") {
                    server.metrics.unreadBytes >= 200 * 1024 - StreamNegotiator.maximumRead
                }
                stream.reset()
                try await eventually("nothing is held") { server.metrics.unreadBytes == 0 }
            }
        }

        /// A host whose handlers read nothing, and a peer that sends all it may, on all the streams that it may open.
        @Test func unreadBytesAreBoundedForTheHost() async throws {
            let budget = 2 << 20
            try await Self.connected {
                $0.limits.unreadBytes = budget
            } _: { server, peer, connection in
                server.echo("/echo")
                server.handle("/stalled") { $0.channel.eventLoop.makeSucceededVoidFuture() }
                // 64 streams of 256 KiB each.
                let payload = ByteBuffer(repeating: 1, count: 256 * 1024)
                for _ in 0..<64 {
                    let stream = try await connection.openStream(protocols: ["/stalled"]).get()
                    stream.channel.writeAndFlush(payload, promise: nil)
                }
                try await eventually("the bound is reached") {
                    server.metrics.streamsResetUnread + server.metrics.streamsRefusedUnread > 0
                }
                #expect(server.metrics.unreadBytes <= budget + 256 * 1024)
                try await Self.othersAreServed(by: server)
                server.disconnect(from: peer.peerID)
                try await eventually("nothing is held") { server.metrics.unreadBytes == 0 }
            }
        }

        /// A host whose handlers write whatever they are asked for, and a peer that asks on many streams and reads none.
        @Test func unsentBytesAreBoundedForTheHost() async throws {
            let budget = 2 << 20
            try await Self.connected {
                $0.limits.unsentBytes = budget
            } _: { server, peer, connection in
                server.echo("/echo")
                // Beyond the peer's window of 256 KiB.
                let payload = ByteBuffer(repeating: 1, count: 512 * 1024)
                server.handle("/flood") { stream in
                    stream.channel.writeAndFlush(payload, promise: nil)
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                for _ in 0..<16 { _ = try await connection.openStream(protocols: ["/flood"]).get() }
                try await eventually("the bound is reached") { server.metrics.writesFailedUnsent > 0 }
                // Whoever holds it all writes nothing beyond it.
                #expect(server.metrics.unsentBytes <= budget)
                try await Self.othersAreServed(by: server)
                #expect(server.metrics.unsentBytes <= budget)
                server.disconnect(from: peer.peerID)
                try await eventually("nothing is held") { server.metrics.unsentBytes == 0 }
            }
        }

        /// Another peer has its echo.
        private static func othersAreServed(by server: Host) async throws {
            let other = try await makeHost(listen: [])
            try await withHosts(other) {
                let stream = try await other.connect(to: server.peerID, addresses: server.listenAddresses)
                    .openStream(protocols: ["/echo"]).get()
                let bytes = ByteBuffer(repeating: 2, count: 1 << 20)
                #expect(try await stream.exchange(bytes) == bytes)
            }
        }
    }
}

/// Passes nothing on.
private final class DeafHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {}
}
