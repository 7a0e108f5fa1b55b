import LibP2P
import LibP2PSecurity
import MeshTesting
import Multiformats
import NIOCore
import Synchronization
import Testing

@testable import LibP2PRelay

/// Whole hosts on loopback: the client at 127.0.0.1, servers elsewhere.
@Suite struct AutoNATTests {
    func server(
        _ listen: String,
        version: Int = 2,
        _ configure: (inout HostConfiguration) -> Void = { _ in }
    ) async throws -> (
        Host, AutoNATServer
    ) {
        let host = try await natHost([listen], configure)
        var configuration = AutoNATServerConfiguration()
        configuration.servesLoopback = true
        configuration.dialTimeout = .milliseconds(500)
        let server = try AutoNATServer(host: host, transports: [TCPTransport()], configuration: configuration)
        try await server.start()
        if version == 1 { host.stopHandling(AutoNATServer.requestProtocolID) }
        return (host, server)
    }

    func client(_ host: Host) -> AutoNATClient {
        var configuration = AutoNATConfiguration()
        configuration.bootDelay = .milliseconds(10)
        configuration.asksLoopback = true
        let client = AutoNATClient(host: host, configuration: configuration)
        client.start()
        return client
    }

    @Test(arguments: [false, true], [1, 2])
    func aHostThatListensIsReachable(_ isPrivate: Bool, _ version: Int) async throws {
        let key = isPrivate ? PreSharedKey(originalFileBytes: Array("secret".utf8)) : nil
        let (host, server) = try await self.server("/ip4/127.0.0.2/tcp/0", version: version) { $0.preSharedKey = key }
        let subject = try await natHost(["/ip4/127.0.0.1/tcp/0"]) { $0.preSharedKey = key }
        try await withNATHosts([subject, host]) {
            let seen = Mutex<[Reachability]>([])
            let observation = subject.observe { event in
                if case .reachabilityChanged(let reachability) = event { seen.withLock { $0.append(reachability) } }
            }
            let client = self.client(subject)
            _ = try await subject.connect(to: host.peerID, addresses: host.listenAddresses)
            try await eventually("it knows") { client.reachability == .publiclyReachable }
            try await eventually("it is told") { seen.withLock { $0 } == [.publiclyReachable] }
            // The dial came from another identity, and is gone.
            #expect(subject.connections.map(\.remotePeer).allSatisfy { $0 == host.peerID })
            observation.cancel()
            client.stop()
        }
        await server.stop()
    }

    @Test func aHostThatDoesNotListenIsHidden() async throws {
        let (host, server) = try await self.server("/ip4/127.0.0.2/tcp/0")
        let subject = try await natHost([])
        try await withNATHosts([subject, host]) {
            let client = self.client(subject)
            _ = try await subject.connect(to: host.peerID, addresses: host.listenAddresses)
            try await eventually("it knows") { client.reachability == .behindNAT }
            client.stop()
        }
        await server.stop()
    }

    /// Version 2: the peer is seen at 127.0.0.1, and asks for another address.
    @Test func anotherAddressThanTheObservedCostsData() async throws {
        let (host, server) = try await self.server("/ip4/127.0.0.2/tcp/0")
        let subject = try await natHost(["/ip4/127.0.0.3/tcp/0"])
        try await withNATHosts([subject, host]) {
            let client = self.client(subject)
            _ = try await subject.connect(to: host.peerID, addresses: host.listenAddresses)
            let isFromElsewhere = host.connections(to: subject.peerID).first?.remoteAddress.ipAddress
            #expect(isFromElsewhere == addr("/ip4/127.0.0.1/tcp/1").ipAddress)
            try await eventually("it knows") { client.reachability == .publiclyReachable }
            client.stop()
        }
        await server.stop()
    }

    @Test func anAddressThatNobodyListensAtIsUnreachable() async throws {
        let (host, server) = try await self.server("/ip4/127.0.0.2/tcp/0")
        let subject = try await natHost(["/ip4/127.0.0.1/tcp/0"]) {
            $0.addressFilter = { _ in [addr("/ip4/127.0.0.1/tcp/1")] }
        }
        try await withNATHosts([subject, host]) {
            let client = self.client(subject)
            _ = try await subject.connect(to: host.peerID, addresses: host.listenAddresses)
            try await eventually("it knows") { client.reachability == .behindNAT }
            client.stop()
        }
        await server.stop()
    }

    @Test func aServerThatLiesIsNotBelieved() async throws {
        let liar = try await natHost(["/ip4/127.0.0.2/tcp/0"])
        let subject = try await natHost(["/ip4/127.0.0.1/tcp/0"])
        try await withNATHosts([subject, liar]) {
            let asked = Mutex(0)
            liar.handle(AutoNATServer.requestProtocolID) { stream in
                stream.channel.eventLoop.runTask {
                    let messages = try MessageStream(stream, maximumLength: 8192, timeout: .seconds(5))
                    _ = try await messages.receive().get()
                    messages.send(AutoNATv2Message.dialResponse(status: .ok, index: 0, dialStatus: .ok).encoded)
                    messages.finish()
                    asked.withLock { $0 += 1 }
                }
            }
            let client = self.client(subject)
            let connection = try await subject.connect(to: liar.peerID, addresses: liar.listenAddresses)
            try await eventually("it has asked") { asked.withLock { $0 } == 1 }
            _ = try await connection.ping().get()
            #expect(client.reachability == .unknown)
            client.stop()
        }
    }

    @Test func nonsenseEndsTheStreamOnly() async throws {
        let (host, server) = try await self.server("/ip4/127.0.0.2/tcp/0")
        let subject = try await natHost([])
        try await withNATHosts([subject, host]) {
            let connection = try await subject.connect(to: host.peerID, addresses: host.listenAddresses)
            for bytes: [UInt8] in [[0x00], [0x02, 0x08, 0x01], [0xFF, 0xFF, 0x03], [0x04, 1, 2, 3, 4]] {
                let stream = try await connection.openStream(protocols: [AutoNATServer.protocolID]).get()
                try await stream.channel.writeAndFlush(ByteBuffer(bytes: bytes)).get()
                try await stream.channel.eventLoop.submit { stream.channel.read() }.get()
                try await eventually("the stream is reset") { !stream.channel.isActive }
            }
            #expect(connection.isOpen)
        }
        await server.stop()
    }
}

@Suite struct ObservedAddressesTests {
    /// Observations come from identify; here they are told by hand, as hosts on loopback see nothing of use.
    @Test func confirmedAddressesAreAdvertisedUntilTheyAreNotTrueAnyMore() async throws {
        let subject = try await natHost(["/ip4/127.0.0.1/tcp/0"])
        let observers = [
            try await natHost(["/ip4/127.0.0.2/tcp/0"]), try await natHost(["/ip4/127.0.0.3/tcp/0"]),
        ]
        try await withNATHosts([subject] + observers) {
            var configuration = ObservedAddressConfiguration()
            configuration.observersNeeded = 2
            let observed = ObservedAddresses(host: subject, configuration: configuration)
            observed.start()
            let outside = addr("/ip4/1.2.3.4/tcp/4001")
            for observer in observers {
                let connection = try await subject.connect(to: observer.peerID, addresses: observer.listenAddresses)
                #expect(subject.listenAddresses.contains(connection.localAddress), "the port is reused")
                try await eventually("identify is over") { connection.identification != nil }
                #expect(!subject.advertisedAddresses.contains(outside))
                subject.emit(.identified(connection, Identification(observedAddress: outside)))
            }
            #expect(observed.candidates == [outside])
            try await eventually("it is advertised") { subject.advertisedAddresses.contains(outside) }
            // AutoNAT has found out that nobody gets through.
            subject.emit(.reachabilityChanged(.behindNAT))
            try await eventually("it is kept back") { !subject.advertisedAddresses.contains(outside) }
            #expect(observed.candidates == [outside])
            subject.emit(.reachabilityChanged(.publiclyReachable))
            try await eventually("it is advertised again") { subject.advertisedAddresses.contains(outside) }
            observed.stop()
            #expect(!subject.advertisedAddresses.contains(outside))
        }
    }
}
