public import LibP2P
public import Multiformats
import NIOCore

/// What went wrong between test peers that was no error of the library.
public struct TestPeerError: Error, CustomStringConvertible {
    public let description: String

    public init(_ description: String) {
        self.description = description
    }
}

/// The client's side of the test protocols, over streams of a host; a circuit that a relay limits is good enough. Each throws
/// if anything is not as it should be.
extension Host {
    /// - Parameter bytes: to be moved; some peers take a second for each two megabytes.
    private func run(
        _ transfer: Transfer,
        _ item: TestProtocol,
        with peer: PeerID,
        bytes: Int = 0
    ) async throws -> Transfer.Outcome {
        let options = OpenStreamOptions(allowLimitedConnection: true)
        let limit = TimeAmount.seconds(120 + Int64(bytes >> 21))
        return try await self.openStream(to: peer, protocols: [item.id], options: options)
            .flatMap { transfer.run(on: $0.channel, within: limit) }
            .get()
    }

    /// Sends bytes and gets them back. With `readsLate` nothing is read before this side has ended its output; then they must
    /// fit into the windows, as the peer stops to read when it cannot write. Without `halfCloses` both directions end together.
    public func testEcho(
        _ peer: PeerID,
        bytes: Int,
        readsLate: Bool = false,
        halfCloses: Bool = true
    ) async throws {
        let outcome = try await self.run(
            Transfer(
                sends: bytes,
                endsOutput: halfCloses,
                readsLate: readsLate,
                hashes: true,
                expects: halfCloses ? nil : bytes
            ),
            .echo,
            with: peer,
            bytes: bytes
        )
        guard outcome.received == bytes, outcome.sentHash == outcome.receivedHash else {
            throw TestPeerError("of \(bytes) bytes \(outcome.received) came back, changed or not")
        }
    }

    /// Sends bytes, whose hash the peer proves.
    public func testSink(_ peer: PeerID, bytes: Int) async throws {
        let outcome = try await self.run(Transfer(sends: bytes, hashes: true), .sink, with: peer, bytes: bytes)
        guard outcome.text == "\(bytes) \(outcome.sentHash)\n" else {
            throw TestPeerError("\(bytes) bytes with the hash \(outcome.sentHash) are '\(outcome.text)' to the peer")
        }
    }

    /// Sends bytes that the peer counts.
    public func testDiscard(_ peer: PeerID, bytes: Int) async throws {
        let outcome = try await self.run(Transfer(sends: bytes), .discard, with: peer, bytes: bytes)
        guard outcome.text == "\(bytes)\n" else {
            throw TestPeerError("\(bytes) bytes are '\(outcome.text)' to the peer")
        }
    }

    /// Receives zeros. Both sides know what hash they have.
    public func testSource(_ peer: PeerID, bytes: Int, hashes: Bool = false) async throws {
        let outcome = try await self.run(
            Transfer(request: "\(bytes)\n", endsOutput: false, hashes: hashes),
            .source,
            with: peer,
            bytes: bytes
        )
        guard outcome.received == bytes, !hashes || outcome.receivedHash == Transfer.hashOfZeros(bytes) else {
            throw TestPeerError("of \(bytes) zeros \(outcome.received) came, changed or not")
        }
    }

    /// Opens a stream that the peer resets.
    public func testReset(_ peer: PeerID) async throws {
        do {
            let outcome = try await self.run(Transfer(endsOutput: false), .reset, with: peer)
            throw TestPeerError("the peer was to reset a stream, and ended it: \(outcome)")
        } catch let error as TestPeerError {
            throw error
        } catch {}
    }

    /// Opens streams and holds all of them open, each with its first bytes echoed, then ends them.
    public func testStreams(_ peer: PeerID, count: Int, halfCloses: Bool = true) async throws {
        guard let connection = self.connections(to: peer).first else { throw TestPeerError("not connected") }
        var streams: [NegotiatedStream] = []
        for _ in 0..<count {
            streams.append(try await connection.openStream(protocols: [TestProtocol.echo.id]).get())
        }
        let open = connection.streamCount
        guard open >= count else { throw TestPeerError("\(open) of \(count) streams are open") }
        let answers = try await EventLoopFuture.whenAllSucceed(
            streams.map { stream in
                let transfer = Transfer(
                    sends: 1024,
                    endsOutput: halfCloses,
                    hashes: true,
                    expects: halfCloses ? nil : 1024
                )
                return stream.channel.eventLoop.flatSubmit { transfer.run(on: stream.channel) }
            },
            on: connection.eventLoop
        ).get()
        guard answers.allSatisfy({ $0.received == 1024 && $0.sentHash == $0.receivedHash }) else {
            throw TestPeerError("an echo differs on one of \(count) streams")
        }
    }
}
