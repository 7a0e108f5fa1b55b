import Glibc
import MeshCore
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import ByteStreams

/// A connected pair of TCP sockets on loopback: the far end, which a test plays, and the near end, which is carried.
private struct Connection {
    let far: CInt
    let near: CInt

    init() throws {
        let listener = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        defer { Glibc.close(listener) }
        let far = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        let isListening = SocketAddress(TransportAddress(.v4(.loopback), 0)).withSockAddr { address, length in
            bind(listener, address, socklen_t(length)) == 0 && listen(listener, 1) == 0
        }
        // The port stands behind the family.
        let port = withUnsafeTemporaryAllocation(byteCount: 16, alignment: 8) { raw in
            var length = socklen_t(raw.count)
            let name = raw.baseAddress.map { getsockname(listener, $0.assumingMemoryBound(to: sockaddr.self), &length) }
            return name == 0 ? UInt16(bigEndian: raw.load(fromByteOffset: 2, as: UInt16.self)) : 0
        }
        let isConnected = SocketAddress(TransportAddress(.v4(.loopback), port)).withSockAddr { address, length in
            connect(far, address, socklen_t(length)) == 0
        }
        try #require(isListening && isConnected)
        self.far = far
        self.near = accept(listener, nil, nil)
        try #require(self.near >= 0)
        _ = fcntl(self.near, F_SETFL, O_NONBLOCK)
        // Nothing waits for ever.
        var patience = timeval(tv_sec: 30, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(self.far, SOL_SOCKET, option, &patience, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    func send(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                Glibc.send(self.far, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
            }
            guard count > 0 else { return false }
            sent += count
        }
        return true
    }

    /// What comes until the end, or until there are so many; nil if that is an error.
    func receive(atMost limit: Int = 1 << 16) -> [UInt8]? {
        var failed = false
        let bytes = [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
            while count < limit {
                let received = recv(self.far, buffer.baseAddress.map { $0 + count }, limit - count, 0)
                failed = received < 0
                guard received > 0 else { break }
                count += received
            }
        }
        return failed ? nil : bytes
    }

    func endOutput() { shutdown(self.far, CInt(SHUT_WR)) }
    func close() { Glibc.close(self.far) }

    func closeWithReset() {
        var none = linger(l_onoff: 1, l_linger: 0)
        setsockopt(self.far, SOL_SOCKET, SO_LINGER, &none, socklen_t(MemoryLayout<linger>.size))
        Glibc.close(self.far)
    }
}

/// Two connections that a splicer carries.
private final class Bench: Sendable {
    let splicer = SocketSplicer()
    let client: Connection
    let server: Connection
    private let ending = Mutex<SocketSplicer.Ending?>(nil)
    let id: UInt64

    init(idleTimeout: TimeAmount? = nil, lingerTimeout: TimeAmount? = nil, sendBuffer: CInt? = nil) throws {
        self.client = try Connection()
        self.server = try Connection()
        if var sendBuffer {
            setsockopt(self.client.near, SOL_SOCKET, SO_SNDBUF, &sendBuffer, socklen_t(MemoryLayout<CInt>.size))
        }
        let pair = try #require(
            self.splicer.prepare(
                client: self.client.near,
                server: self.server.near,
                idleTimeout: idleTimeout,
                lingerTimeout: lingerTimeout
            )
        )
        // As the proxy does: its own descriptors are closed before, and no end goes out by that.
        Glibc.close(self.client.near)
        Glibc.close(self.server.near)
        self.id = pair.id
        self.splicer.carry(pair) { ending in self.ending.withLock { $0 = ending } }
    }

    func ended() async throws -> SocketSplicer.Ending {
        while true {
            if let ending = self.ending.withLock({ $0 }) { return ending }
            try await Task.sleep(for: .milliseconds(2))
        }
    }

    func stop() async {
        await withCheckedContinuation { continuation in self.splicer.stop { continuation.resume() } }
    }
}

/// Runs blocking calls on threads that are not the tasks'.
private func blocking<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async -> Value {
    await withCheckedContinuation { continuation in
        blockingCalls.submit { _ in continuation.resume(returning: body()) }
    }
}

/// More than the calls that the tests of this file make at once.
private let blockingCalls: NIOThreadPool = {
    let threads = NIOThreadPool(numberOfThreads: 32)
    threads.start()
    return threads
}()

@Suite("Splicing sockets", .timeLimit(.minutes(1)))
struct SocketSplicerTests {
    private static func bytes(_ count: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            for index in 0..<count { buffer[index] = UInt8(truncatingIfNeeded: index &* 31 ^ index >> 8) }
            filled = count
        }
    }

    @Test("bytes go both ways, an end goes through and leaves the other direction open", arguments: [1, 4_000_000])
    func bothWays(size: Int) async throws {
        let bench = try Bench()
        let request = Self.bytes(size)
        async let received = blocking { bench.server.receive(atMost: size + 1) }
        #expect(await blocking { bench.client.send(request) })
        bench.client.endOutput()
        #expect(await received == request)
        async let answer = blocking { bench.client.receive(atMost: size + 1) }
        #expect(await blocking { bench.server.send(request) })
        bench.server.close()
        #expect(await answer == request)
        #expect(try await bench.ended() == .finished)
        bench.client.close()
        await bench.stop()
        #expect(bench.splicer.clientToServerBytes == UInt64(size))
        #expect(bench.splicer.serverToClientBytes == UInt64(size))
    }

    @Test("what came before the sockets were handed over is not lost")
    func early() async throws {
        let client = try Connection()
        let server = try Connection()
        #expect(client.send(Array("early".utf8)))
        client.endOutput()
        let splicer = SocketSplicer()
        let pair = try #require(
            splicer.prepare(client: client.near, server: server.near, idleTimeout: nil, lingerTimeout: nil)
        )
        Glibc.close(client.near)
        Glibc.close(server.near)
        splicer.carry(pair) { _ in }
        #expect(await blocking { server.receive() } == Array("early".utf8))
        server.close()
        client.close()
        await withCheckedContinuation { continuation in splicer.stop { continuation.resume() } }
    }

    @Test("a reader that is slow stops the writer, and gets every byte")
    func slowReader() async throws {
        let bench = try Bench(sendBuffer: 64 << 10)
        let size = 32 << 20
        async let sent = blocking { bench.server.send([UInt8](repeating: 7, count: size)) }
        var taken: UInt64 = 0
        // Until nothing moves any more.
        while true {
            try await Task.sleep(for: .milliseconds(100))
            let now = bench.splicer.serverToClientBytes
            if now == taken, now > 0 { break }
            taken = now
        }
        // Pipe, send buffer, and the receive buffer that the kernel lets grow to 6 MiB (net.ipv4.tcp_rmem).
        #expect(taken < 16 << 20)
        async let received = blocking { bench.client.receive(atMost: size)?.count }
        #expect(await received == size)
        #expect(await sent)
        bench.server.close()
        bench.client.close()
        #expect(try await bench.ended() == .finished)
        await bench.stop()
    }

    @Test("a reset of one side resets the other", arguments: [false, true])
    func reset(byServer: Bool) async throws {
        let bench = try Bench()
        let (breaker, other) = byServer ? (bench.server, bench.client) : (bench.client, bench.server)
        #expect(breaker.send([1, 2, 3]))
        #expect(await blocking { other.receive(atMost: 3) } == [1, 2, 3])
        breaker.closeWithReset()
        #expect(await blocking { other.receive() } == nil)
        #expect(try await bench.ended() == .reset)
        other.close()
        await bench.stop()
    }

    @Test("what a side does not take bounds the pair's life, but only when the other has ended")
    func linger() async throws {
        let bench = try Bench(lingerTimeout: .milliseconds(200), sendBuffer: 8 << 10)
        var room: CInt = 8 << 10
        setsockopt(bench.client.far, SOL_SOCKET, SO_RCVBUF, &room, socklen_t(MemoryLayout<CInt>.size))
        // More than the sockets to the client take, and no more than those to the server: its end is seen.
        #expect(await blocking { bench.server.send([UInt8](repeating: 7, count: 100 << 10)) })
        try await Task.sleep(for: .milliseconds(600))
        #expect(bench.splicer.serverToClientBytes < 100 << 10)
        #expect(await blocking { bench.server.send([7]) }, "the pair is still there")
        bench.server.endOutput()
        #expect(try await bench.ended() == .lingered)
        bench.client.close()
        bench.server.close()
        await bench.stop()
    }

    @Test("a pair that is silent for the idle timeout is closed")
    func idle() async throws {
        let bench = try Bench(idleTimeout: .milliseconds(200))
        #expect(bench.client.send([1]))
        #expect(await blocking { bench.server.receive() } == [1])
        #expect(try await bench.ended() == .idle)
        #expect(await blocking { bench.client.receive() } == [])
        bench.client.close()
        bench.server.close()
        await bench.stop()
    }

    @Test("an urgent byte does not stop the stream; it is left out, as where bytes are copied")
    func urgent() async throws {
        let bench = try Bench()
        let part = Self.bytes(100_000)
        async let received = blocking { bench.server.receive(atMost: 1 << 20) }
        for _ in 0..<5 {
            #expect(await blocking { bench.client.send(part) })
            var byte: UInt8 = 0xAA
            #expect(send(bench.client.far, &byte, 1, CInt(MSG_OOB)) == 1)
            // The urgent byte has to be met before the next one makes it an ordinary one.
            try await Task.sleep(for: .milliseconds(50))
        }
        #expect(await blocking { bench.client.send(part) })
        bench.client.endOutput()
        let bytes = await received
        #expect(bytes?.count == 600_000)
        #expect(bytes == Array(repeatElement(part, count: 6).joined()))
        bench.server.close()
        bench.client.close()
        await bench.stop()
    }

    @Test(
        "reset and stop end a pair so that both peers see it; nothing is taken over after a stop",
        arguments: [false, true]
    )
    func cut(byStop: Bool) async throws {
        let bench = try Bench()
        if byStop { await bench.stop() } else { bench.splicer.reset(bench.id) }
        #expect(await blocking { bench.client.receive() } == nil)
        #expect(await blocking { bench.server.receive() } == nil)
        #expect(try await bench.ended() == .reset)
        bench.splicer.reset(bench.id)
        await bench.stop()
        let late = bench.splicer.prepare(
            client: bench.client.far,
            server: bench.server.far,
            idleTimeout: nil,
            lingerTimeout: nil
        )
        #expect(late == nil)
        bench.client.close()
        bench.server.close()
    }

    @Test("sockets other than TCP's are refused, and stay as they are")
    func notTCP() async throws {
        var ends: [CInt] = [-1, -1]
        try #require(socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0, &ends) == 0)
        let connection = try Connection()
        let splicer = SocketSplicer()
        for (client, server) in [(ends[0], connection.near), (connection.near, ends[0])] {
            #expect(splicer.prepare(client: client, server: server, idleTimeout: nil, lingerTimeout: nil) == nil)
        }
        #expect(write(ends[0], "x", 1) == 1)
        #expect(connection.send([1]))
        for descriptor in ends + [connection.near, connection.far] { close(descriptor) }
        await withCheckedContinuation { continuation in splicer.stop { continuation.resume() } }
    }

    @Test("many pairs share the thread, and one that waits for its reader holds up none")
    func many() async throws {
        let stalled = try Bench(sendBuffer: 8 << 10)
        async let held = blocking { stalled.server.send([UInt8](repeating: 1, count: 32 << 20)) }
        let pairs = try (0..<8).map { _ -> (Connection, Connection) in
            let (client, server) = (try Connection(), try Connection())
            let pair = try #require(
                stalled.splicer.prepare(client: client.near, server: server.near, idleTimeout: nil, lingerTimeout: nil)
            )
            Glibc.close(client.near)
            Glibc.close(server.near)
            stalled.splicer.carry(pair) { _ in }
            return (client, server)
        }
        let sent = Self.bytes(1_000_000)
        await withTaskGroup(of: Void.self) { group in
            for (client, server) in pairs {
                group.addTask {
                    async let received = blocking { server.receive(atMost: sent.count + 1) }
                    #expect(await blocking { client.send(sent) })
                    client.close()
                    #expect(await received == sent)
                    server.close()
                }
            }
        }
        await stalled.stop()
        #expect(await held == false)
        stalled.client.close()
        stalled.server.close()
    }
}
