import LibP2P
import Multiformats
import NIOCore
import PeerTesting
import Testing

/// With a host of go-libp2p that has the private networks of v1.17; where `EDGEMESH_GO_PEER` names its program.
@Suite(.serialized, .enabled(if: Peers.go != nil, "EDGEMESH_GO_PEER names no program"))
struct GoPeerTests {
    /// The bytes of `Peers/psk`.
    static let psk = Array("a private network".utf8)

    struct Case: Sendable, CustomTestStringConvertible {
        var way: Way
        var psk: Bool
        var testDescription: String { "\(self.way.testDescription)\(self.psk ? ", psk" : "")" }

        static let all = Way.all.flatMap { way in [false, true].map { Case(way: way, psk: $0) } }
    }

    private func start(_ item: Case, _ arguments: [String] = []) throws -> PeerProcess {
        let program = try #require(Peers.go)
        try Peers.require(program)
        return try PeerProcess(
            [program, "-listen", item.way.address, "-security", item.way.securityName]
                + (item.psk ? ["-psk", Peers.file("psk")] : []) + arguments,
            limit: Peers.lifetime
        )
    }

    @Test(arguments: Case.all) func weDial(_ item: Case) async throws {
        let peer = try self.start(item)
        let address = try await peer.address()
        try await withHost(TestHost(security: [item.way.security], psk: item.psk ? Self.psk : nil)) { host in
            let connection = try await host.connect(to: address)
            let remote = connection.remotePeer
            #expect(connection.securityProtocol == item.way.security.rawValue)
            #expect(try await connection.ping().get() > .zero)
            #expect(try await host.identification(of: connection).protocols.contains(.ping))
            try await host.testEcho(remote, bytes: 8 << 20)
            try await host.testEcho(remote, bytes: 100_000, readsLate: true)
            try await host.testSink(remote, bytes: Peers.bulk)
            try await host.testSource(remote, bytes: Peers.bulk, hashes: true)
            try await host.testReset(remote)
            try await host.testStreams(remote, count: Peers.streams)
        }
    }

    @Test(arguments: Case.all) func itDials(_ item: Case) async throws {
        try await withHost(
            TestHost(listen: [item.way.address], security: [item.way.security], psk: item.psk ? Self.psk : nil)
        ) { host in
            let address = try host.address(item.way).description
            for (operation, bytes, streams) in [
                ("ping", 0, 1), ("identify", 0, 1), ("echo", 8 << 20, 1), ("sink", Peers.bulk, 1),
                ("source", Peers.bulk, 1), ("echo", 1024, Peers.streams),
            ] {
                let peer = try self.start(
                    item,
                    ["-dial", address, "-op", operation, "-bytes", "\(bytes)", "-streams", "\(streams)"]
                )
                let output = try await peer.finish(within: 120)
                #expect(output.contains("\(operation) ok"), "\(output)")
            }
        }
    }

    @Test func aKeyThatDiffersIsNamed() async throws {
        let way = Way(transport: "tcp", security: .tls)
        let peer = try self.start(Case(way: way, psk: true))
        let address = try await peer.address()
        for psk in [nil, Array("another key".utf8)] {
            try await withHost(TestHost(psk: psk)) { host in
                let error = await #expect(throws: LibP2PError.self) { _ = try await host.connect(to: address) }
                let attempt = try #require(error?.attempts.first?.error as? LibP2PError)
                #expect(attempt.code == .wrongPreSharedKey, "\(attempt)")
            }
        }
    }
}
