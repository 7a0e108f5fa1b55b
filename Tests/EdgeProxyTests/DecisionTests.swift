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
