import Documents
import LibP2P
import Multiformats
import NIOCore
import PeerTesting

/// Keeps a connection to a peer, and bytes flowing: echoes with a hash on streams of their own by whatever path is best, and
/// one stream that lives as long as the first connection does.
struct KeptPeer {
    enum Path: String { case relayed, direct }

    let host: Host
    let peer: PeerID
    let addresses: [Multiaddr]

    private static let interval = Duration.milliseconds(500)
    private static let bytes = 16 * 1024

    func run() async throws {
        while true {
            do {
                try await self.keep()
            } catch {
                try Task.checkCancellation()
                self.say("failed", [("error", .string("\(error)"))])
            }
            try await Task.sleep(for: .milliseconds(250))
        }
    }

    private func say(_ event: String, _ details: [(String, Document)]) {
        let members = [("event", .string(event)), ("peer", .string("\(self.peer)"))] + details
        PeerEvents.say(members)
    }

    private func keep() async throws {
        let options = DialOptions(ignoreBackoff: true, timeout: .seconds(20))
        let first = try await self.host.connect(to: self.peer, addresses: self.addresses, options: options)
        var path = first.isRelayed ? Path.relayed : .direct
        // At once, as the peer may soon have a better connection and close this one, if nothing runs on it.
        let held = try await first.openStream(protocols: [TestProtocol.echo.id]).get()
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await self.hold(held) }
            try await self.echo(on: first)
            try await self.tell(path, first)
            self.say("echo", [("path", .string(first.isRelayed ? "relayed" : "direct"))])
            while let best = self.best() {
                if path == .relayed, !best.isRelayed {
                    path = .direct
                    try await self.tell(path, best)
                } else if path != .relayed, best.isRelayed {
                    path = .relayed
                    try await self.tell(path, best)
                }
                let stream = try await self.host.openStream(to: self.peer, protocols: [TestProtocol.echo.id])
                try await self.echo(stream)
                self.say("echo", [("path", .string(stream.connection.isRelayed ? "relayed" : "direct"))])
                try await Task.sleep(for: Self.interval)
            }
            group.cancelAll()
        }
        self.say("lost", [])
    }

    private func best() -> Connection? {
        let open = self.host.connections(to: self.peer).filter { $0.isOpen && !$0.isDraining }
        return open.first { !$0.isRelayed } ?? open.first
    }

    private func tell(_ path: Path, _ connection: Connection) async throws {
        let time = try await connection.ping().get()
        self.say(
            "path",
            [
                ("path", .string(path.rawValue)), ("microseconds", .integer(time.nanoseconds / 1000)),
                ("address", .string("\(connection.remoteAddress)")),
                ("relay", .string(connection.remoteAddress.relay?.address.peerID.map { "\($0)" } ?? "")),
            ]
        )
    }

    private func echo(on connection: Connection) async throws {
        try await self.echo(try await connection.openStream(protocols: [TestProtocol.echo.id]).get())
    }

    private func echo(_ stream: NegotiatedStream) async throws {
        let outcome = try await stream.channel.eventLoop.flatSubmit {
            Transfer(sends: Self.bytes, hashes: true).run(on: stream.channel)
        }.get()
        guard outcome.received == Self.bytes, outcome.sentHash == outcome.receivedHash else {
            throw TestPeerError("of \(Self.bytes) bytes \(outcome.received) came back, changed or not")
        }
    }

    /// One stream, on which a question is answered now and then for as long as the connection lives.
    private func hold(_ stream: NegotiatedStream) async throws {
        try await NIOAsyncChannel<ByteBuffer, ByteBuffer>(of: stream).executeThenClose { inbound, outbound in
            var answers = inbound.makeAsyncIterator()
            var round = 0
            while true {
                let question = ByteBuffer(repeating: UInt8(truncatingIfNeeded: round), count: 1024)
                try await outbound.write(question)
                var answer = ByteBuffer()
                while answer.readableBytes < question.readableBytes {
                    guard var piece = try await answers.next() else { return }
                    answer.writeBuffer(&piece)
                }
                guard answer == question else { throw TestPeerError("an answer differs in round \(round)") }
                round += 1
                self.say("held", [("rounds", .integer(round))])
                try await Task.sleep(for: Self.interval)
            }
        }
    }
}
