import GatewayRouting
import MeshCore
import Testing

@testable import EdgeGateway

/// The answers in what came over a connection; no content of these tests looks like one.
func statuses(_ text: String) -> [Int] {
    text.split(separator: "HTTP/1.1 ", omittingEmptySubsequences: false).dropFirst().compactMap { Int($0.prefix(3)) }
}

/// Bytes of a text whose scalars are all below 256.
func latin1(_ text: String) -> [UInt8] { text.unicodeScalars.map { UInt8(truncatingIfNeeded: $0.value) } }

private let last = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

/// What RFC 9110 and 9112 say of requests, over the listener of a gateway, before a server that records what it gets.
@Suite struct RequestConformanceTests {
    struct Row {
        var rule: String
        var text: String
        var answers = [200]
        /// `METHOD URI LENGTH`, as the backend has understood it; without what follows on the connection.
        var requests: [String]
        /// What the backend's bytes hold, and what not.
        var holds: [String] = []
        var lacks: [String] = []
        /// The connection ends with the answer.
        var ends = false
    }

    static let accepted: [Row] = [
        Row(
            rule: "9112 2.2: an empty line first",
            text: "\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n",
            requests: ["GET /a 0"]
        ),
        Row(
            rule: "9112 3.2.2: the absolute form goes before Host",
            text: "GET http://y:81/a HTTP/1.1\r\nHost: x\r\n\r\n",
            requests: ["GET /a 0"],
            holds: ["host: y:81\r\n"],
            lacks: ["host: x\r\n", "http://y"]
        ),
        Row(
            rule: "9112 3.2.2: an absolute form without a path",
            text: "GET http://y?q HTTP/1.1\r\nHost: y\r\n\r\n",
            requests: ["GET /?q 0"]
        ),
        Row(
            rule: "9112 3.2.4: OPTIONS of the server",
            text: "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            requests: ["OPTIONS * 0"]
        ),
        Row(
            rule: "9110 5.1: names in any case",
            text: "POST /a HTTP/1.1\r\nhOST: x\r\ncONTENT-lENGTH: 3\r\n\r\nabc",
            requests: ["POST /a 3"],
            holds: ["host: x\r\n", "content-length: 3\r\n"]
        ),
        Row(
            rule: "9110 5.5: blanks around a value",
            text: "POST /a HTTP/1.1\r\nHost:\t x \t\r\nContent-Length: \t 3 \r\n\r\nabc",
            requests: ["POST /a 3"],
            holds: ["host: x\r\n"]
        ),
        Row(
            rule: "9110 5.5: an empty value, and bytes above 127",
            text: "GET /a HTTP/1.1\r\nHost: x\r\nEmpty:\r\nText: \u{E9}\r\n\r\n",
            requests: ["GET /a 0"],
            holds: ["empty: \r\n", "text: \u{C3}\u{A9}\r\n"]
        ),
        Row(
            rule: "9110 5.3: fields of one name keep their order",
            text: "GET /a HTTP/1.1\r\nHost: x\r\nList: 1\r\nOther: 2\r\nList: 3\r\n\r\n",
            requests: ["GET /a 0"],
            holds: ["list: 1\r\nother: 2\r\nlist: 3\r\n"]
        ),
        Row(
            rule: "9112 6.3: no length is no content",
            text: "POST /a HTTP/1.1\r\nHost: x\r\n\r\n",
            requests: ["POST /a 0"]
        ),
        Row(
            rule: "9112 6.2: leading zeros of a length",
            text: "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 003\r\n\r\nabc",
            requests: ["POST /a 3"],
            holds: ["content-length: 3\r\n"]
        ),
        Row(
            rule: "9110 9.3.1: GET with content",
            text: "GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            requests: ["GET /a 3"]
        ),
        Row(
            rule: "9110 16.1: methods that nobody knows",
            text: "PURGE /a HTTP/1.1\r\nHost: x\r\n\r\n",
            requests: ["PURGE /a 0"]
        ),
        Row(
            rule: "9112 7.1: sizes in any case, with leading zeros",
            text:
                "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: CHUNKED\r\n\r\n0000a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
            requests: ["POST /a 21"]
        ),
        Row(
            rule: "9112 7.1.1: extensions are dropped",
            text:
                "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;extension=\"y\" ; more\r\nabc\r\n0;last\r\n\r\n",
            requests: ["POST /a 3"],
            lacks: ["extension", "more", "last"]
        ),
        Row(
            rule: "9112 7.1.2: trailers go on, but not those that frame or route",
            text:
                "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSum: 7\r\nContent-Length: 9\r\nHost: y\r\nTransfer-Encoding: gzip\r\nAuthorization: me\r\n\r\n",
            requests: ["POST /a 0"],
            holds: ["0\r\nsum: 7\r\n\r\n"],
            lacks: ["content-length", "host: y", "gzip", "authorization"]
        ),
        Row(
            rule: "9110 7.6.1: fields of the connection stay, and those that it names",
            text:
                "GET /a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Mine\r\nMine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: Sum\r\nProxy-Connection: close\r\nProxy-Authorization: me\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
            requests: ["GET /a 0"],
            lacks: ["connection", "mine", "keep-alive", "trailer", "proxy-", "upgrade", "http2-settings", "te: "]
        ),
        Row(
            rule: "9110 7.6.1: Connection cannot take away what routes or authorizes",
            text:
                "GET /a HTTP/1.1\r\nHost: x\r\nConnection: Host, Content-Length, Authorization, X-Forwarded-For\r\nAuthorization: me\r\n\r\n",
            requests: ["GET /a 0"],
            holds: ["host: x\r\n", "authorization: me\r\n", "x-forwarded-for: 127.0.0.1\r\n"]
        ),
        Row(
            rule: "9110 10.1.1: content that does not wait for 100",
            text: "PUT /a HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\nabc",
            requests: ["PUT /a 3"]
        ),
        Row(
            rule: "9110 10.1.1: an expectation without content",
            text: "GET /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
            requests: ["GET /a 0"],
            lacks: ["expect"]
        ),
        Row(
            rule: "3986 6.2.2: a path has one form",
            text: "GET //a/%2e%2E/./b%41%2f%5c?c=%zz HTTP/1.1\r\nHost: x\r\n\r\n",
            requests: ["GET /bA%2F%5C?c=%zz 0"]
        ),
        Row(
            rule: "9112 9.6: close after this one",
            text: "GET /a HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n",
            requests: ["GET /a 0"],
            ends: true
        ),
        Row(
            rule: "9112 9.3: HTTP/1.0 closes",
            text: "GET /a HTTP/1.0\r\nHost: x\r\n\r\n",
            requests: ["GET /a 0"],
            holds: ["GET /a HTTP/1.1\r\n"],
            ends: true
        ),
        Row(
            rule: "9112 9.3: HTTP/1.0 that stays",
            text: "GET /a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
            requests: ["GET /a 0"]
        ),
        Row(
            rule: "9112 3.2: HTTP/1.0 without Host has no route",
            text: "GET /a HTTP/1.0\r\n\r\n",
            answers: [400],
            requests: [],
            ends: true
        ),
        Row(
            rule: "9112 3.2: an empty Host has no route",
            text: "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
            answers: [400],
            requests: []
        ),
        Row(
            rule: "3986 3.2.3: a port that is none",
            text: "GET /a HTTP/1.1\r\nHost: x:99999\r\n\r\n",
            answers: [400],
            requests: []
        ),
        Row(
            rule: "9110 9.3.2: HEAD has no content",
            text: "HEAD /big/5 HTTP/1.1\r\nHost: x\r\n\r\nHEAD /chunked HTTP/1.1\r\nHost: x\r\n\r\n",
            answers: [200, 200],
            requests: ["HEAD /big/5 0", "HEAD /chunked 0"]
        ),
        Row(
            rule: "9110 15.3.5, 15.4.5: 204 and 304 have none",
            text: "GET /status/204 HTTP/1.1\r\nHost: x\r\n\r\nGET /status/304 HTTP/1.1\r\nHost: x\r\n\r\n",
            answers: [204, 304],
            requests: ["GET /status/204 0", "GET /status/304 0"]
        ),
    ]

    @Test func whatIsAcceptedIsUnderstoodAlike() async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            for row in Self.accepted {
                let (requests, bytes) = (server.requests.count, server.bytes.count)
                let text = try await RawClient.exchange(port, latin1(row.text + last))
                #expect(statuses(text) == row.answers + (row.ends ? [] : [200]), "\(row.rule): \(text)")
                let expected = row.requests + (row.ends ? [] : ["GET /last 0"])
                #expect(Array(server.requests[requests...]) == expected, "\(row.rule)")
                // What follows on the connection is told by its path.
                let got = String(server.bytes[bytes...].map { Character(UnicodeScalar($0)) })
                let own = got.split(separator: "GET /last ", omittingEmptySubsequences: false)[0]
                for part in row.holds { #expect(own.contains(part), "\(row.rule): \(own)") }
                for part in row.lacks { #expect(!own.lowercased().contains(part), "\(row.rule): \(own)") }
            }
        }
    }

    typealias Refusal = HTTP1CodecTests.Refusal

    private static let post = "POST /a HTTP/1.1\r\nHost: x\r\n"

    private static func chunks(_ text: String) -> String { Self.post + "Transfer-Encoding: chunked\r\n\r\n" + text }

    /// More of what `HTTP1CodecTests.refusals` has.
    static let refused: [Refusal] = [
        Refusal(
            "9112 5.1: a blank before the colon of Transfer-Encoding",
            post + "Transfer-Encoding : chunked\r\n\r\n"
        ),
        Refusal("a tab before the colon", post + "Transfer-Encoding\t: chunked\r\n\r\n"),
        Refusal("a length in the next line", post + "Content-Length:\r\n 3\r\n\r\nabc"),
        Refusal("two lengths with a blank", post + "Content-Length: 3 3\r\n\r\nabc"),
        Refusal("a length with an underscore", post + "Content-Length: 1_0\r\n\r\n"),
        Refusal("a length with a point", post + "Content-Length: 3.0\r\n\r\nabc"),
        Refusal("a length in other digits", post + "Content-Length: \u{B3}\r\n\r\nabc"),
        Refusal(
            "a length and a coding in another case",
            post + "CONTENT-LENGTH: 3\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n"
        ),
        Refusal("a coding with parameters", post + "Transfer-Encoding: chunked;q=1\r\n\r\n", 501),
        Refusal("an empty coding", post + "Transfer-Encoding:\r\n\r\n", 501),
        Refusal("a list with an empty element", post + "Transfer-Encoding: ,chunked\r\n\r\n", 501),
        Refusal("identity", post + "Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc"),
        Refusal("a coding that ends with a NUL", post + "Transfer-Encoding: chunked\0\r\n\r\n"),
        Refusal("a coding behind a form feed", post + "Transfer-Encoding:\u{C}chunked\r\n\r\n"),
        Refusal("CR CR LF", post + "A: b\r\r\n\r\n"),
        Refusal("LF CR LF", post + "A: b\n\r\n"),
        Refusal("CRLF LF", post + "A: b\r\n\n"),
        Refusal("a fold with a tab", post + "A: b\r\n\tc\r\n\r\n"),
        Refusal("a name in quotes", post + "\"A\": b\r\n\r\n"),
        Refusal("a name beyond ASCII", post + "\u{C4}: b\r\n\r\n"),
        Refusal("DEL in a value", post + "A: b\u{7F}\r\n\r\n"),
        Refusal("ESC in a value", post + "A: \u{1B}[0m\r\n\r\n"),
        Refusal(
            "Host twice, once in the absolute form",
            "GET http://y/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"
        ),
        Refusal("the absolute form without Host", "GET http://y/ HTTP/1.1\r\n\r\n"),
        Refusal("the absolute form without a host", "GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("the form of an authority", "GET x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n"),
        Refusal("a fragment", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("a fragment behind a query", "GET /a?b#c HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("an escape of a NUL", "GET /a%00 HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("half an escape", "GET /a%2 HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("an IPv6 host without its end", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        Refusal("a zone of an IPv6 host", "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n"),
        Refusal("words behind the version", "GET / HTTP/1.1 x\r\nHost: x\r\n\r\n"),
        Refusal("a version of three digits", "GET / HTTP/1.10\r\nHost: x\r\n\r\n"),
        Refusal("a NUL first", "\0GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("a blank first", " GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("TLS to a plain port", "\u{16}\u{3}\u{1}\u{0}\u{5}\u{1}\u{0}\u{0}\u{1}\u{0}\r\n"),
        Refusal("a size beyond 60 bits", chunks("ffffffffffffffff\r\nabc\r\n0\r\n\r\n")),
        Refusal("a size with a blank before it", chunks(" 3\r\nabc\r\n0\r\n\r\n")),
        Refusal("a size with an underscore", chunks("0_3\r\nabc\r\n0\r\n\r\n")),
        Refusal("a negative size", chunks("-1\r\nabc\r\n0\r\n\r\n")),
        Refusal("a chunk without its end", chunks("3\r\nabc0\r\n\r\n")),
        Refusal("an extension ended by LF", chunks("3;a\nabc\r\n0\r\n\r\n")),
        Refusal("a size ended by CR", chunks("3\rabc\r\n0\r\n\r\n")),
        Refusal("a trailer without a colon", chunks("0\r\nsum\r\n\r\n")),
        Refusal("a trailer ended by LF", chunks("0\r\nsum: 1\n\r\n")),
        Refusal("a trailer with a NUL", chunks("0\r\nsum: \0\r\n\r\n")),
    ]

    @Test("what is refused is answered once, and nothing of it or behind it becomes a request")
    func refusals() async throws {
        let all =
            Self.refused + HTTP1CodecTests.refusals
        try await HTTPProxyTests.withWeb { port, server, _ in
            for refusal in all {
                // What waits for more does not see what follows as a part of itself.
                let isOpen = ["a head too long", "a target too long", "a size line without end"].contains(refusal.rule)
                let text = try await RawClient.exchange(port, latin1(refusal.text + (isOpen ? "" : last)))
                #expect(statuses(text) == [refusal.status], "\(refusal.rule): \(text)")
                #expect(text.contains("connection: close\r\n"), "\(refusal.rule)")
                #expect(server.requests.isEmpty, "\(refusal.rule): \(server.requests)")
            }
        }
    }
}
