import LibP2P
import Logging
import MeshTesting
import Multiformats
import NIOCore
import Synchronization
import Testing

@testable import LibP2PRelay

/// Whole hosts and a relay on loopback: the target is dialled through the relay, and punches back.
@Suite struct HolePuncherTests {
    struct Net {
        let relay: Host
        let service: RelayService
        let target: Host
        let targetClient: RelayClient
        let source: Host
        let sourceClient: RelayClient
        var hosts: [Host] { [self.source, self.target, self.relay] }

        /// - Parameter hides: hosts tell nobody where they listen.
        init(hides: Bool, limit: ConnectionLimit? = nil) async throws {
            let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            self.relay = try await natHost(["/ip4/127.0.0.1/tcp/0"])
            var configuration = RelayServiceConfiguration()
            configuration.limit = limit
            configuration.addressFilter = { _ in true }
            self.service = RelayService(host: self.relay, configuration: configuration, logger: logger)
            self.service.start()
            let filter: @Sendable ([Multiaddr]) -> [Multiaddr] = { hides ? $0.filter(\.isCircuit) : $0 }
            self.target = try await natHost(["/ip4/127.0.0.1/tcp/0"]) { $0.addressFilter = filter }
            self.source = try await natHost(["/ip4/127.0.0.1/tcp/0"]) { $0.addressFilter = filter }
            self.targetClient = RelayClient(host: self.target, logger: logger)
            self.sourceClient = RelayClient(host: self.source, logger: logger)
            self.targetClient.start()
            self.sourceClient.start()
            self.targetClient.setCandidates([
                RelayCandidate(peer: self.relay.peerID, addresses: self.relay.listenAddresses)
            ])
            let client = self.targetClient
            try await eventually("the target has a reservation") { client.reservations.count == 1 }
        }

        func puncher(_ host: Host, _ change: (inout HolePunchConfiguration) -> Void = { _ in }) -> HolePuncher {
            var configuration = HolePunchConfiguration()
            configuration.allowsLoopback = true
            configuration.candidates = { host.listenAddresses }
            change(&configuration)
            let puncher = HolePuncher(host: host, configuration: configuration)
            puncher.start()
            return puncher
        }

        func connectThroughRelay() async throws -> Connection {
            let circuit = self.relay.listenAddresses.map {
                $0.appending(.p2p(self.relay.peerID)).appending(.circuit)
            }
            return try await self.source.connect(to: self.target.peerID, addresses: circuit)
        }

        func hasDirect() -> Bool {
            self.source.connections(to: self.target.peerID).contains { !$0.isRelayed }
                && self.target.connections(to: self.source.peerID).contains { !$0.isRelayed }
        }
    }

    @Test(arguments: [nil, ConnectionLimit(seconds: 120, bytes: 1 << 17)])
    func hostsThatAreHiddenPunchAHole(_ limit: ConnectionLimit?) async throws {
        let net = try await Net(hides: true, limit: limit)
        try await withNATHosts(net.hosts) {
            let punchers = (net.puncher(net.source), net.puncher(net.target))
            let relayed = try await net.connectThroughRelay()
            #expect(relayed.isRelayed)
            try await eventually("a direct connection") { net.hasDirect() }
            try await eventually("the relayed one is gone") { !relayed.isOpen }
            #expect(punchers.1.metrics.punched == 1)
            #expect(punchers.1.metrics.dialled == 0)
            #expect(punchers.0.metrics.answered >= 1)
            try await eventually("all is at rest") { punchers.0.metrics.running + punchers.1.metrics.running == 0 }
            _ = try await net.source.ping(net.target.peerID).get()
        }
    }

    @Test func aPeerThatCanBeDialledIsDialled() async throws {
        let net = try await Net(hides: false)
        try await withNATHosts(net.hosts) {
            let punchers = (net.puncher(net.source), net.puncher(net.target))
            _ = try await net.connectThroughRelay()
            try await eventually("a direct connection") { net.hasDirect() }
            try await eventually("it is counted") { punchers.1.metrics.dialled == 1 }
            #expect(punchers.1.metrics.punched == 0)
            #expect(punchers.0.metrics.answered == 0)
        }
    }

    @Test func whatCannotBePunchedStaysRelayed() async throws {
        let net = try await Net(hides: true)
        try await withNATHosts(net.hosts) {
            // A port at which nobody listens, whichever side dials.
            let change: (inout HolePunchConfiguration) -> Void = { configuration in
                configuration.candidates = { [addr("/ip4/127.0.0.1/tcp/1")] }
                configuration.punchTimeout = .milliseconds(250)
                configuration.redialDelay = .milliseconds(20)
            }
            let punchers = (net.puncher(net.source, change), net.puncher(net.target, change))
            let relayed = try await net.connectThroughRelay()
            try await eventually("it is given up") { punchers.1.metrics.failed == 1 }
            #expect(punchers.0.metrics.answered == 3)
            #expect(relayed.isOpen)
            #expect(!relayed.isDraining)
            _ = try await net.source.ping(net.target.peerID).get()
        }
    }

    @Test func aPeerWithoutTheProtocolIsLeftAlone() async throws {
        let net = try await Net(hides: true)
        try await withNATHosts(net.hosts) {
            let puncher = net.puncher(net.target)
            let relayed = try await net.connectThroughRelay()
            try await eventually("it was looked at") { puncher.metrics.started == 1 && puncher.metrics.running == 0 }
            #expect(puncher.metrics.failed == 0)
            // It learns to.
            let late = net.puncher(net.source)
            try await eventually("a direct connection") { net.hasDirect() }
            #expect(late.metrics.answered >= 1)
            _ = relayed
        }
    }

    /// A node that came from elsewhere: its peer still tries to reach it where it was, and refuses to begin anew until that is over.
    @Test func aPeerThatIsBusyIsAskedAgainLater() async throws {
        let net = try await Net(hides: true)
        try await withNATHosts(net.hosts) {
            let refusals = Refusals()
            net.source.handle(HolePuncher.protocolID) { stream in
                refusals.first.withLock { $0 = $0 ?? .now() }
                return stream.channel.eventLoop.makeFailedFuture(ChannelError.eof)
            }
            let puncher = net.puncher(net.target) { $0.punchTimeout = .seconds(8) }
            let relayed = try await net.connectThroughRelay()
            #expect(relayed.isRelayed)
            // Three tries one after the other would be over by then.
            try await eventually("the peer has refused, and is busy no more") {
                refusals.first.withLock { $0.map { $0 + .seconds(1) < .now() } ?? false }
            }
            #expect(puncher.metrics.failed == 0)
            net.source.stopHandling(HolePuncher.protocolID)
            let other = net.puncher(net.source) { $0.punchTimeout = .seconds(8) }
            try await eventually("a direct connection") { net.hasDirect() }
            try await eventually("it is counted") { puncher.metrics.punched == 1 }
            #expect(other.metrics.answered >= 1)
        }
    }

    @Test func onlyTheDialledSideOfACircuitMayAsk() async throws {
        let net = try await Net(hides: true)
        try await withNATHosts(net.hosts) {
            let puncher = net.puncher(net.target)
            let relayed = try await net.connectThroughRelay()
            let stream = try await relayed.openStream(protocols: [HolePuncher.protocolID]).get()
            var message = ByteBuffer()
            message.writeVarintPrefixed(HolePunchMessage(kind: .connect, addresses: []).encoded)
            // The reset may come before the bytes have left.
            try? await stream.channel.writeAndFlush(message).get()
            let isRead = stream.channel.eventLoop.submit { stream.channel.read() }
            try await isRead.get()
            try await eventually("the stream is reset") { !stream.channel.isActive }
            #expect(puncher.metrics.answered == 0)
        }
    }
}

private final class Refusals: Sendable {
    let first = Mutex<NIODeadline?>(nil)
}
