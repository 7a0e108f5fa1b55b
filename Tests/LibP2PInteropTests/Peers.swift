import Glibc
import LibP2P
import LibP2PSecurity
import Multiformats
import NIOCore
import NIOPosix
import PeerTesting
import Testing

/// Where the peers of other languages are: installed by `scripts/bootstrap --peers`, or named by the environment.
enum Peers {
    private static let folder = variable("EDGEMESH_PEERS") ?? "\(variable("HOME") ?? "/root")/.cache/edgemesh/peers"

    /// go-libp2p's daemon, from the wheel `hivemind`.
    static let daemon = "\(Self.folder)/p2pd"
    static let python = "\(Self.folder)/venv/bin/python"
    static let script = Self.file("peer.py")
    /// A host of go-libp2p with the command line of `p2p-peer`; only where somebody has built one.
    static let go = variable("EDGEMESH_GO_PEER")

    /// EdgeMesh v1.17's agent; only where somebody has built it.
    static let original = variable("EDGEMESH_ORIGINAL_AGENT")

    /// Of the one transfer by each way that shows that no counter of 32 bits is in the way: tens of seconds in a debug build.
    static let gigabyte = 1 << 30
    /// Bytes of every other transfer.
    static let bulk = variable("EDGEMESH_INTEROP_BYTES").flatMap { Int($0) } ?? 64 << 20
    static let streams = 1000
    /// No peer lives longer than this: whoever waits for it gets an error.
    static let lifetime = TimeAmount.seconds(Int64(variable("EDGEMESH_INTEROP_SECONDS").flatMap { Int($0) } ?? 150))
    /// Of every transfer with py-libp2p but the long ones: over WebSocket it moves a few megabytes in a second.
    static let smallBulk = min(Self.bulk, 16 << 20)
    /// Of a peer that has to move a gigabyte at the pace of py-libp2p.
    static let longLifetime = TimeAmount.minutes(10)

    /// A file of the folder `Peers` beside this one.
    static func file(_ name: String) -> String {
        #filePath.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" } + "/Peers/\(name)"
    }

    static func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
    }

    /// A py-libp2p host, by a script of ours.
    static func startPython(_ arguments: [String], limit: TimeAmount = Self.lifetime) throws -> PeerProcess {
        try Self.require(Self.python)
        return try PeerProcess([Self.python, Self.script] + arguments, limit: limit)
    }

    /// go-libp2p's daemon.
    static func startDaemon(
        listen: String = "/ip4/127.0.0.1/tcp/0",
        limit: TimeAmount = Self.lifetime,
        _ options: String...
    ) async throws -> Daemon {
        try Self.require(Self.daemon)
        return try await Daemon.start(
            Self.daemon,
            listen: [listen],
            options: options,
            limit: limit,
            on: MultiThreadedEventLoopGroup.singleton.next()
        )
    }

    static func require(_ path: String) throws {
        guard access(path, X_OK) == 0 else {
            throw TestPeerError("\(path) is missing: run 'scripts/bootstrap --peers'")
        }
    }
}

/// One way to connect.
struct Way: Sendable, CustomTestStringConvertible {
    var transport: String
    var security: HostConfiguration.Security

    /// For listening.
    var address: String { "/ip4/127.0.0.1/tcp/0" + (self.transport == "ws" ? "/ws" : "") }
    var securityName: String { self.security == .tls ? "tls" : "noise" }
    var testDescription: String { "\(self.transport), \(self.securityName)" }

    static let all = ["tcp", "ws"].flatMap { transport in
        HostConfiguration.Security.allCases.map { Way(transport: transport, security: $0) }
    }

    /// The one of a peer's addresses that is of this transport.
    func choose(_ addresses: [Multiaddr]) throws -> Multiaddr {
        let chosen = addresses.first { $0.components.contains(.ws) == (self.transport == "ws") }
        return try #require(chosen, "no address of \(self.transport) among \(addresses)")
    }
}

/// Starts a host of ours that serves the test protocols, and shuts it down.
func withHost<Result>(_ host: TestHost, _ body: (Host) async throws -> Result) async throws -> Result {
    let group = MultiThreadedEventLoopGroup.singleton
    let started = try await host.start(on: group)
    do {
        let result = try await body(started)
        await started.shutdown(deadline: .now() + .seconds(1))
        return result
    } catch {
        await started.shutdown(deadline: .now())
        throw error
    }
}

extension PeerProcess {
    /// Where a peer of the script's or `p2p-peer`'s words listens, once it is ready.
    func address() async throws -> Multiaddr {
        _ = try await self.line("ready")
        return try Multiaddr(try await self.line("/ip4/"))
    }
}

extension Daemon {
    /// Where it listens first, with its peer ID.
    var address: Multiaddr {
        get throws { try #require(self.addresses.first).appending(.p2p(self.peerID)) }
    }

    /// Sends bytes over a stream that it opens, and gets them back unchanged.
    func echo(_ bytes: Int, with peer: PeerID) async throws {
        let transfer = Transfer(sends: bytes, endsOutput: false, hashes: true, expects: bytes)
        let outcome = try await self.run(transfer, .echo, with: peer)
        #expect(outcome.received == bytes && outcome.sentHash == outcome.receivedHash)
    }
}

extension Host {
    func address(_ way: Way) throws -> Multiaddr {
        try way.choose(self.listenAddresses).appending(.p2p(self.peerID))
    }

    /// Waits for what the peer says of itself.
    func identification(of connection: Connection) async throws -> Identification {
        for _ in 0..<500 {
            if let known = connection.identification { return known }
            try await Task.sleep(for: .milliseconds(10))
        }
        throw TestPeerError("the peer has not identified itself within five seconds")
    }
}
