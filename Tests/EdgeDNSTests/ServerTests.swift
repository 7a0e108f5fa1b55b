import DNSWire
import Documents
import Glibc
import KubeModel
import MeshCore
import NIOCore
import ServiceCatalog
import Testing

@testable import EdgeDNS

@Suite(.timeLimit(.minutes(1))) struct ServerTests {
    @Test(arguments: [false, true])
    func answersClusterNames(overTCP: Bool) async throws {
        try await withServer { server in
            let reply = try await server.ask("WeB.default.svc.cluster.local", overTCP: overTCP)
            #expect(reply.answers.map(\.data) == [.a(IPv4Address(10, 96, 0, 10))])
            #expect(reply.questions[0].name.description == "WeB.default.svc.cluster.local.")
            #expect(reply.flags == [.response, .authoritative, .recursionDesired])
            let negative = try await server.ask("web.default.svc.cluster.local", .aaaa, overTCP: overTCP)
            #expect(negative.responseCode == .noError)
            #expect(negative.authorities.map(\.type) == [.soa])
        }
    }

    @Test func followsTheCatalog() async throws {
        try await withServer(CatalogSnapshot(version: 1, services: [])) { server in
            let name = "web.default.svc.cluster.local"
            #expect(try await server.ask(name).responseCode == .nameError)
            server.catalog.publish(CatalogSnapshot(version: 2, services: [ZoneFixtures.web]))
            try await eventually("name appears") { try await server.ask(name).answers.count == 1 }
            // The same service object in a new version keeps its answer; another object replaces it.
            server.catalog.publish(CatalogSnapshot(version: 3, services: [ZoneFixtures.web]))
            let moved = ZoneFixtures.service("web", clusterIPs: ["10.96.0.99"])
            server.catalog.publish(CatalogSnapshot(version: 4, services: [moved]))
            try await eventually("address changes") {
                try await server.ask(name).answers.first?.data == .a(IPv4Address(10, 96, 0, 99))
            }
            server.catalog.publish(CatalogSnapshot(version: 5, services: []))
            try await eventually("name goes") { try await server.ask(name).responseCode == .nameError }
        }
    }

    @Test func spreadsAddressesOverAnswers() async throws {
        try await withServer { server in
            var firsts: Set<RecordData> = []
            for _ in 0..<4 {
                let reply = try await server.ask("db.default.svc.cluster.local")
                #expect(reply.answers.count == 2)
                firsts.insert(reply.answers[0].data)
            }
            #expect(firsts.count == 2)
        }
    }

    static let manyAddresses = ZoneFixtures.headless(
        "many",
        groups: [
            .init(ports: [], endpoints: (0..<100).map { .init(address: .v4(IPv4Address(10, 1, 0, UInt8($0)))) })
        ]
    )

    @Test func truncatesAndServesTheRestOverTCP() async throws {
        try await withServer(CatalogSnapshot(services: [ServerTests.manyAddresses])) { server in
            for (edns, most) in [(nil, 512), (512, 512), (4096, 1232)] as [(UInt16?, Int)] {
                let reply = try await server.ask("many.default.svc.cluster.local", edns: edns)
                #expect(reply.flags.contains(.truncated))
                #expect(reply.encoded().readableBytes <= most)
                #expect(reply.answers.count > (most - 100) / 16)
            }
            let whole = try await server.ask("many.default.svc.cluster.local", overTCP: true)
            #expect(whole.answers.count == 100)
            #expect(!whole.flags.contains(.truncated))
        }
    }

    @Test func refusesWhatItDoesNotServe() async throws {
        try await withServer { server in
            #expect(try await server.ask("cluster.local", .axfr).responseCode == .refused)
            #expect(try await server.ask("example.org").responseCode == .refused)
            let any = try await server.ask("web.default.svc.cluster.local", .any)
            #expect(any.answers.map(\.type) == [.hinfo])
            let chaos = Message(id: 5, questions: [Question(try DomainName("version.bind"), .txt, .chaos)])
            #expect(try Message(parsing: try await server.exchange(chaos.encoded())).responseCode == .refused)
            var future = Message(id: 6, questions: [Question(try DomainName("a.cluster.local"), .a)])
            future.edns = EDNS(payloadSize: 1232)
            future.edns?.version = 1
            let version = try Message(parsing: try await server.exchange(future.encoded()))
            #expect(version.responseCode == .badVersion)
            #expect(version.edns?.version == 0)
            let cut = ByteBuffer(bytes: [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 5])
            #expect(try Message(parsing: try await server.exchange(cut)).responseCode == .formatError)
            #expect(await server.status("queries", "byCode", "REFUSED")?.integer == 3)
        }
    }

    @Test func answersPipelinedQueriesOnOneConnection() async throws {
        try await withServer { server in
            let replies = try await Sockets.blocking {
                let descriptor = try Sockets.connected(to: server.address, overTCP: true)
                defer { close(descriptor) }
                var bytes: [UInt8] = []
                for id in 0..<50 as Range<UInt16> {
                    let query = Message(
                        id: id,
                        questions: [Question(try DomainName("web.default.svc.cluster.local"), .a)]
                    )
                    bytes += Sockets.framed(query.encoded())
                }
                // In two parts that cut a message.
                try Sockets.write(descriptor, Array(bytes[..<777]))
                try Sockets.write(descriptor, Array(bytes[777...]))
                return try (0..<50).map { _ in try Message(parsing: try Sockets.readFramed(descriptor)) }
            }
            #expect(replies.map(\.id) == Array(0..<50))
            #expect(replies.allSatisfy { $0.answers.count == 1 })
        }
    }

    @Test func closesIdleConnectionsAndBoundsTheirNumber() async throws {
        try await withServer {
            $0.connectionIdleTimeout = .milliseconds(300)
            $0.maximumConnections = 2
        } _: { server in
            let open = try await Sockets.blocking {
                try (0..<3).map { _ in try Sockets.connected(to: server.address, overTCP: true) }
            }
            try await eventually("third connection is refused") {
                await server.status("queries", "refusedConnections")?.integer == 1
            }
            try await eventually("idle connections are closed") { await server.status("openConnections")?.integer == 0 }
            for descriptor in open { close(descriptor) }
        }
    }

    @Test func listensOnAddressesThatTheNodeDoesNotHaveYet() async throws {
        try await withServer(host: "192.0.2.77") { server in
            #expect(await server.status("notListening")?.members?.isEmpty == true)
        }
    }

    @Test func takesNewSettingsWhileItRuns() async throws {
        try await withServer { server in
            #expect(try await server.ask("web.default.svc.k8s.example").responseCode == .refused)
            let other = TransportAddress(.v4(.loopback), try Sockets.freePort())
            var settings = EdgeDNSSettings(listenAddresses: [server.address, other])
            settings.clusterDomain = "k8s.example"
            settings.upstreams = []
            server.service.update(settings)
            let moved = RunningServer(service: server.service, catalog: server.catalog, address: other)
            try await eventually("new address is served") { await server.status("listening")?.array?.count == 4 }
            #expect(try await moved.ask("web.default.svc.k8s.example").answers.count == 1)
            #expect(try await server.ask("web.default.svc.k8s.example").answers.count == 1)
        }
    }

    @Test func sharesAnAddressAmongLoops() async throws {
        try await withServer(loops: 2) { server in
            for _ in 0..<40 {
                let holds = try await server.ask("web.default.svc.cluster.local").answers.count == 1
                #expect(holds)
            }
            #expect(await server.status("queries", "overUDP")?.integer == 40)
        }
    }
}
