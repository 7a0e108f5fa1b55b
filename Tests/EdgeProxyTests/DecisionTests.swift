import LoadBalancing
import MeshCore
import NIOCore
import Testing

@testable import EdgeProxy

@Suite("HTTP key")
struct HTTPKeySnifferTests {
    @Test(
        "keys are found in the head of a request",
        arguments: [
            (.httpHeader("User-Agent"), "GET / HTTP/1.1\r\nHost: x\r\nuser-agent:  curl/8 \r\n\r\n", .key("curl/8")),
            (.httpHeader("X-Id"), "GET / HTTP/1.1\nX-Id: 7\n\n", .key("7")),
            (.httpHeader("X-Id"), "GET / HTTP/1.1\r\nHost: x\r\n\r\nX-Id: 7\r\n", .absent),
            (.httpHeader("X-Id"), "GET / HTTP/1.1\r\nHost: x\r\n", .needsMore),
            (.httpHeader("X-Id"), "", .needsMore),
            (.httpHeader("X-Id"), "\u{16}\u{3}\u{1}", .notHTTP),
            (.httpHeader("X-Id"), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", .notHTTP),
            (.httpHeader("X-Id"), "HELO mail\r\n", .notHTTP),
            (.httpHeader("X-Id"), "GET  / HTTP/1.1\r\n", .notHTTP),
            (.httpQueryParameter("user"), "GET /a?x=1&user=bob#f HTTP/1.1\r\n", .key("bob")),
            (.httpQueryParameter("user"), "GET /a?user HTTP/1.1\r\n", .key("")),
            (.httpQueryParameter("user"), "GET /a HTTP/1.1\r\n", .absent),
            (
                .httpCookie(name: "sid", path: nil, timeToLive: nil),
                "GET / HTTP/1.1\r\nCookie: a=b; sid=42 ; c=d\r\n\r\n", .key("42")
            ),
            (.httpCookie(name: "sid", path: nil, timeToLive: nil), "GET / HTTP/1.1\r\nCookie: a=b\r\n\r\n", .absent),
        ] as [(ConsistentHashPolicy.Key, String, HTTPKeySniffer.Outcome)]
    )
    func keys(key: ConsistentHashPolicy.Key, head: String, expected: HTTPKeySniffer.Outcome) {
        var whole = HTTPKeySniffer(key)
        #expect(whole.examine(ByteBuffer(string: head)) == expected)
        // The same, byte by byte; the answer comes no later than with the last one.
        var dripped = HTTPKeySniffer(key)
        var bytes = ByteBuffer()
        var outcome = HTTPKeySniffer.Outcome.needsMore
        for byte in head.utf8 where outcome == .needsMore {
            bytes.writeInteger(byte)
            outcome = dripped.examine(bytes)
        }
        #expect(outcome == expected)
    }

    @Test("a head without end is given up at the bound")
    func bound() {
        var headers = HTTPKeySniffer(.httpHeader("X-Id"))
        let long = "GET / HTTP/1.1\r\nA: " + String(repeating: "a", count: HTTPKeySniffer.maximumHeadBytes)
        #expect(headers.examine(ByteBuffer(string: long)) == .absent)
        var line = HTTPKeySniffer(.httpHeader("X-Id"))
        let noLine = String(repeating: "G", count: HTTPKeySniffer.maximumHeadBytes)
        #expect(line.examine(ByteBuffer(string: noLine)) == .notHTTP)
    }

    @Test("random bytes are survived", arguments: 0..<4)
    func hostile(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<2_000 {
            var sniffer = HTTPKeySniffer(.httpCookie(name: "a", path: nil, timeToLive: nil))
            var bytes = ByteBuffer()
            let alphabet: [UInt8] = Array("GET / HTTP/1.1\r\n:;=a?& ".utf8) + [0, 255]
            for _ in 0..<Int.random(in: 0..<80, using: &generator) {
                bytes.writeInteger(alphabet[Int.random(in: alphabet.indices, using: &generator)])
                _ = sniffer.examine(bytes)
            }
        }
    }
}

@Suite("UDP sessions")
struct SessionTableTests {
    private func at(_ seconds: UInt64) -> MonotonicTime { MonotonicTime(nanoseconds: seconds * 1_000_000_000) }

    private func client(_ port: UInt16) -> TransportAddress { TransportAddress(.v4(.loopback), port) }

    private func table() -> SessionTable<Int> {
        SessionTable(unrepliedTimeout: .seconds(30), assuredTimeout: .seconds(180))
    }

    @Test("a session that was never answered ends after 30 s, one that was after 180 s, both after the last datagram")
    func timeouts() {
        var table = self.table()
        table.insert(1, for: self.client(1), now: self.at(0))
        table.insert(2, for: self.client(2), now: self.at(0))
        table.touch(self.client(2), isReply: true, now: self.at(1))
        table.touch(self.client(1), isReply: false, now: self.at(20))
        #expect(table.expire(now: self.at(49)).isEmpty)
        #expect(table.expire(now: self.at(50)) == [1])
        table.touch(self.client(2), isReply: false, now: self.at(100))
        #expect(table.expire(now: self.at(279)).isEmpty)
        #expect(table.expire(now: self.at(280)) == [2])
        #expect(table.count == 0)
    }

    @Test("the unanswered session idle for longest is given up first, then the answered")
    func eviction() {
        var table = self.table()
        for port in 1...4 { table.insert(port, for: self.client(UInt16(port)), now: self.at(UInt64(port))) }
        table.touch(self.client(1), isReply: true, now: self.at(5))
        table.touch(self.client(2), isReply: false, now: self.at(6))
        #expect((0..<5).map { _ in table.evict() } == [3, 4, 2, 1, nil])
    }

    @Test("its order is that of a plain list, whatever is done", arguments: 0..<8)
    func model(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var table = self.table()
        var model: [(client: UInt16, used: UInt64, assured: Bool)] = []
        for step in 0..<3_000 {
            let now = UInt64(step)
            let port = UInt16.random(in: 1...40, using: &generator)
            switch Int.random(in: 0..<6, using: &generator) {
            case 0, 1:
                table.insert(Int(port), for: self.client(port), now: self.at(now))
                model.removeAll { $0.client == port }
                model.append((port, now, false))
            case 2, 3:
                let isReply = Bool.random(using: &generator)
                table.touch(self.client(port), isReply: isReply, now: self.at(now))
                if let index = model.firstIndex(where: { $0.client == port }) {
                    let entry = model.remove(at: index)
                    model.append((port, now, entry.assured || isReply))
                }
            case 4:
                #expect(table.remove(self.client(port)) == model.first { $0.client == port }.map { Int($0.client) })
                model.removeAll { $0.client == port }
            default:
                let expired = Set(table.expire(now: self.at(now)))
                let gone = model.filter { now - $0.used >= ($0.assured ? 180 : 30) }
                #expect(expired == Set(gone.map { Int($0.client) }), "seed \(seed)")
                model.removeAll { entry in gone.contains { $0.client == entry.client } }
            }
            #expect(table.count == model.count, "seed \(seed)")
        }
        while let evicted = table.evict() {
            let next = model.first { !$0.assured } ?? model.first
            #expect(evicted == next.map { Int($0.client) }, "seed \(seed)")
            model.removeAll { $0.client == next?.client }
        }
        #expect(model.isEmpty)
    }
}
