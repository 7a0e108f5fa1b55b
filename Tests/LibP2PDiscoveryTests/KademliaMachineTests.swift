import MeshCore
import Multiformats
import NIOCore
import Testing

@testable import LibP2PDiscovery

@Suite struct KademliaMachineTests {
    // MARK: Keys and messages

    @Test func prefixesAndDistances() throws {
        let (a, b) = (KademliaKey(hashing: [1]), KademliaKey(hashing: [2]))
        #expect(a.commonPrefixLength(with: a) == 256)
        #expect(a.commonPrefixLength(with: b) == b.commonPrefixLength(with: a))
        #expect(a.distance(to: b) == b.distance(to: a))
        #expect(KademliaKey(words: [0, 0, 0, 1]).commonPrefixLength(with: KademliaKey(words: .zero)) == 255)
        #expect(KademliaKey(words: [0, 1 << 63, 0, 0]).commonPrefixLength(with: KademliaKey(words: .zero)) == 64)
    }

    /// As EdgeMesh v1.17 derives it.
    @Test func theRendezvousOfTheOriginal() {
        #expect(
            KademliaDHT.cid(rendezvous: "EDGEMESH_PLAYGOUND").description
                == "bafkreie777rtklljkfpo24tqxwvftflojq2hhig5etpzason3vxaw3r4oi"
        )
    }

    private func sample() throws -> KademliaMessage {
        var message = KademliaMessage(.getProviders, key: [1, 2, 3])
        message.record = KademliaMessage.Record(key: [9], value: [8, 7])
        message.closer = [
            KademliaMessage.Peer(id: try peer(1), addresses: [try Multiaddr("/ip4/1.2.3.4/tcp/5")], isConnected: true)
        ]
        message.providers = [KademliaMessage.Peer(id: try peer(2), addresses: [])]
        return message
    }

    @Test func messagesComeBackAsTheyWere() throws {
        let message = try self.sample()
        #expect(try KademliaMessage(parsing: message.encoded()) == message)
        #expect(Array(KademliaMessage(.findNode, key: [7]).encoded().readableBytesView) == [0x08, 4, 0x12, 1, 7])
    }

    @Test func cutAndChangedMessagesDoNotTrap() throws {
        let bytes = Array(try self.sample().encoded().readableBytesView)
        for end in bytes.indices { _ = try? KademliaMessage(parsing: ByteBuffer(bytes: bytes[..<end])) }
        var generator = SeededGenerator(seed: 7)
        for _ in 0..<2000 {
            var changed = bytes
            changed[Int.random(in: changed.indices, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
            _ = try? KademliaMessage(parsing: ByteBuffer(bytes: changed))
        }
        #expect(throws: MultiformatsError.self) { try KademliaMessage(parsing: ByteBuffer(bytes: [0x08, 9])) }
        let long = KademliaMessage(.findNode, key: [UInt8](repeating: 0, count: 1025)).encoded()
        #expect(throws: MultiformatsError.self) { try KademliaMessage(parsing: long) }
    }

    @Test func listsAreCut() throws {
        var generator = SeededGenerator(seed: 1)
        var message = KademliaMessage(.findNode)
        let addresses = try (0..<100).map { try Multiaddr("/ip4/10.0.0.\($0)/tcp/1") }
        for _ in 0..<100 {
            message.closer.append(KademliaMessage.Peer(id: try randomPeer(&generator), addresses: addresses))
        }
        let read = try KademliaMessage(parsing: message.encoded())
        #expect(read.closer.count == KademliaMessage.maximumPeers)
        #expect(read.closer.allSatisfy { $0.addresses.count == KademliaMessage.maximumAddresses })
    }

    // MARK: Table

    @Test func theTableGivesTheNearest() throws {
        var generator = SeededGenerator(seed: 2)
        let own = try randomPeer(&generator)
        var table = RoutingTable(own: own, bucketSize: 20, diversity: nil, staleAfter: .seconds(60))
        var peers: [PeerID] = []
        for _ in 0..<500 {
            let peer = try randomPeer(&generator)
            if table.add(peer, address: nil, now: seconds(0)) == .added { peers.append(peer) }
        }
        #expect(table.count == peers.count)
        #expect(table.add(own, address: nil, now: seconds(0)) == .own)
        let key = KademliaKey(hashing: [1, 2, 3])
        let expected = peers.sorted { KademliaKey($0).distance(to: key) < KademliaKey($1).distance(to: key) }
        #expect(table.closest(to: key, count: 20) == Array(expected.prefix(20)))
        for peer in peers { table.remove(peer) }
        #expect(table.count == 0)
    }

    @Test func aFullBucketKeepsTheLivingAndReplacesTheIdle() throws {
        var generator = SeededGenerator(seed: 3)
        var table = RoutingTable(
            own: try randomPeer(&generator),
            bucketSize: 2,
            diversity: nil,
            staleAfter: .seconds(60)
        )
        let own = table
        _ = own
        var bucket: [PeerID] = []
        while bucket.count < 4 {
            let peer = try randomPeer(&generator)
            var probe = table
            // All of the farthest bucket, which half of all peers are in.
            if probe.add(peer, address: nil, now: seconds(0)) == .added || bucket.count >= 2, isFar(peer, table) {
                if bucket.count < 2 { _ = table.add(peer, address: nil, now: seconds(Double(bucket.count))) }
                bucket.append(peer)
            }
        }
        #expect(table.add(bucket[2], address: nil, now: seconds(50)) == .bucketFull)
        #expect(table.add(bucket[0], address: nil, now: seconds(55)) == .known)
        #expect(table.add(bucket[2], address: nil, now: seconds(62)) == .replaced(bucket[1]))
        #expect(table.peers(idleSince: seconds(55)) == [bucket[0]])
    }

    /// Whether the table would put the peer into bucket 0.
    private func isFar(_ peer: PeerID, _ table: RoutingTable) -> Bool {
        var probe = table
        for known in table.peers { probe.remove(known) }
        _ = probe.add(peer, address: nil, now: seconds(0))
        return probe.prefixLengths == [0]
    }

    @Test func oneNetworkCannotFillTheTable() throws {
        var generator = SeededGenerator(seed: 4)
        var table = RoutingTable(
            own: try randomPeer(&generator),
            bucketSize: 20,
            diversity: RoutingTable.Diversity(perBucket: 2, total: 3),
            staleAfter: .seconds(60)
        )
        for number in 0..<100 {
            let address = IPAddress.v4(IPv4Address(8, 8, 1, UInt8(number)))
            _ = table.add(try randomPeer(&generator), address: address, now: seconds(0))
        }
        #expect(table.count == 3)
        #expect(table.add(try randomPeer(&generator), address: IPAddress("9.9.9.9"), now: seconds(0)) == .added)
    }

    // MARK: Lookups

    /// A network in which every peer knows its neighbourhood and a few others; of 300, `gone` do not answer.
    @Test(arguments: [1, 2, 3, 4, 5] as [UInt64], [0, 60])
    func lookupsFindTheNearest(seed: UInt64, gone: Int) throws {
        var generator = SeededGenerator(seed: seed)
        let own = try randomPeer(&generator)
        let peers = try (0..<300).map { _ in try randomPeer(&generator) }
        let dead = Set(peers.shuffled(using: &generator).prefix(gone))
        var tables: [PeerID: RoutingTable] = [:]
        for peer in peers {
            var table = RoutingTable(own: peer, bucketSize: 20, diversity: nil, staleAfter: .seconds(60))
            for other in peers.shuffled(using: &generator) { _ = table.add(other, address: nil, now: seconds(0)) }
            tables[peer] = table
        }
        let target = KademliaKey(hashing: [UInt8(seed)])
        var lookup = KademliaLookup(
            target: target,
            own: own,
            seeds: Array(peers.prefix(3)),
            width: 20,
            concurrency: 10
        )
        var inFlight: [PeerID] = []
        while !lookup.isDone {
            inFlight += lookup.next()
            #expect(lookup.inFlight <= 10)
            try #require(!inFlight.isEmpty)
            let peer = inFlight.remove(at: Int.random(in: inFlight.indices, using: &generator))
            if dead.contains(peer) {
                lookup.failed(peer)
            } else {
                lookup.answered(peer, closer: tables[peer]?.closest(to: target, count: 20) ?? [])
            }
        }
        let living = peers.filter { !dead.contains($0) }
            .sorted { KademliaKey($0).distance(to: target) < KademliaKey($1).distance(to: target) }
        if gone == 0 {
            #expect(lookup.closest == Array(living.prefix(20)))
        } else {
            // Peers that are gone take places in the answers, so that of the farther ones some stay unnamed.
            #expect(lookup.closest.prefix(10) == living.prefix(10))
            #expect(Set(lookup.closest).intersection(living.prefix(20)).count >= 15)
        }
        #expect(lookup.requests < 150)
    }

    /// A liar who names ever new peers that do not exist gets a search that ends all the same.
    @Test func liarsCannotKeepALookupBusy() throws {
        var generator = SeededGenerator(seed: 9)
        let own = try randomPeer(&generator)
        var lookup = KademliaLookup(
            target: KademliaKey(hashing: [5]),
            own: own,
            seeds: [try randomPeer(&generator)],
            width: 20,
            concurrency: 10
        )
        var steps = 0
        while !lookup.isDone {
            for peer in lookup.next() {
                steps += 1
                lookup.answered(peer, closer: try (0..<64).map { _ in try randomPeer(&generator) } + [own])
            }
        }
        #expect(steps < 8 * KademliaLookup.maximumCandidates)
    }

    @Test func aLookupWithoutSeedsIsDone() throws {
        var lookup = KademliaLookup(
            target: KademliaKey(hashing: [5]),
            own: try peer(1),
            seeds: [],
            width: 20,
            concurrency: 10
        )
        #expect(lookup.isDone)
        #expect(lookup.next().isEmpty)
        lookup.answered(try peer(2), closer: [try peer(3)])
        #expect(lookup.closest.isEmpty)
    }

    // MARK: Providers

    @Test func providersAreBoundedAndEnd() throws {
        var store = ProviderStore(maximumKeys: 2, maximumKeysPerPeer: 8, maximumPerKey: 2, lifetime: .hours(24))
        #expect(store.add(try peer(1), for: [1], now: seconds(0)))
        #expect(store.add(try peer(2), for: [1], now: seconds(1)))
        #expect(store.add(try peer(3), for: [1], now: seconds(2)))
        #expect(store.providers(of: [1], now: seconds(3)) == [try peer(3), try peer(2)])
        #expect(store.add(try peer(1), for: [2], now: seconds(3)))
        #expect(!store.add(try peer(1), for: [3], now: seconds(3)))
        #expect(store.refused == 1)
        let later = seconds(86_400 + 2.5)
        #expect(store.providers(of: [1], now: later).isEmpty)
        #expect(store.add(try peer(1), for: [3], now: later))
        #expect(store.keyCount == 2)
        #expect(store.peerCount == 1, "only the last is left")
    }

    @Test func onePeerDoesNotTakeTheRoomOfOthers() throws {
        var store = ProviderStore(maximumKeys: 100, maximumKeysPerPeer: 3, maximumPerKey: 2, lifetime: .hours(1))
        for key in 0..<100 as Range<UInt8> { store.add(try peer(1), for: [key], now: seconds(0)) }
        #expect(store.keyCount == 3)
        #expect(store.refused == 97)
        #expect(store.add(try peer(1), for: [2], now: seconds(1)), "what it has it may prolong")
        #expect(store.add(try peer(2), for: [50], now: seconds(1)))
        // Who gives way to others has room again.
        for number in 3...4 as ClosedRange<UInt8> { store.add(try peer(number), for: [0], now: seconds(2)) }
        #expect(store.add(try peer(1), for: [60], now: seconds(2)))
    }
}
