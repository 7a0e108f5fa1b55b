import DNSWire
import Documents
import KubeModel
import MeshCore
import MeshInterfaces
import NIOCore
import ServiceCatalog
import Synchronization
import Testing

@testable import EdgeDNS

@Suite(.timeLimit(.minutes(1))) struct ForwardingTests {
    private static let address = RecordData.a(IPv4Address(192, 0, 2, 1))

    @Test func forwardsAndKeepsAnswers() async throws {
        try await FakeUpstream.run { query, _ in
            [FakeUpstream.answering(query)]
        } _: { upstream in
            try await withServer(upstreams: [upstream.address]) { server in
                for _ in 0..<3 {
                    let reply = try await server.ask("WWW.example.org")
                    #expect(reply.answers.map(\.data) == [ForwardingTests.address])
                    #expect(reply.flags == [.response, .recursionDesired, .recursionAvailable])
                    #expect(reply.questions[0].name.description == "WWW.example.org.")
                }
                #expect(upstream.questions.filter { $0.type == .a }.count == 1)
                #expect(await server.status("queries", "cacheHits")?.integer == 2)
            }
        }
    }

    @Test func keepsNegativeAnswers() async throws {
        try await FakeUpstream.run { query, _ in
            var reply = query
            reply.flags = .response
            reply.responseCode = .nameError
            let soa = StartOfAuthority(
                primary: .root,
                mailbox: .root,
                serial: 1,
                refresh: 1,
                retry: 1,
                expire: 1,
                minimum: 60
            )
            reply.authorities = [ResourceRecord(.root, ttl: 60, .soa(soa))]
            return [reply]
        } _: { upstream in
            try await withServer(upstreams: [upstream.address]) { server in
                for _ in 0..<3 {
                    let holds = try await server.ask("gone.example.org").responseCode == .nameError
                    #expect(holds)
                }
                #expect(upstream.questions.filter { $0.type == .a }.count == 1)
            }
        }
    }

    /// Late, misdirected and forged replies before the true one.
    @Test func takesOnlyTheAnswerToItsQuestion() async throws {
        try await FakeUpstream.run { query, _ in
            var wrongID = FakeUpstream.answering(query, IPv4Address(6, 6, 6, 6))
            wrongID.id = query.id &+ 1
            var wrongName = FakeUpstream.answering(query, IPv4Address(6, 6, 6, 6))
            wrongName.questions[0].name = .root
            var noReply = FakeUpstream.answering(query, IPv4Address(6, 6, 6, 6))
            noReply.flags = []
            return [wrongID, wrongName, noReply, FakeUpstream.answering(query)]
        } _: { upstream in
            try await withServer(upstreams: [upstream.address]) { server in
                let holds58 = try await server.ask("www.example.org").answers.map(\.data) == [ForwardingTests.address]
                #expect(holds58)
                let holds59 = try #require(await server.status("forwarding", "mismatches")?.integer) >= 3
                #expect(holds59)
            }
        }
    }

    @Test func fetchesTruncatedAnswersOverTCP() async throws {
        try await FakeUpstream.run { query, transport in
            var reply = FakeUpstream.answering(query)
            if transport == .udp {
                reply.answers = []
                reply.flags.insert(.truncated)
            }
            return [reply]
        } _: { upstream in
            try await withServer(upstreams: [upstream.address]) { server in
                let holds74 = try await server.ask("www.example.org").answers.map(\.data) == [ForwardingTests.address]
                #expect(holds74)
                #expect(await server.status("forwarding", "overTCP")?.integer == 1)
            }
        }
    }

    @Test func repeatsLostQuestions() async throws {
        let count = Mutex(0)
        try await FakeUpstream.run { query, _ in
            guard query.questions.first?.type == .a else { return [] }
            let isFirst = count.withLock { value in
                value += 1
                return value == 1
            }
            return isFirst ? [] : [FakeUpstream.answering(query)]
        } _: { upstream in
            try await withServer(upstreams: [upstream.address]) { server in
                let holds91 = try await server.ask("www.example.org").answers.count == 1
                #expect(holds91)
            }
        }
    }

    @Test func asksTheNextUpstreamIfThereIsNoneAtTheFirst() async throws {
        try await FakeUpstream.run { query, _ in
            [FakeUpstream.answering(query)]
        } _: { upstream in
            let dead = TransportAddress(.v4(.loopback), try Sockets.freePort())
            try await withServer(upstreams: [dead, upstream.address]) { server in
                for number in 0..<4 {
                    let holds = try await server.ask("n\(number).example.org").answers.count == 1
                    #expect(holds)
                }
                let states = await server.status("upstreams")?.array?.map { $0["state"]?.string }
                #expect(states == ["down", "up"])
            }
        }
    }

    @Test func asksEqualQuestionsOnce() async throws {
        let held = Mutex<Int>(0)
        try await FakeUpstream.run { query, _ in
            guard query.questions.first?.type == .a else { return [] }
            // The first copy is lost, so the question stays open while others join.
            let number = held.withLock { value in
                value += 1
                return value
            }
            return number == 1 ? [] : [FakeUpstream.answering(query)]
        } _: { upstream in
            try await withServer(upstreams: [upstream.address]) { server in
                let counts = try await withThrowingTaskGroup(of: Int.self) { group in
                    for _ in 0..<10 { group.addTask { try await server.ask("www.example.org").answers.count } }
                    return try await group.reduce(into: 0) { $0 += $1 }
                }
                #expect(counts == 10)
                #expect(await server.status("forwarding", "questions")?.integer == 1)
                // Whoever came too late to join found the answer in the cache.
                let joined = await server.status("forwarding", "joined")?.integer ?? 0
                let hits = await server.status("queries", "cacheHits")?.integer ?? 0
                #expect(joined > 0)
                #expect(joined + hits == 9)
            }
        }
    }

    @Test func boundsWhatIsOutstanding() async throws {
        try await FakeUpstream.run { _, _ in
            []
        } _: { upstream in
            try await withServer(upstreams: [upstream.address]) {
                $0.maximumOutstanding = 1
                $0.upstreamDeadline = .milliseconds(700)
            } _: { server in
                let codes = try await withThrowingTaskGroup(of: ResponseCode.self) { group in
                    for number in 0..<5 {
                        group.addTask { try await server.ask("n\(number).example.org").responseCode }
                    }
                    return try await group.reduce(into: []) { $0.append($1) }
                }
                #expect(codes == Array(repeating: .serverFailure, count: 5))
                #expect(try #require(await server.status("forwarding", "overflows")?.integer) >= 4)
            }
        }
    }

    @Test func servesOutdatedAnswersWhileNoUpstreamAnswers() async throws {
        let isUp = Mutex(true)
        try await FakeUpstream.run { query, _ in
            isUp.withLock { $0 } ? [FakeUpstream.answering(query, ttl: 1)] : []
        } _: { upstream in
            try await withServer(upstreams: [upstream.address]) { server in
                #expect(try await server.ask("www.example.org").answers.map(\.ttl) == [1])
                isUp.withLock { $0 = false }
                try await eventually("the answer grows old") {
                    let reply = try await server.ask("www.example.org")
                    #expect(reply.answers.map(\.data) == [ForwardingTests.address])
                    // RFC 8914: 3 is "stale answer".
                    return reply.edns?.options.contains { $0.code == 15 && $0.data.prefix(2) == [0, 3] } == true
                }
                #expect(try #require(await server.status("queries", "staleAnswers")?.integer) >= 1)
            }
        }
    }

    @Test func chasesExternalNames() async throws {
        try await FakeUpstream.run { query, _ in
            [FakeUpstream.answering(query)]
        } _: { upstream in
            try await withServer(upstreams: [upstream.address]) { server in
                for _ in 0..<2 {
                    let reply = try await server.ask("outside.default.svc.cluster.local")
                    #expect(
                        reply.answers.map(\.data) == [.cname(try DomainName("example.org")), ForwardingTests.address]
                    )
                    #expect(
                        reply.answers.map { $0.name.description } == [
                            "outside.default.svc.cluster.local.", "Example.ORG.",
                        ]
                    )
                }
                #expect(upstream.questions.filter { $0.type == .a }.count == 1)
            }
        }
    }

    /// The upstream sends every question back to this server.
    @Test func refusesToForwardInACircle() async throws {
        let port = try Sockets.freePort()
        let target = TransportAddress(.v4(.loopback), port)
        try await FakeUpstream.run { query, _ in
            Task { try? await Sockets.exchange(query.encoded(), with: target, overTCP: false) }
            return []
        } _: { upstream in
            try await withServer(upstreams: [upstream.address], port: port) { server in
                try await eventually("loop is found") {
                    await server.status("upstreams")?.array?.first?["state"]?.string == "looping"
                }
                #expect(try await server.ask("www.example.org").responseCode == .refused)
                #expect(try await server.ask("web.default.svc.cluster.local").answers.count == 1)
                let metrics = await server.service.metrics()
                #expect(metrics.first { $0.name == "edgemesh_dns_upstream_loops_total" }?.value == 1)
                #expect(metrics.first { $0.name == "edgemesh_dns_upstream_up" }?.value == 0)
            }
        }
    }

    @Test func servesAsACacheInFrontOfTheClusterDNS() async throws {
        try await FakeUpstream.run { query, _ in
            [FakeUpstream.answering(query, ttl: 500)]
        } _: { upstream in
            try await withServer {
                $0.cacheDNS = .init()
                $0.cacheDNS?.cacheTTL = 20
            } _: { server in
                #expect(try await server.ask("web.default.svc.cluster.local").responseCode == .refused)
                #expect(await server.status("problems")?.array?.count == 1)
                // The service appears: its cluster IP is used from then on.
                let dns = ZoneFixtures.service(
                    "kube-dns",
                    in: "kube-system",
                    clusterIPs: ["127.0.0.1"],
                    ports: [.init(name: "dns", transport: .udp, port: upstream.address.port)]
                )
                server.catalog.publish(CatalogSnapshot(services: [dns]))
                try await eventually("upstream is found") { await server.status("upstreams")?.array?.count == 1 }
                #expect(
                    try await server.ask("web.default.svc.cluster.local").answers.map(\.data) == [
                        ForwardingTests.address
                    ]
                )
                let kept = try await server.ask("web.default.svc.cluster.local")
                #expect(kept.answers.allSatisfy { $0.ttl <= 20 })
                #expect(!kept.flags.contains(.authoritative))
            }
        }
    }
}
