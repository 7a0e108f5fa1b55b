import ByteStreams
import Glibc
import LibP2P
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import LibP2PDiscovery

/// DHTs on whole hosts over loopback: one test after the other, as each has event loops of the process busy.
@Suite(.serialized) struct KademliaHostTests {
    private func dhts(_ hosts: [Host], clients: Set<Int> = []) async throws -> [KademliaDHT] {
        var all: [KademliaDHT] = []
        for (index, host) in hosts.enumerated() {
            var configuration = KademliaConfiguration.lan(mode: clients.contains(index) ? .client : .server)
            configuration.requestTimeout = .seconds(60)
            let dht = KademliaDHT(host: host, configuration: configuration)
            try await dht.start()
            all.append(dht)
        }
        return all
    }

    /// A server, and a connection of a peer to it.
    private func server(
        _ configure: (inout KademliaConfiguration) -> Void,
        _ body: (_ host: Host, _ dht: KademliaDHT, _ connection: Connection) async throws -> Void
    ) async throws {
        let hosts = try await self.hosts(2)
        var configuration = KademliaConfiguration.lan(mode: .server)
        configure(&configuration)
        try await withHosts(hosts) {
            let dht = KademliaDHT(host: hosts[0], configuration: configuration)
            try await dht.start()
            let connection: Connection = try await hosts[1].connect(
                to: hosts[0].peerID,
                addresses: hosts[0].listenAddresses
            )
            try await body(hosts[0], dht, connection)
            await dht.stop()
        }
    }

    private func hosts(_ count: Int) async throws -> [Host] {
        var hosts: [Host] = []
        for _ in 0..<count { hosts.append(try await makeHost()) }
        return hosts
    }

    /// Each knows the one before it only.
    private func chain(_ hosts: [Host], _ dhts: [KademliaDHT]) async throws {
        for (first, second) in zip(hosts, hosts.dropFirst()) {
            let _: Connection = try await second.connect(to: first.peerID, addresses: first.listenAddresses)
        }
        try await eventually("all have a neighbour in their table", within: .seconds(60)) {
            for dht in dhts where await dht.metrics().tablePeers == 0 { return false }
            return true
        }
    }

    @Test func findsPeersAndRendezvousThroughOthers() async throws {
        let hosts = try await self.hosts(8)
        try await withHosts(hosts) {
            let dhts = try await self.dhts(hosts)
            try await self.chain(hosts, dhts)
            for dht in dhts { try await dht.refresh() }
            let addresses = try await dhts[0].findPeer(hosts[7].peerID)
            #expect(!addresses.isEmpty)
            #expect(Set(addresses).isSubset(of: Set(hosts[7].listenAddresses)))
            let unknown = try peer(77)
            await #expect { try await dhts[0].findPeer(unknown) } throws: {
                ($0 as? LibP2PDiscoveryError)?.code == .notFound
            }
            #expect(try await dhts[6].advertise(rendezvous: "EDGEMESH_PLAYGOUND") > 0)
            try await eventually("the rendezvous is known", within: .seconds(60)) {
                try await dhts[1].findPeers(rendezvous: "EDGEMESH_PLAYGOUND").map(\.peer) == [hosts[6].peerID]
            }
            // The host dials peers that it knows by the DHT only.
            hosts[0].peers.removeAddresses(of: hosts[5].peerID)
            hosts[0].disconnect(from: hosts[5].peerID)
            hosts[0].setPeerRouting(dhts[0])
            let connection: Connection = try await hosts[0].connect(to: hosts[5].peerID)
            #expect(connection.remotePeer == hosts[5].peerID)
            for dht in dhts { await dht.stop() }
        }
    }

    @Test func clientsAskButAreNotKnown() async throws {
        let hosts = try await self.hosts(3)
        try await withHosts(hosts) {
            let dhts = try await self.dhts(hosts, clients: [2])
            let _: Connection = try await hosts[1].connect(to: hosts[0].peerID, addresses: hosts[0].listenAddresses)
            let _: Connection = try await hosts[2].connect(to: hosts[0].peerID, addresses: hosts[0].listenAddresses)
            try await eventually("all know the servers", within: .seconds(60)) {
                for dht in dhts where await dht.metrics().tablePeers == 0 { return false }
                return true
            }
            #expect(try await !dhts[2].findPeer(hosts[1].peerID).isEmpty)
            #expect(try await !dhts[1].closestPeers(to: hosts[2].peerID.bytes).contains(hosts[2].peerID))
            for dht in dhts { await dht.stop() }
        }
    }

    @Test func anEmptyTableIsNamed() async throws {
        let hosts = try await self.hosts(1)
        try await withHosts(hosts) {
            let dht = try await self.dhts(hosts)[0]
            await #expect { try await dht.findPeer(try peer(5)) } throws: {
                ($0 as? LibP2PDiscoveryError)?.code == .noPeers
            }
            await dht.stop()
            await #expect { try await dht.findPeer(try peer(5)) } throws: {
                ($0 as? LibP2PDiscoveryError)?.code == .stopped
            }
        }
    }

    /// What a peer may send that makes no sense; each resets its stream and nothing else.
    @Test func hostileRequestsAreRefused() async throws {
        let hosts = try await self.hosts(2)
        try await withHosts(hosts) {
            let dht = try await self.dhts([hosts[0]])[0]
            let connection: Connection = try await hosts[1].connect(
                to: hosts[0].peerID,
                addresses: hosts[0].listenAddresses
            )
            var put = KademliaMessage(.putValue, key: [1])
            put.record = KademliaMessage.Record(key: [1], value: [2])
            var requests: [[UInt8]] = [
                KademliaMessage(.findNode), KademliaMessage(.getProviders), KademliaMessage(.addProvider),
                KademliaMessage(.getValue), KademliaMessage(.getProviders, key: [UInt8](repeating: 1, count: 81)), put,
            ].map {
                var bytes = ByteBuffer()
                bytes.writeVarintPrefixed($0.encoded())
                return Array(bytes.readableBytesView)
            }
            requests += [[0xFF, 0xFF, 0xFF, 0x7F], [0x80, 0x00], [2, 0x08, 9], [3, 0xFF, 0xFF, 0xFF]]
            for request in requests {
                let stream = try await connection.openStream(protocols: [dht.configuration.protocolID]).get()
                try await stream.channel.writeAndFlush(ByteBuffer(bytes: request))
                try await stream.channel.eventLoop.submit { stream.channel.read() }.get()
                try await stream.channel.closeFuture.get()
            }
            // A provider speaks for itself only.
            var lie = KademliaMessage(.addProvider, key: [1, 2])
            lie.providers = [
                KademliaMessage.Peer(id: try peer(9), addresses: [try Multiaddr("/ip4/10.0.0.1/tcp/1")])
            ]
            let core = dht.core
            let counted = try await dht.loop.submit { [lie] () throws -> Int in
                _ = try core.value?.respond(to: lie, from: try peer(8))
                return core.value?.providers.keyCount ?? -1
            }.get()
            #expect(counted == 0)
            #expect(await dht.metrics().requestsRefused >= 6)
            #expect(await dht.metrics().tablePeers == 0)
            await dht.stop()
        }
    }

    /// Requests whose answers the peer never reads: no more are taken, and then the stream ends.
    @Test func whoDoesNotReadItsAnswersIsCutOff() async throws {
        try await self.server {
            $0.streamTimeout = .milliseconds(500)
        } _: { host, dht, connection in
            let stream = try await connection.openStream(protocols: [dht.configuration.protocolID]).get()
            // Each answer is about as long as its request.
            let request = KademliaMessage(.getProviders, key: [UInt8](repeating: 1, count: 80))
            var bytes = ByteBuffer()
            for _ in 0..<10_000 { bytes.writeVarintPrefixed(request.encoded()) }
            for _ in 0..<20 { stream.channel.writeAndFlush(bytes, promise: nil) }
            try await stream.channel.closeFuture.get()
            // A window of answers, what waits to be sent, and the requests of one read.
            let answered = await dht.metrics().requestsAnswered
            #expect(answered < 10_000, "\(answered) were answered")
            #expect(host.metrics.unreadBytes == 0)
            #expect(connection.isOpen)
        }
    }

    /// A request is held until it is whole.
    @Test func longRequestsAndManyStreamsAreRefused() async throws {
        try await self.server {
            $0.maximumRequestBytes = 1000
            $0.maximumStreamsPerPeer = 3
        } _: { host, dht, connection in
            func open() async throws -> NegotiatedStream {
                try await connection.openStream(
                    protocols: [dht.configuration.protocolID],
                    options: OpenStreamOptions(waitForAnswer: true)
                ).get()
            }
            let long = try await open()
            var bytes = ByteBuffer()
            bytes.writeUnsignedVarint(UInt64(1001))
            bytes.writeRepeatingByte(0, count: 1000)
            long.channel.writeAndFlush(bytes, promise: nil)
            try await long.channel.eventLoop.submit { long.channel.read() }.get()
            try await long.channel.closeFuture.get()
            try await eventually("the stream is forgotten") { host.metrics.openStreamsInbound == 0 }
            for _ in 0..<3 { _ = try await open() }
            await #expect(throws: (any Error).self) { _ = try await open() }
            #expect(host.metrics.streamsRefused == 1)
        }
    }

    /// A DHT of public addresses serves while its host can be dialled from outside.
    @Test func theModeFollowsReachability() async throws {
        let hosts = try await self.hosts(2)
        try await withHosts(hosts) {
            var configuration = KademliaConfiguration.lan(mode: .automatic)
            configuration.requestTimeout = .seconds(60)
            let dhts = hosts.map { KademliaDHT(host: $0, configuration: configuration) }
            for dht in dhts { try await dht.start() }
            let _: Connection = try await hosts[1].connect(to: hosts[0].peerID, addresses: hosts[0].listenAddresses)
            func follows(_ isServer: Bool, _ peers: Int) async throws {
                try await eventually("it is \(isServer ? "" : "no ")server", within: .seconds(60)) {
                    await dhts[0].metrics().isServer == isServer
                }
                try await eventually("the other knows of it", within: .seconds(60)) {
                    await dhts[1].metrics().tablePeers == peers
                }
            }
            try await follows(false, 0)
            hosts[0].emit(.reachabilityChanged(.publiclyReachable))
            try await follows(true, 1)
            hosts[0].emit(.reachabilityChanged(.behindNAT))
            try await follows(false, 0)
            hosts[0].emit(.reachabilityChanged(.unknown))
            // Nothing is known, but an address of the internet is its own.
            hosts[0].advertise([try Multiaddr("/ip4/203.0.112.1/tcp/1")], source: "test")
            try await follows(true, 1)
            await dhts[0].stop()
            #expect(!hosts[0].protocols.contains(configuration.protocolID))
            await dhts[1].stop()
        }
    }

    /// A server that ceases to be one between a question and its answer does not come back to the table with the answer.
    @Test func anAnswerIsOlderThanWhatItsPeerHasToldSince() async throws {
        let hosts = try await self.hosts(2)
        try await withHosts(hosts) {
            let configuration = KademliaConfiguration.lan(mode: .client)
            let protocolID = configuration.protocolID
            let mayAnswer = hosts[0].group.next().makePromise(of: Void.self)
            let asked = Mutex(0)
            hosts[0].handle(protocolID) { stream in
                stream.channel.eventLoop.makeCompletedFuture {
                    let responder = KademliaResponder(maximumLength: 1000, timeout: .seconds(60)) { request in
                        asked.withLock { $0 += 1 }
                        return mayAnswer.futureResult.hop(to: stream.channel.eventLoop)
                            .map { KademliaMessage(.findNode, key: request.key) }
                    }
                    try stream.channel.pipeline.syncOperations.addHandler(responder)
                    stream.channel.read()
                }
            }
            let dht = KademliaDHT(host: hosts[1], configuration: configuration)
            try await dht.start()
            let _: Connection = try await hosts[1].connect(to: hosts[0].peerID, addresses: hosts[0].listenAddresses)
            // The first peer of the table is asked at once.
            try await eventually("it is asked", within: .seconds(60)) { asked.withLock { $0 } > 0 }
            #expect(await dht.metrics().tablePeers == 1)
            hosts[0].stopHandling(protocolID)
            try await eventually("it is no server", within: .seconds(60)) { await dht.metrics().tablePeers == 0 }
            mayAnswer.succeed()
            try await eventually("the searches end", within: .seconds(60)) { await dht.metrics().runningLookups == 0 }
            #expect(await dht.metrics().tablePeers == 0)
            await dht.stop()
        }
    }

    /// Many requests in one read are answered one after the other, without a stack of calls.
    @Test func aStreamCarriesManyRequests() async throws {
        let hosts = try await self.hosts(2)
        try await withHosts(hosts) {
            let dht = try await self.dhts([hosts[0]])[0]
            let connection: Connection = try await hosts[1].connect(
                to: hosts[0].peerID,
                addresses: hosts[0].listenAddresses
            )
            let stream = try await connection.openStream(protocols: [dht.configuration.protocolID]).get()
            var bytes = ByteBuffer()
            for _ in 0..<20_000 { bytes.writeVarintPrefixed(KademliaMessage(.ping).encoded()) }
            try await stream.channel.eventLoop.submit {
                try stream.channel.syncOptions?.setOption(.autoRead, value: true)
            }
            .get()
            stream.channel.writeAndFlush(bytes, promise: nil)
            stream.channel.close(mode: .output, promise: nil)
            try await stream.channel.closeFuture.get()
            #expect(await dht.metrics().requestsAnswered == 20_000)
            await dht.stop()
        }
    }
}
