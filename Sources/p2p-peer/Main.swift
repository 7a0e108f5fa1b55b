import CLinux
import Glibc
import LibP2P
import LibP2PRelay
import Logging
import Multiformats
import NIOCore
import NIOPosix
import PeerTesting

/// A libp2p host for tests by hand and with hosts of other languages: it serves the test protocols, or dials a peer that does and
/// tries them.
@main
enum Main {
    private static let usage = """
        p2p-peer [-listen ADDRESS,…] [-security noise,tls] [-psk FILE] [-node NAME] [-threads N] [-log LEVEL]
                 [-dial ADDRESS -op ping|identify|echo|sink|discard|source|streams|reset|halfclose [-bytes N] [-streams N]]
                 [-dial ADDRESS -op handshakes|latency|hold-connections|hold-streams -streams N]
                 [-announce ADDRESS,…] [-relay-service] [-reserve RELAY,…] [-hole-punch] [-keep ADDRESS,…]…
          Prints its addresses, then 'ready PEERID', and serves until it is killed; with -dial, also through a circuit, until the
          operation is done.
          With an option of the last line it is a peer of a mesh, and prints one line of JSON for whatever happens to it.
          -keep gives all addresses of one peer, each ending in /p2p/PEER.

        """

    static func main() async {
        // As the product does.
        clinux_tune_malloc()
        do {
            try await Arguments(Array(CommandLine.arguments.dropFirst())).run()
        } catch {
            let text = "error: \(error)\n"
            _ = write(2, text, text.utf8.count)
            exit(1)
        }
    }

    struct Arguments {
        var host = TestHost()
        var threads = 1
        var dial: Multiaddr?
        var operation = "ping"
        var bytes = 1 << 20
        var streams = 1
        var mesh = MeshingPeer()

        init(_ words: [String]) throws {
            var words = words[...]
            while let name = words.popFirst() {
                switch name {
                case "-relay-service":
                    self.mesh.servesAsRelay = true
                    continue
                case "-hole-punch":
                    self.mesh.punchesHoles = true
                    continue
                default: break
                }
                guard let value = words.popFirst() else { throw TestPeerError(Main.usage) }
                switch name {
                case "-listen": self.host.listen = value.split(separator: ",").map(String.init)
                case "-security":
                    self.host.security = try value.split(separator: ",").map { name in
                        switch name {
                        case "noise": .noise
                        case "tls": .tls
                        default: throw TestPeerError("\(name) is no security protocol\n\(Main.usage)")
                        }
                    }
                case "-psk": self.host.psk = try readBytes(value)
                case "-node": self.host.nodeName = value
                case "-threads": self.threads = try Self.number(value)
                case "-log": self.host.logLevel = .init(rawValue: value) ?? .debug
                case "-announce": self.host.announce = value.split(separator: ",").map(String.init)
                case "-reserve": self.mesh.reserve = try Self.addresses(value)
                case "-keep": self.mesh.keep.append(try Self.addresses(value))
                case "-dial": self.dial = try Multiaddr(value)
                case "-op": self.operation = value
                case "-bytes": self.bytes = try Self.number(value)
                case "-streams": self.streams = try Self.number(value)
                default: throw TestPeerError("\(name)?\n\(Main.usage)")
                }
            }
        }

        private static func addresses(_ text: String) throws -> [Multiaddr] {
            try text.split(separator: ",").map { try Multiaddr(String($0)) }
        }

        private static func number(_ text: String) throws -> Int {
            guard let number = Int(text), number > 0 else { throw TestPeerError("'\(text)' is no number above zero") }
            return number
        }

        func run() async throws {
            let group = MultiThreadedEventLoopGroup(numberOfThreads: self.threads)
            let host = try await self.host.start(on: group)
            guard !self.mesh.isWanted else { return try await self.mesh.run(host) }
            for address in host.listenAddresses { print(address.appending(.p2p(host.peerID))) }
            print("ready \(host.peerID)")
            // Whoever waits for these lines reads a pipe or a file.
            fflush(nil)
            guard let dial else {
                // Until a signal ends the process.
                while true { try await Task.sleep(for: .seconds(3600)) }
            }
            if dial.isCircuit { host.add(transport: CircuitTransport(host: host)) }
            let begin = NIODeadline.now()
            let connection = try await host.connect(to: dial)
            print(
                "connected in \(Self.milliseconds(since: begin)) ms to \(connection.remoteAddress)",
                "security \(connection.securityProtocol) muxer \(connection.multiplexer)"
            )
            try await self.operate(host, connection, dial)
            await host.shutdown(deadline: .now() + .seconds(1))
        }

        private func operate(_ host: Host, _ connection: Connection, _ dial: Multiaddr) async throws {
            let begin = NIODeadline.now()
            let peer = connection.remotePeer
            var moved = self.bytes * self.streams
            switch self.operation {
            case "ping":
                for _ in 0..<3 { print("rtt \(try await connection.ping().get().nanoseconds / 1000) us") }
                moved = 0
            case "identify":
                let known = try await Self.identification(of: connection)
                print("agent", known.agentVersion, "protocols", known.protocols.sorted(), known.listenAddresses)
                moved = 0
            case "echo": try await self.each { try await host.testEcho(peer, bytes: self.bytes) }
            case "halfclose":
                try await self.each { try await host.testEcho(peer, bytes: min(self.bytes, 200_000), readsLate: true) }
            case "sink": try await self.each { try await host.testSink(peer, bytes: self.bytes) }
            case "discard": try await self.each { try await host.testDiscard(peer, bytes: self.bytes) }
            case "source": try await self.each { try await host.testSource(peer, bytes: self.bytes) }
            case "reset":
                try await self.each { try await host.testReset(peer) }
                moved = 0
            case "streams":
                try await host.testStreams(peer, count: self.streams)
                moved = 2 * 1024 * self.streams
            case "handshakes", "latency", "hold-connections", "hold-streams":
                return try await self.measure(Measurements(host: host, address: dial), connection)
            default: throw TestPeerError("no operation \(self.operation)\n\(Main.usage)")
            }
            let seconds = Double((NIODeadline.now() - begin).nanoseconds) / 1e9
            print("\(self.operation) ok in \(Int(seconds * 1000)) ms, \(Int(Double(moved) / seconds / 1e6)) MB/s")
        }

        private func measure(_ measurements: Measurements, _ connection: Connection) async throws {
            switch self.operation {
            case "handshakes": try await measurements.handshakes(self.streams)
            case "latency": try await measurements.latency(connection, self.streams)
            case "hold-connections": try await measurements.holdConnections(self.streams)
            default: try await measurements.holdStreams(connection, self.streams)
            }
        }

        private static func identification(of connection: Connection) async throws -> Identification {
            for _ in 0..<200 {
                if let known = connection.identification { return known }
                try await Task.sleep(for: .milliseconds(25))
            }
            throw TestPeerError("the peer has not identified itself within five seconds")
        }

        private func each(_ body: @escaping @Sendable () async throws -> Void) async throws {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<self.streams { group.addTask { try await body() } }
                try await group.waitForAll()
            }
        }

        private static func milliseconds(since begin: NIODeadline) -> Int64 {
            (NIODeadline.now() - begin).nanoseconds / 1_000_000
        }
    }
}

private func readBytes(_ path: String) throws -> [UInt8] {
    guard let file = fopen(path, "r") else { throw TestPeerError("cannot read \(path): errno \(errno)") }
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    return Array(bytes[..<fread(&bytes, 1, bytes.count, file)])
}
