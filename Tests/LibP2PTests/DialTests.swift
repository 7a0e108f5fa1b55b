import MeshCore
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Synchronization
import Testing

@testable import LibP2P

/// Which address is dialled when: the pure parts.
@Suite struct DialTests {
    static func addresses(_ texts: String...) throws -> [Multiaddr] { try texts.map { try Multiaddr($0) } }

    static let relay = "/ip4/9.9.9.9/tcp/1/p2p/12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW/p2p-circuit"

    @Test func addressesAreRankedByDistanceAndFamily() throws {
        let addresses = try Self.addresses(
            Self.relay,
            "/ip4/8.8.8.8/tcp/1/ws",
            "/ip4/8.8.8.8/tcp/1",
            "/ip6/2600::1/tcp/1",
            "/ip4/192.168.1.2/tcp/1",
            "/ip4/10.0.0.1/tcp/1"
        )
        let ranked = DialRanking.rank(addresses, configuration: DialConfiguration())
        #expect(
            ranked.map { "\($0.delay.nanoseconds / 1_000_000) \($0.address)" } == [
                "0 /ip4/192.168.1.2/tcp/1", "250 /ip4/10.0.0.1/tcp/1", "250 /ip6/2600::1/tcp/1",
                "500 /ip4/8.8.8.8/tcp/1",
                "500 \(Self.relay)", "750 /ip4/8.8.8.8/tcp/1/ws",
            ]
        )
    }

    @Test func aRelayAloneWaitsForNothing() throws {
        let ranked = DialRanking.rank(try Self.addresses(Self.relay), configuration: DialConfiguration())
        #expect(ranked.map(\.delay) == [.zero])
    }

    @Test func withoutRankingAllGoAtOnce() throws {
        var configuration = DialConfiguration()
        configuration.ranking = .noDelay
        let addresses = try Self.addresses(Self.relay, "/ip4/8.8.8.8/tcp/1")
        let ranked = DialRanking.rank(addresses, configuration: configuration)
        #expect(ranked == addresses.map { RankedAddress(address: $0, delay: .zero) })
    }

    @Test func theScheduleStaggersAndHurriesAfterFailures() throws {
        let start = NIODeadline.uptimeNanoseconds(1_000_000_000)
        let addresses = try Self.addresses("/ip4/8.8.8.1/tcp/1", "/ip4/8.8.8.2/tcp/1", "/ip4/8.8.8.3/tcp/1")
        var schedule = DialSchedule(maximum: 8)
        schedule.add(DialRanking.rank(addresses, configuration: DialConfiguration()), now: start)
        #expect(schedule.next(now: start) == .dial(addresses[0]))
        #expect(schedule.next(now: start) == .wait(start + .milliseconds(250)))
        schedule.failed(now: start + .milliseconds(10))
        #expect(schedule.next(now: start + .milliseconds(10)) == .dial(addresses[1]))
        #expect(schedule.next(now: start + .milliseconds(10)) == .wait(start + .milliseconds(500)))
        #expect(schedule.next(now: start + .milliseconds(500)) == .dial(addresses[2]))
        #expect(schedule.next(now: start + .milliseconds(500)) == .busy)
        schedule.failed(now: start + .seconds(1))
        schedule.failed(now: start + .seconds(1))
        #expect(schedule.next(now: start + .seconds(1)) == .exhausted)
    }

    @Test func theScheduleBoundsWhatRunsAndForgetsNothing() throws {
        let now = NIODeadline.uptimeNanoseconds(0)
        let addresses = try (1...5).map { try Multiaddr("/ip4/8.8.8.\($0)/tcp/1") }
        var schedule = DialSchedule(maximum: 2)
        schedule.add(addresses.map { RankedAddress(address: $0, delay: .zero) }, now: now)
        // Given again, they are the same.
        schedule.add(addresses.map { RankedAddress(address: $0, delay: .zero) }, now: now)
        #expect(schedule.next(now: now) == .dial(addresses[0]))
        #expect(schedule.next(now: now) == .dial(addresses[1]))
        #expect(schedule.next(now: now) == .busy)
        schedule.postpone(addresses[1], now: now)
        #expect(schedule.next(now: now) == .dial(addresses[1]))
        var dialled = 2
        while schedule.running > 0 {
            schedule.failed(now: now)
            if case .dial = schedule.next(now: now) { dialled += 1 }
        }
        #expect(dialled == 5)
    }

    @Test func whatIsTriedAgainWaitsForItsTime() throws {
        let start = NIODeadline.uptimeNanoseconds(0)
        let addresses = try (1...3).map { try Multiaddr("/ip4/8.8.8.\($0)/tcp/1") }
        var schedule = DialSchedule(maximum: 2)
        schedule.add(addresses.map { RankedAddress(address: $0, delay: .zero) }, now: start)
        #expect(schedule.next(now: start) == .dial(addresses[0]))
        #expect(schedule.next(now: start) == .dial(addresses[1]))
        schedule.retry(addresses[0], due: start + .seconds(1))
        // Those that have not had their turn come first; a failure hurries them alone.
        #expect(schedule.next(now: start) == .dial(addresses[2]))
        schedule.failed(now: start)
        schedule.failed(now: start)
        #expect(schedule.running == 0)
        #expect(schedule.next(now: start) == .wait(start + .seconds(1)))
        #expect(schedule.next(now: start + .seconds(1)) == .dial(addresses[0]))
        schedule.failed(now: start + .seconds(1))
        #expect(schedule.next(now: start + .seconds(1)) == .exhausted)
    }

    @Test func backoffGrowsWithTheSquareOfFailures() throws {
        var backoff = DialBackoff(configuration: DialConfiguration())
        let peer = KeyPair.generate().peerID
        let address = try Multiaddr("/ip4/8.8.8.8/tcp/1")
        var now = NIODeadline.uptimeNanoseconds(0)
        var delays: [Int64] = []
        for _ in 0..<20 {
            backoff.failed(peer, address, now: now)
            let delay = try #require(backoff.remaining(peer, address, now: now))
            delays.append(delay.seconds)
            now = now + delay
            #expect(backoff.remaining(peer, address, now: now) == nil)
        }
        #expect(delays.prefix(4) == [5, 6, 9, 14])
        #expect(delays.max() == 300)
        backoff.succeeded(peer, address)
        backoff.failed(peer, address, now: now)
        #expect(backoff.remaining(peer, address, now: now) == .seconds(5))
        #expect(backoff.remaining(KeyPair.generate().peerID, address, now: now) == nil)
        backoff.clear(peer)
        #expect(backoff.count == 0)
    }

    @Test func backoffRemembersABoundedNumber() throws {
        var configuration = DialConfiguration()
        configuration.maximumBackoffEntries = 10
        var backoff = DialBackoff(configuration: configuration)
        let peer = KeyPair.generate().peerID
        let now = NIODeadline.uptimeNanoseconds(0)
        for port in 1...100 { backoff.failed(peer, try Multiaddr("/ip4/8.8.8.8/tcp/\(port)"), now: now + .seconds(1)) }
        #expect(backoff.count == 10)
    }

    // MARK: Names

    struct FakeResolver: NameResolver {
        var hosts: [String: [IPAddress]] = [:]
        var records: [String: [String]] = [:]

        func addresses(of name: String, family: IPFamily?, on loop: any EventLoop) -> EventLoopFuture<[IPAddress]> {
            guard let found = self.hosts[name] else {
                return loop.makeFailedFuture(LibP2PError(code: .resolutionFailed, message: "no \(name)"))
            }
            return loop.makeSucceededFuture(found.filter { family == nil || $0.family == family })
        }

        func texts(of name: String, on loop: any EventLoop) -> EventLoopFuture<[String]> {
            loop.makeSucceededFuture(self.records[name] ?? [])
        }
    }

    static let peer = KeyPair.generate().peerID
    static let resolver = FakeResolver(
        hosts: ["a.example": [.v4(.init(192, 0, 2, 1)), .v6(.init(high: 1, low: 2))]],
        records: [
            "_dnsaddr.a.example": [
                "dnsaddr=/ip4/192.0.2.9/tcp/1/p2p/\(peer)", "dnsaddr=/dnsaddr/b.example/p2p/\(peer)", "other",
                "dnsaddr=bad",
                "dnsaddr=/ip4/192.0.2.7/tcp/1/p2p/12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW",
            ],
            "_dnsaddr.b.example": ["dnsaddr=/dns4/a.example/tcp/2/p2p/\(peer)"],
            "_dnsaddr.loop.example": ["dnsaddr=/dnsaddr/loop.example"],
        ]
    )

    @Test(arguments: [
        ("/dns/a.example/tcp/1", ["/ip4/192.0.2.1/tcp/1", "/ip6/0:0:0:1::2/tcp/1"]),
        ("/dns4/a.example/tcp/1", ["/ip4/192.0.2.1/tcp/1"]),
        ("/dns6/a.example/tcp/1", ["/ip6/0:0:0:1::2/tcp/1"]),
        ("/dns4/a.example/tcp/1/wss", ["/ip4/192.0.2.1/tcp/1/tls/sni/a.example/ws"]),
        ("/dns4/a.example/tcp/1/tls/ws", ["/ip4/192.0.2.1/tcp/1/tls/sni/a.example/ws"]),
        ("/ip4/192.0.2.5/tcp/1", ["/ip4/192.0.2.5/tcp/1"]),
        ("/dnsaddr/a.example", ["/ip4/192.0.2.9/tcp/1", "/ip4/192.0.2.1/tcp/2"]),
    ])
    func namesBecomeAddresses(_ text: String, _ expected: [String]) async throws {
        let resolver = AddressResolver(resolver: Self.resolver, maximumDepth: 4)
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let found = try await resolver.resolve(try Multiaddr(text), of: Self.peer, on: loop).get()
        #expect(found == (try expected.map { try Multiaddr($0) }))
    }

    @Test(arguments: ["/dnsaddr/loop.example", "/dns4/none.example/tcp/1", "/dnsaddr/none.example"])
    func namesThatLeadNowhereFail(_ text: String) async throws {
        let resolver = AddressResolver(resolver: Self.resolver, maximumDepth: 4)
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let error = await #expect(throws: LibP2PError.self) {
            try await resolver.resolve(try Multiaddr(text), of: Self.peer, on: loop).get()
        }
        #expect(error?.code == .resolutionFailed)
    }

    /// Answers every name with as many others.
    final class Labyrinth: NameResolver {
        let asked = Mutex(0)

        func addresses(of name: String, family: IPFamily?, on loop: any EventLoop) -> EventLoopFuture<[IPAddress]> {
            self.asked.withLock { $0 += 1 }
            return loop.makeSucceededFuture((0...255).map { .v4(IPv4Address(192, 0, 2, $0)) })
        }

        func texts(of name: String, on loop: any EventLoop) -> EventLoopFuture<[String]> {
            let asked = self.asked.withLock { asked in
                asked += 1
                return asked
            }
            let next = asked > 10 ? "dns4" : "dnsaddr"
            return loop.makeSucceededFuture((0..<100).map { "dnsaddr=/\(next)/\(asked)-\($0).example/tcp/1" })
        }
    }

    @Test func recordsThatMultiplyAreFollowedAFewTimes() async throws {
        let labyrinth = Labyrinth()
        let resolver = AddressResolver(resolver: labyrinth, maximumDepth: 100)
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let found = try await resolver.resolve(try Multiaddr("/dnsaddr/a.example"), of: Self.peer, on: loop).get()
        #expect(labyrinth.asked.withLock { $0 } == AddressResolver.maximumLookups)
        #expect(found.count <= AddressResolver.maximumLookups * AddressResolver.maximumHosts)
    }

    @Test func theSystemKnowsLocalhost() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let found = try await SystemResolver.shared.addresses(of: "localhost", family: nil, on: loop).get()
        #expect(found.contains { $0.isLoopback })
    }
}
