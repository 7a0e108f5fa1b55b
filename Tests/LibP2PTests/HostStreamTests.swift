import LibP2PSecurity
import MeshCore
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import LibP2P

extension SocketTests {
    /// Streams, identify, events and the end of hosts, over real sockets.
    @Suite struct HostStreamTests {
        @Test(arguments: HostConfiguration.Security.allCases)
        func aThousandStreamsAtOnce(_ security: HostConfiguration.Security) async throws {
            let server = try await makeHost { $0.security = [security] }
            let client = try await makeHost(listen: []) { $0.security = [security] }
            try await withHosts(server, client) {
                server.echo("/echo")
                _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                try await withThrowingTaskGroup(of: Bool.self) { group in
                    for index in 0..<1000 {
                        group.addTask {
                            let stream = try await client.openStream(to: server.peerID, protocols: ["/echo"])
                            let bytes = ByteBuffer(repeating: UInt8(truncatingIfNeeded: index), count: 2000 + index)
                            return try await stream.exchange(bytes) == bytes
                        }
                    }
                    for try await isEqual in group { #expect(isEqual) }
                }
                #expect(client.connections.count == 1)
                #expect(server.metrics.streamsAccepted >= 1000)
                // Identify's own stream may still be there.
                try await eventually("all is given back") {
                    server.resources.withLock { $0.streams.isEmpty } && client.resources.withLock { $0.streams.isEmpty }
                }
                #expect(client.resources.withLock { $0.scopeCount } == 1)
            }
        }

        @Test func oneSideMayEndBeforeTheOther() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                // Answers only when the request has ended.
                server.handle("/late") { stream in
                    CollectingHandler.collect(stream, maximum: 1 << 20, timeout: .seconds(20), closes: false).map {
                        request in
                        stream.channel.writeAndFlush(ByteBuffer(string: "got \(request.readableBytes)"), promise: nil)
                        stream.channel.close(promise: nil)
                    }
                }
                _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                let stream = try await client.openStream(to: server.peerID, protocols: ["/late"])
                #expect(
                    String(buffer: try await stream.exchange(ByteBuffer(repeating: 1, count: 100_000))) == "got 100000"
                )
            }
        }

        @Test func aResetIsAnErrorAndNoEnd() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                server.handle("/reset") { stream in
                    stream.channel.writeAndFlush(ByteBuffer(string: "some")).map { stream.reset() }
                }
                _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                let stream = try await client.openStream(to: server.peerID, protocols: ["/reset"])
                let collected = try await stream.channel.eventLoop.submit {
                    CollectingHandler.collect(stream, maximum: 1 << 20, timeout: .seconds(20))
                }.get()
                await #expect(throws: (any Error).self) { try await collected.get() }
            }
        }

        @Test func bytesThatComeBeforeAHandlerAreNotLost() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                server.handle("/greets") { stream in
                    stream.channel.writeAndFlush(ByteBuffer(string: "welcome"), promise: nil)
                    stream.channel.close(promise: nil)
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                let stream = try await client.openStream(
                    to: server.peerID,
                    protocols: ["/greets"],
                    options: OpenStreamOptions(waitForAnswer: true)
                )
                // Long enough for the greeting to arrive.
                _ = try await client.ping(server.peerID).get()
                let greeting = try await stream.channel.eventLoop.flatSubmit {
                    CollectingHandler.collect(stream, maximum: 1 << 20, timeout: .seconds(20))
                }.get()
                #expect(String(buffer: greeting) == "welcome")
            }
        }

        // MARK: Identify

        @Test func hostsTellEachOtherAboutThemselves() async throws {
            let server = try await makeHost { $0.agentVersion = "tester/1" }
            let client = try await makeHost { $0.protocolVersion = "p/2" }
            try await withHosts(server, client) {
                server.echo("/echo")
                server.echo("/hidden", options: HandlerOptions(isAdvertised: false))
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                try await eventually("both are identified") {
                    connection.identification != nil && client.peers.identification(of: server.peerID) != nil
                        && server.peers.identification(of: client.peerID) != nil
                }
                let told = try #require(connection.identification)
                #expect(told.agentVersion == "tester/1")
                #expect(told.protocols == ["/echo", .identify, .identifyPush, .ping])
                #expect(told.listenAddresses == server.listenAddresses)
                #expect(told.signedPeerRecord != nil)
                #expect(client.peers.addresses(of: server.peerID).contains(server.listenAddresses[0]))
                let seen = try #require(server.peers.identification(of: client.peerID))
                #expect(seen.protocolVersion == "p/2")
                // The dial has left from the client's listening port, and the server has seen that.
                #expect(told.observedAddress == client.listenAddresses[0])
                #expect(seen.observedAddress == server.listenAddresses[0])
            }
        }

        @Test func changesArePushed() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                try await eventually("both are identified") {
                    connection.identification != nil
                        && server.connections(to: client.peerID).first?.identification != nil
                }
                let added = try Multiaddr("/ip4/192.0.2.77/tcp/7")
                server.handle("/new") { $0.channel.close() }
                server.advertise([added], source: "test")
                try await eventually("the news has come") {
                    connection.identification?.protocols.contains("/new") == true
                        && connection.identification?.listenAddresses.contains(added) == true
                        && client.peers.addresses(of: server.peerID).contains(added)
                }
                server.advertise([], source: "test")
                try await eventually("the address is gone") {
                    !client.peers.addresses(of: server.peerID).contains(added)
                }
                #expect(server.metrics.pushesSent <= 4)
            }
        }

        /// What changes after the peer has asked and before it has answered is pushed once the answer is there.
        @Test func aPeerThatAnswersLateHearsOfTheChange() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                let mayAnswer = client.group.next().makePromise(of: Void.self)
                var answer = IdentifyMessage()
                answer.protocols = [ProtocolID.identify.rawValue, ProtocolID.identifyPush.rawValue]
                let wire = answer.wire
                client.handle(.identify) { stream in
                    mayAnswer.futureResult.hop(to: stream.channel.eventLoop).flatMap {
                        stream.channel.writeAndFlush(wire, promise: nil)
                        return stream.channel.close()
                    }
                }
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                try await eventually("the client has its answer") { connection.identification != nil }
                #expect(connection.identification?.protocols.contains("/new") == false)
                server.handle("/new") { $0.channel.close() }
                try await eventually("the others were told") { server.state.withLock { !$0.isPushScheduled } }
                #expect(server.metrics.pushesSent == 0)
                mayAnswer.succeed()
                try await eventually("the news has come") {
                    connection.identification?.protocols.contains("/new") == true
                }
            }
        }

        /// A protocol that comes and goes while nobody is pushed to, but is told to one who asks just then.
        @Test func whoWasToldWhatIsNoLongerTrueIsToldAnew() async throws {
            let server = try await makeHost { $0.identifyPushDelay = .seconds(1) }
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                // The first push is of what the host began with.
                try await eventually("nothing is to be told") { server.state.withLock { !$0.isPushScheduled } }
                server.handle("/passing") { $0.channel.close() }
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                try await eventually("it is told") {
                    connection.identification?.protocols.contains("/passing") == true
                }
                server.stopHandling("/passing")
                try await eventually("it is told to be gone") {
                    connection.identification?.protocols.contains("/passing") == false
                }
            }
        }

        @Test func aPeerThatDoesNotIdentifyStaysConnected() async throws {
            // It does not push either.
            let server = try await makeHost { $0.identifyPushDelay = .hours(1) }
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                server.handle(.identify) { stream in
                    var lie = ByteBuffer(bytes: [0xFF, 0xFF, 0x7F])
                    lie.writeRepeatingByte(1, count: 1000)
                    stream.channel.writeAndFlush(lie, promise: nil)
                    return stream.channel.close()
                }
                server.echo("/echo")
                let failed = Mutex(false)
                let observation = client.observe { event in
                    if case .identifyFailed = event { failed.withLock { $0 = true } }
                }
                defer { observation.cancel() }
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                try await eventually("identify fails") { failed.withLock { $0 } }
                #expect(connection.identification == nil)
                #expect(client.metrics.identifiesFailed == 1)
                let stream = try await connection.openStream(protocols: ["/echo"]).get()
                #expect(try await stream.exchange("well") == "well")
            }
        }

        @Test func wildcardsStandForTheInterfaces() throws {
            let interfaces = [
                InterfaceAddress(interface: "lo", address: .v4(.loopback)),
                InterfaceAddress(interface: "eth0", address: .v4(.init(192, 0, 2, 1))),
                InterfaceAddress(interface: "eth0", address: .v6(.init(high: 1, low: 1))),
            ]
            let any = try Multiaddr("/ip4/0.0.0.0/tcp/1/ws")
            #expect(
                Host.expand(any, interfaces).map(\.description) == [
                    "/ip4/127.0.0.1/tcp/1/ws", "/ip4/192.0.2.1/tcp/1/ws",
                ]
            )
            #expect(Host.expand(try Multiaddr("/ip6/::/tcp/1"), interfaces).count == 1)
            let one = try Multiaddr("/ip4/192.0.2.9/tcp/1")
            #expect(Host.expand(one, interfaces) == [one])
            #expect(SystemInterfaces().addresses().contains { $0.address.isLoopback })
        }

        // MARK: Life

        @Test func eventsTellTheStoryOfAConnection() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            let events = server.events()
            try await withHosts(server, client) {
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                try await eventually("identified") { server.peers.identification(of: client.peerID) != nil }
                connection.close()
                try await eventually("the server has seen the end") { server.connections.isEmpty }
            }
            var story: [String] = []
            for await event in events {
                switch event {
                case .connected(let connection):
                    #expect(connection.direction == .inbound)
                    #expect(connection.remotePeer == client.peerID)
                    story.append("connected")
                case .identified: story.append("identified")
                case .disconnected(_, let remaining): story.append("disconnected \(remaining)")
                default: break
                }
            }
            #expect(story == ["connected", "identified", "disconnected 0"])
        }

        @Test func eventsThatNobodyTakesAreDropped() async throws {
            let host = try await makeHost()
            try await withHosts(host) {
                let events = host.events(limit: 3)
                for _ in 0..<10 { host.emit(.reachabilityChanged(.behindNAT)) }
                #expect(host.metrics.eventsDropped == 7)
                withExtendedLifetime(events) {}
            }
        }

        @Test func shutdownLetsStreamsEnd() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            server.echo("/echo")
            _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
            let stream = try await client.openStream(
                to: server.peerID,
                protocols: ["/echo"],
                options: OpenStreamOptions(waitForAnswer: true)
            )
            async let down: Void = server.shutdown(deadline: .now() + .seconds(20))
            try await eventually("it does not listen any more") {
                (try? await client.connect(
                    to: server.peerID,
                    addresses: server.listenAddresses,
                    options: DialOptions(reuse: .never, ignoreBackoff: true)
                )) == nil
            }
            #expect(try await stream.exchange("last words") == "last words")
            await down
            #expect(server.connections.isEmpty)
            try await eventually("the client sees it") { client.connections.isEmpty }
            await #expect(throws: LibP2PError.self) { try await server.connect(to: client.peerID) }
            await client.shutdown(deadline: .now())
        }

        @Test func shutdownHasADeadline() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            server.echo("/echo")
            _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
            let stream = try await client.openStream(
                to: server.peerID,
                protocols: ["/echo"],
                options: OpenStreamOptions(waitForAnswer: true)
            )
            await server.shutdown(deadline: .now() + .milliseconds(50))
            #expect(server.connections.isEmpty)
            try? await stream.channel.closeFuture.get()
            await client.shutdown(deadline: .now())
        }

        @Test func manyHostsConnectToEachOtherAtOnce() async throws {
            let hosts = try await withThrowingTaskGroup(of: Host.self) { group in
                for _ in 0..<8 { group.addTask { try await makeHost() } }
                return try await group.reduce(into: []) { $0.append($1) }
            }
            try await withThrowingTaskGroup(of: Void.self) { group in
                for host in hosts {
                    for other in hosts where other !== host {
                        group.addTask {
                            _ = try await host.connect(to: other.peerID, addresses: other.listenAddresses)
                            _ = try await host.ping(other.peerID).get()
                        }
                    }
                }
                try await group.waitForAll()
            }
            for host in hosts { #expect(Set(host.connections.map(\.remotePeer)).count == 7) }
            for host in hosts { await host.shutdown(deadline: .now() + .seconds(1)) }
        }
    }
}
