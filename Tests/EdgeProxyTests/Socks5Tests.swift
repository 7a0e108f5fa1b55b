import ByteStreams
import Documents
import KubeModel
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import ServiceLifecycleTestKit
import Testing

@testable import EdgeProxy
@testable import ServiceCatalog

@Suite("SOCKS5")
struct Socks5Tests {
    typealias Machine = Socks5StateMachine

    // MARK: The handshake

    /// Feeds all bytes at once or one by one.
    private static func run(_ bytes: [UInt8], _ machine: Machine, oneByOne: Bool) -> ([Machine.Action], ByteBuffer) {
        var machine = machine
        var buffer = ByteBuffer()
        var actions: [Machine.Action] = []
        for piece in oneByOne ? bytes.map({ [$0] }) : [bytes] {
            buffer.writeBytes(piece)
            while true {
                let action = machine.receive(&buffer)
                if action == .needsMore { break }
                actions.append(action)
            }
        }
        return (actions, buffer)
    }

    private static func name(_ text: String, _ port: UInt16) -> Machine.Action {
        .connect(Socks5Destination(host: .name(text), port: port))
    }

    @Test("a client without a password, by name and by address", arguments: [true, false])
    func connects(oneByOne: Bool) throws {
        let greeting: [UInt8] = [5, 1, 0]
        let machine = Machine(credentials: nil)
        let named = greeting + [5, 1, 0, 3, 4] + Array("edge".utf8) + [0, 22]
        #expect(Self.run(named, machine, oneByOne: oneByOne).0 == [.reply([5, 0]), Self.name("edge", 22)])
        let v4 = greeting + [5, 1, 0, 1, 10, 0, 0, 7, 0x1F, 0x90]
        let expected4 = Socks5Destination(host: .address(try ip("10.0.0.7")), port: 8080)
        #expect(Self.run(v4, machine, oneByOne: oneByOne).0 == [.reply([5, 0]), .connect(expected4)])
        let v6 = greeting + [5, 1, 0, 4] + [0xFD] + [UInt8](repeating: 0, count: 14) + [9, 0, 80]
        let expected6 = Socks5Destination(host: .address(try ip("fd00::9")), port: 80)
        #expect(Self.run(v6, machine, oneByOne: oneByOne).0 == [.reply([5, 0]), .connect(expected6)])
        let textual = greeting + [5, 1, 0, 3, 8] + Array("10.0.0.7".utf8) + [0x1F, 0x90]
        #expect(Self.run(textual, machine, oneByOne: oneByOne).0 == [.reply([5, 0]), .connect(expected4)])
    }

    @Test("what follows the request is kept for the target")
    func rest() {
        let bytes: [UInt8] = [5, 1, 0, 5, 1, 0, 3, 1] + Array("a".utf8) + [0, 22] + Array("SSH-2.0".utf8)
        let (actions, left) = Self.run(bytes, Machine(credentials: nil), oneByOne: false)
        #expect(actions == [.reply([5, 0]), Self.name("a", 22)])
        #expect(String(buffer: left) == "SSH-2.0")
    }

    @Test(
        "a password is asked for where one is set",
        arguments: [
            ("me", "secret", [UInt8]([1, 0])), ("me", "secreT", [1, 1]), ("", "", [1, 1]), ("you", "secret", [1, 1]),
        ]
    )
    func passwords(user: String, password: String, answer: [UInt8]) {
        let machine = Machine(credentials: .init(user: "me", password: "secret"))
        let login: [UInt8] =
            [1, UInt8(user.utf8.count)] + Array(user.utf8) + [UInt8(password.utf8.count)] + Array(password.utf8)
        let bytes = [5, 2, 0, 2] + login + [5, 1, 0, 3, 1, 0x61, 0, 22]
        let (actions, _) = Self.run(bytes, machine, oneByOne: true)
        #expect(actions.first == .reply([5, 2]))
        if answer[1] == 0 {
            #expect(actions.dropFirst() == [.reply(answer), Self.name("a", 22)])
        } else {
            #expect(actions.dropFirst() == [.end(answer)])
        }
    }

    @Test(
        "what cannot be served is answered as RFC 1928 says",
        arguments: [
            ([4, 1, 0, 80], []),
            (Array("GET / HTTP/1.1".utf8), []),
            ([5, 1, 2], [5, 0xFF]),
            ([5, 0], [5, 0xFF]),
            ([5, 1, 0, 5, 2, 0, 1, 1, 1, 1, 1, 0, 80], Socks5Reply.commandNotSupported.bytes),
            ([5, 1, 0, 5, 3, 0, 1, 1, 1, 1, 1, 0, 80], Socks5Reply.commandNotSupported.bytes),
            ([5, 1, 0, 5, 1, 0, 2, 1], Socks5Reply.addressTypeNotSupported.bytes),
            ([5, 1, 0, 5, 1, 0, 1, 1, 1, 1, 1, 0, 0], Socks5Reply.generalFailure.bytes),
            ([5, 1, 0, 4, 1, 0, 1], Socks5Reply.generalFailure.bytes),
        ] as [([UInt8], [UInt8])]
    )
    func refusals(bytes: [UInt8], answer: [UInt8]) {
        #expect(Self.run(bytes, Machine(credentials: nil), oneByOne: true).0.last == .end(answer))
        #expect(Self.run(bytes, Machine(credentials: nil), oneByOne: false).0.last == .end(answer))
    }

    // MARK: What is meant

    private static func router() throws -> Socks5Router {
        var here = NodeObject(name: "a")
        here.internalIPs = [try ip("192.168.1.1")]
        var there = NodeObject(name: "edge.b")
        there.internalIPs = [try ip("fd00::b"), try ip("192.168.1.2")]
        there.podCIDRs = [try cidr("10.244.2.0/24")]
        let web = try makeService(endpoints: [endpoint("10.1.0.1", node: "edge.b")])
        let headless = try makeService("db", endpoints: [endpoint("10.9.0.5", node: "edge.b")]) {
            $0.clusterIPs = []
            $0.isHeadless = true
        }
        return Socks5Router(
            snapshot: CatalogSnapshot(services: [web, headless], nodes: [here, there]),
            reach: EndpointReach(nodeName: "a"),
            clusterDomain: "cluster.local"
        )
    }

    @Test(
        "nodes and services by every name that they have",
        arguments: [
            ("edge.b", 22, "edge.b 192.168.1.2:22 socks"),
            ("Edge.B.", 22, "edge.b 192.168.1.2:22 socks"),
            ("a", 22, "192.168.1.1:22"),
            ("web.shop", 80, "10.96.0.10:80"),
            ("web.shop.svc", 80, "10.96.0.10:80"),
            ("web.shop.svc.cluster.local", 80, "10.96.0.10:80"),
            ("WEB.shop.svc.cluster.local.", 80, "10.96.0.10:80"),
            ("db.shop", 80, "edge.b 10.9.0.5:8080 service"),
            ("10.96.0.10", 80, "10.96.0.10:80"),
            ("192.168.1.2", 22, "edge.b 192.168.1.2:22 socks"),
            ("fd00::b", 22, "edge.b [fd00::b]:22 socks"),
            ("192.168.1.1", 22, "192.168.1.1:22"),
            ("10.244.2.77", 5432, "edge.b 10.244.2.77:5432 service"),
            ("10.9.0.5", 5432, "edge.b 10.9.0.5:5432 service"),
        ] as [(String, UInt16, String)]
    )
    func routes(name: String, port: UInt16, expected: String) throws {
        let host = IPAddress(name).map { Socks5Destination.Host.address($0) } ?? .name(name)
        let route = try Self.router().route(Socks5Destination(host: host, port: port), from: nil)
        switch route {
        case .here(let address): #expect("\(address)" == expected)
        case .tunnel(let target): #expect("\(target.node) \(target.address) \(target.purpose)" == expected)
        }
    }

    @Test(
        "nothing else is served: not the internet, not the loopback of anyone",
        arguments: [
            ("127.0.0.1", 22, .notAllowed), ("8.8.8.8", 53, .notAllowed), ("::1", 22, .notAllowed),
            ("example.com", 80, .hostUnreachable), ("web", 80, .hostUnreachable), ("", 80, .hostUnreachable),
            ("...", 80, .hostUnreachable), ("web.shop.svc.other.local", 80, .hostUnreachable),
            ("web.shop", 81, .connectionRefused),
        ] as [(String, UInt16, Socks5Reply)]
    )
    func refused(name: String, port: UInt16, reply: Socks5Reply) throws {
        let host = IPAddress(name).map { Socks5Destination.Host.address($0) } ?? .name(name)
        let router = try Self.router()
        #expect(throws: reply) { try router.route(Socks5Destination(host: host, port: port), from: nil) }
    }

    // MARK: The whole

    @Test("a client reaches a node through the tunnel, on whichever loop, and loses nothing", .timeLimit(.minutes(1)))
    func endToEnd() async throws {
        let target = try await Loopback.lateEcho("127.0.0.1")
        let tunnel = FakeTunnel(loop: Loopback.group.next())
        var there = NodeObject(name: "b")
        there.internalIPs = [try ip("127.0.0.1")]
        let server = Socks5Server(
            settings: .init(address: try transport("127.0.0.1:0"), reach: EndpointReach(nodeName: "a")),
            catalog: FakeCatalog([], nodes: [there]),
            tunnel: tunnel,
            group: Loopback.group,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        )
        try await testGracefulShutdown { trigger in
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await server.run() }
                while server.listenAddress == nil { try await Loopback.pause() }
                let address = try #require(server.listenAddress)
                let port = Loopback.port(target)
                let request: [UInt8] = [5, 1, 0, 5, 1, 0, 3, 1, 0x62, UInt8(port >> 8), UInt8(port & 0xFF)]
                let payload = [UInt8](repeating: 7, count: 300_000)
                for _ in 0..<8 {
                    let exchange = try await Loopback.exchange(address, send: request + payload, endOutput: true)
                    #expect(Array(exchange.bytes.prefix(12)) == [5, 0] + Socks5Reply.succeeded.bytes)
                    #expect(Array(exchange.bytes.dropFirst(12)) == payload)
                }
                // Unknown: the reply says so, and the connection ends.
                let unknown = try await Loopback.exchange(address, send: [5, 1, 0, 5, 1, 0, 3, 1, 0x7A, 0, 22])
                #expect(unknown.bytes == [5, 0] + Socks5Reply.hostUnreachable.bytes)
                trigger.triggerGracefulShutdown()
                try await group.waitForAll()
            }
        }
        #expect(tunnel.targets.allSatisfy { $0.purpose == .socks && $0.node == "b" })
        let status = await server.status()
        #expect(status["counters"]?["served"]?.jsonText(pretty: false) == "8")
        try await target.close()
    }
}
