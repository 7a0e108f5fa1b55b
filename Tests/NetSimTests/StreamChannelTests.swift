import Glibc
import MeshCore
import NIOCore
import NetSim
import Synchronization
import Testing

@Suite struct StreamChannelTests {
    private static let server: TransportAddress = "203.0.113.2:4001"

    @Test func bytesAndEndsTravelBothWays() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                let start = simulation.loop.now
                let talk = try await Conversation.open(from: one, to: other, at: Self.server)
                #expect(talk.client.remoteAddress == talk.server.localAddress)
                #expect(talk.client.localAddress == talk.server.remoteAddress)
                // A round trip, and half of one for the acknowledgement.
                #expect(simulation.loop.now - start == .milliseconds(30))
                try await talk.client.writeAndFlush(ByteBuffer(string: "ping")).get()
                try await talk.client.close(mode: .output).get()
                #expect(talk.serverInbox.text == "ping")
                #expect(talk.serverInbox.now.hasEnded)
                #expect(talk.serverInbox.now.isClosed == false)
                try await talk.server.writeAndFlush(ByteBuffer(string: "pong")).get()
                try await talk.server.close().get()
                try await talk.client.closeFuture.get()
                #expect(talk.clientInbox.text == "pong")
                #expect(talk.clientInbox.now.isActive && talk.serverInbox.now.isActive)
                #expect(talk.clientInbox.now.error == nil && talk.serverInbox.now.error == nil)
            }
            try simulation.run(for: .minutes(2))
            #expect(one.connections == 0 && other.connections == 0)
        }
    }

    @Test func connectingFailsAsItDoesOnRealMachines() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            func failure(
                _ to: TransportAddress,
                _ from: TransportAddress? = nil,
                seconds: Int64 = 600
            ) throws -> (any Error)? {
                try simulation.run {
                    do {
                        let deadline = simulation.loop.now + .seconds(seconds)
                        try await one.connect(to: to, from: from, deadline: deadline).get().close().get()
                        return nil
                    } catch { return error }
                }
            }
            #expect(errno(try failure(Self.server)) == ECONNREFUSED)
            #expect(errno(try failure("127.0.0.1:9")) == ECONNREFUSED)
            let start = simulation.loop.now
            #expect(errno(try failure("203.0.113.99:80")) == ETIMEDOUT)
            #expect(simulation.loop.now - start == .seconds(127))
            guard case .connectTimeout? = try failure("203.0.113.99:80", seconds: 5) as? ChannelError else {
                return #expect(Bool(false), "no timeout")
            }
            #expect(errno(try failure("[2001:db8::1]:80")) == ENETUNREACH)
            #expect(errno(try failure(Self.server, "10.0.0.1:0")) == EADDRNOTAVAIL)
            other.answersClosedPorts = false
            #expect(errno(try failure(Self.server)) == ETIMEDOUT)
        }
    }

    @Test func aNeighbourThatIsNotThereIsUnreachable() throws {
        withSimulation(seed: 1) { simulation in
            let lan = simulation.network("lan", ["10.0.0.0/24"])
            let machine = simulation.machine("one")
            machine.attach(to: lan, "10.0.0.1")
            let error = #expect(throws: IOError.self) {
                try simulation.run { _ = try await machine.connect(to: "10.0.0.2:80").get() }
            }
            #expect(errno(error) == EHOSTUNREACH)
        }
    }

    @Test func portsAreReusedOnlyIfAllWantIt() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                _ = try await other.listen(on: Self.server) { _ in }.get()
                let port: TransportAddress = "0.0.0.0:4001"
                _ = try await one.listen(on: port, reuse: true) { _ in }.get()
                let channel = try await one.connect(to: Self.server, from: port, reuse: true).get()
                #expect(channel.localAddress?.port == 4001)
                // The same two endpoints have one connection.
                for (reuse, code) in [(true, EADDRNOTAVAIL), (false, EADDRINUSE)] {
                    do {
                        _ = try await one.connect(to: Self.server, from: port, reuse: reuse).get()
                        #expect(Bool(false), "connected")
                    } catch {
                        #expect(errno(error) == code)
                    }
                }
            }
        }
    }

    /// Both ends dial at once, from the ports that the other dials: one connection, on which both are active.
    @Test func bothEndsMayOpen() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                let (a, b): (TransportAddress, TransportAddress) = ("203.0.113.1:4001", "203.0.113.2:4001")
                async let left = one.connect(to: b, from: a).get()
                async let right = other.connect(to: a, from: b).get()
                let channels = try await (left, right)
                let inbox = Inbox()
                try channels.1.pipeline.syncOperations.addHandler(inbox)
                try await channels.0.writeAndFlush(ByteBuffer(string: "hello")).get()
                try await simulation.loop.scheduleTask(in: .seconds(1)) {}.futureResult.get()
                #expect(inbox.text == "hello")
                #expect(one.connections == 1 && other.connections == 1)
            }
        }
    }

    /// A megabyte each way over a link that loses, delays and reorders.
    @Test(arguments: [UInt64(1), 2, 3])
    func badLinksOnlyDelay(_ seed: UInt64) throws {
        let link = Link(delay: .milliseconds(20), jitter: .milliseconds(30), loss: 0.05, bandwidth: 50_000_000)
        try withSimulation(seed: seed, link: link) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                let talk = try await Conversation.open(from: one, to: other, at: Self.server) { channel in
                    try channel.pipeline.syncOperations.addHandler(Echo())
                }
                let bytes = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
                for start in stride(from: 0, to: bytes.count, by: 10_000) {
                    talk.client.write(ByteBuffer(bytes: bytes[start..<(start + 10_000)]), promise: nil)
                }
                talk.client.flush()
                try await talk.client.close(mode: .output).get()
                try await talk.client.closeFuture.get()
                #expect(talk.clientInbox.now.bytes == bytes)
            }
            #expect(simulation.trace.dropped > 0)
        }
    }

    @Test func aReaderThatDoesNotReadStopsTheWriter() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                let talk = try await Conversation.open(from: one, to: other, at: Self.server) { channel in
                    try channel.syncOptions?.setOption(.autoRead, value: false)
                }
                for _ in 0..<32 { talk.client.write(ByteBuffer(repeating: 1, count: 100_000), promise: nil) }
                talk.client.flush()
                try await simulation.loop.scheduleTask(in: .minutes(1)) {}.futureResult.get()
                #expect(!talk.client.isWritable)
                #expect(talk.serverInbox.now.reads == 0)
                // What is not in either buffer still waits in the channel.
                let waiting = try await talk.client.getOption(.bufferedWritableBytes).get()
                #expect(waiting == 3_200_000 - 2 * TCPConfiguration().sendBuffer)
                talk.server.read()
                #expect(talk.serverInbox.now.reads > 0)
                try await talk.server.setOption(.autoRead, value: true).get()
                try await simulation.loop.scheduleTask(in: .minutes(1)) {}.futureResult.get()
                #expect(talk.client.isWritable)
                #expect(talk.clientInbox.now.writability == [false, true])
                #expect(talk.serverInbox.now.bytes.count == 3_200_000)
            }
        }
    }

    @Test func resetsAreErrors() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                let talk = try await Conversation.open(from: one, to: other, at: Self.server)
                if let options = talk.server as? any SocketOptionProvider {
                    try await options.setSoLinger(linger(l_onoff: 1, l_linger: 0)).get()
                }
                try await talk.server.close().get()
                try await talk.client.closeFuture.get()
                #expect(errno(talk.clientInbox.now.error) == ECONNRESET)
                #expect(talk.clientInbox.now.isClosed)
            }
            #expect(one.connections == 0 && other.connections == 0)
        }
    }

    @Test func withoutHalfClosureThePeersEndClosesTheChannel() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                let talk = try await Conversation.open(from: one, to: other, at: Self.server, halfClosure: false)
                try await talk.server.close(mode: .output).get()
                try await talk.client.closeFuture.get()
                try await talk.server.closeFuture.get()
                #expect(talk.clientInbox.now.error == nil && talk.serverInbox.now.error == nil)
            }
        }
    }

    @Test func closingFailsWhatWasNotWritten() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                let talk = try await Conversation.open(from: one, to: other, at: Self.server, halfClosure: false)
                let write = talk.client.write(ByteBuffer(string: "never flushed"))
                try await talk.client.close().get()
                await #expect(throws: ChannelError.self) { try await write.get() }
                await #expect(throws: ChannelError.self) { try await talk.client.close().get() }
                await #expect(throws: ChannelError.self) {
                    try await talk.client.writeAndFlush(ByteBuffer(string: "late")).get()
                }
                try await talk.server.closeFuture.get()
                #expect(talk.serverInbox.text == "")
            }
        }
    }

    @Test func aCrashIsNotToldAndARebootResets() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run(within: .hours(2)) {
                let talk = try await Conversation.open(from: one, to: other, at: Self.server)
                other.crash()
                try await simulation.loop.scheduleTask(in: .minutes(60)) {}.futureResult.get()
                #expect(talk.client.isActive)
                try await talk.client.writeAndFlush(ByteBuffer(string: "are you there")).get()
                try await talk.client.closeFuture.get()
                #expect(errno(talk.clientInbox.now.error) == ECONNRESET)
            }
        }
    }

    @Test func partitionsHealAndSleepersWake() throws {
        try withSimulation(seed: 1) { simulation in
            let (one, other) = simulation.twoMachines()
            try simulation.run {
                let talk = try await Conversation.open(from: one, to: other, at: Self.server)
                simulation.internet.cut([one], from: [other])
                try await talk.client.writeAndFlush(ByteBuffer(string: "a")).get()
                try await simulation.loop.scheduleTask(in: .seconds(60)) {}.futureResult.get()
                #expect(talk.serverInbox.text == "")
                simulation.internet.heal()
                try await simulation.loop.scheduleTask(in: .seconds(120)) {}.futureResult.get()
                #expect(talk.serverInbox.text == "a")
                other.isAsleep = true
                try await talk.client.writeAndFlush(ByteBuffer(string: "b")).get()
                try await simulation.loop.scheduleTask(in: .seconds(60)) {}.futureResult.get()
                #expect(talk.serverInbox.text == "a")
                other.isAsleep = false
                try await simulation.loop.scheduleTask(in: .seconds(120)) {}.futureResult.get()
                #expect(talk.serverInbox.text == "ab")
            }
        }
    }
}
