import MeshCore
import NIOCore
import Testing

@testable import EdgeGateway

/// Everything that comes out of the parser and decoder for one text, however it is cut into reads.
private func requests(_ text: String, cut: Int) throws(HTTP1Error) -> [(RequestHead, String)] {
    var parser = HTTP1HeadParser(.request, limits: HTTP1HeadParser.Limits())
    var decoder: HTTP1BodyDecoder?
    var found: [(RequestHead, String)] = []
    var buffer = ByteBuffer()
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
        buffer.writeBytes(rest.prefix(cut))
        rest = rest.dropFirst(cut)
        while true {
            if decoder != nil {
                guard let event = try decoder?.next(&buffer) else { break }
                switch event {
                case .bytes(let bytes): found[found.count - 1].1 += String(buffer: bytes)
                case .end(let trailers):
                    for field in trailers?.fields ?? [] { found[found.count - 1].1 += "|\(field.name)=\(field.value)" }
                    decoder = nil
                }
            } else {
                guard let head = try parser.next(&buffer) else { break }
                let request = try HTTP1Semantics.request(head, scheme: "http")
                found.append((request, ""))
                switch request.body {
                case .none: break
                case .known(let length): decoder = HTTP1BodyDecoder(.length(length), limits: HTTP1HeadParser.Limits())
                case .streamed: decoder = HTTP1BodyDecoder(.chunked, limits: HTTP1HeadParser.Limits())
                }
            }
        }
    }
    return found
}

@Suite struct HTTP1CodecTests {
    @Test("requests are the same however they are cut", arguments: [1, 2, 3, 7, 1000])
    func cuts(_ cut: Int) throws {
        let text =
            "\r\nPOST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nhost:x:8080 \r\n\r\n"
            + "PUT /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n"
            + "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\nGET http://y.example:81?q HTTP/1.1\r\nHost: x\r\n\r\n"
        let found = try requests(text, cut: cut)
        #expect(found.map(\.0.method) == ["POST", "GET", "PUT", "OPTIONS", "GET"])
        #expect(found.map(\.1) == ["hello", "", "abc0123456789|x-sum=7", "", ""])
        #expect(found.map(\.0.authority) == ["x", "x:8080", "x", "x", "y.example:81"])
        #expect(found.map(\.0.target.text) == ["/a?b=c", "/", "/p", "*", "/?q"])
    }

    struct Refusal: Sendable, CustomTestStringConvertible {
        var rule: String
        var text: String
        var status: Int
        init(_ rule: String, _ text: String, _ status: Int = 400) {
            (self.rule, self.text, self.status) = (rule, text, status)
        }
        var testDescription: String { self.rule }
    }

    static let head = "POST / HTTP/1.1\r\nHost: x\r\n"

    static let refusals: [Refusal] = [
        Refusal(
            "RFC 9112 6.1: Transfer-Encoding with Content-Length",
            head + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
        ),
        Refusal("RFC 9112 6.3: two lengths", head + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n"),
        Refusal("the same length twice", head + "Content-Length: 3\r\nContent-Length: 3\r\n\r\n"),
        Refusal("a list of lengths", head + "Content-Length: 3, 3\r\n\r\n"),
        Refusal("a signed length", head + "Content-Length: +3\r\n\r\n"),
        Refusal("a negative length", head + "Content-Length: -3\r\n\r\n"),
        Refusal("a hexadecimal length", head + "Content-Length: 0x3\r\n\r\n"),
        Refusal("a length beyond 64 bits", head + "Content-Length: 99999999999999999999\r\n\r\n"),
        Refusal("an empty length", head + "Content-Length:\r\n\r\n"),
        Refusal("RFC 9112 6.1: an unknown coding", head + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        Refusal("chunked twice", head + "Transfer-Encoding: chunked, chunked\r\n\r\n", 501),
        Refusal(
            "two Transfer-Encoding",
            head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            501
        ),
        Refusal("a coding behind a control character", head + "Transfer-Encoding: \u{B}chunked\r\n\r\n"),
        Refusal("a coding in quotes", head + "Transfer-Encoding: \"chunked\"\r\n\r\n", 501),
        Refusal("Transfer-Encoding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Refusal("RFC 9112 5.1: a space before the colon", head + "Content-Length : 3\r\n\r\n"),
        Refusal("RFC 9112 5.2: a folded line", head + "A: b\r\n c\r\n\r\n"),
        Refusal("a folded first line", "GET / HTTP/1.1\r\n Host: x\r\n\r\n"),
        Refusal("RFC 9112 2.2: a bare LF", "GET / HTTP/1.1\nHost: x\n\n"),
        Refusal("a bare LF within", head + "A: b\nContent-Length: 3\r\n\r\n"),
        Refusal("a bare CR", head + "A: b\rContent-Length: 3\r\n\r\n"),
        Refusal("a NUL in a value", head + "A: b\0c\r\n\r\n"),
        Refusal("a NUL in a name", head + "A\0: b\r\n\r\n"),
        Refusal("an empty name", head + ": b\r\n\r\n"),
        Refusal("no colon", head + "Ab\r\n\r\n"),
        Refusal("a name with a bracket", head + "A(b): c\r\n\r\n"),
        Refusal("RFC 9112 3.2: no Host", "GET / HTTP/1.1\r\n\r\n"),
        Refusal("two Hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
        Refusal("a Host with user information", "GET / HTTP/1.1\r\nHost: a@x\r\n\r\n"),
        Refusal("a Host with a path", "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n"),
        Refusal("a Host with a space", "GET / HTTP/1.1\r\nHost: x y\r\n\r\n"),
        Refusal("a list of Hosts", "GET / HTTP/1.1\r\nHost: x, y\r\n\r\n"),
        Refusal("a Host with a port that is none", "GET / HTTP/1.1\r\nHost: x:80a\r\n\r\n"),
        Refusal("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("a tab in the request line", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("a space behind the version", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n"),
        Refusal("no version", "GET /\r\nHost: x\r\n\r\n"),
        Refusal("a target beyond ASCII", "GET /\u{E9} HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("a target that is no URI", "GET x HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("another scheme", "GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("user information in the target", "GET http://a@x/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("a path above the root", "GET /../etc HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("* for a method other than OPTIONS", "GET * HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("CONNECT", "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 405),
        Refusal("HTTP/2.0 in a request line", "GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        Refusal("HTTP/1.2", "GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        Refusal("HTTP/0.9", "GET /\r\n\r\n"),
        Refusal("a version in lower case", "GET / http/1.1\r\nHost: x\r\n\r\n"),
        Refusal("an expectation that nobody knows", head + "Content-Length: 3\r\nExpect: coffee\r\n\r\n", 417),
        Refusal("empty lines without end", "\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        Refusal("too many fields", head + String(repeating: "A: b\r\n", count: 101) + "\r\n", 431),
        Refusal("a head too long", head + "A: " + String(repeating: "b", count: 33_000) + "\r\n\r\n", 431),
        Refusal(
            "a target too long",
            "GET /" + String(repeating: "b", count: 9_000) + " HTTP/1.1\r\nHost: x\r\n\r\n",
            414
        ),
        Refusal("RFC 9112 7.1: a chunk without a size", chunked("\r\nabc\r\n0\r\n\r\n")),
        Refusal("a chunk's size with 0x", chunked("0x3\r\nabc\r\n0\r\n\r\n")),
        Refusal("a signed size", chunked("+3\r\nabc\r\n0\r\n\r\n")),
        Refusal("a size beyond 64 bits", chunked("10000000000000003\r\nabc\r\n0\r\n\r\n")),
        Refusal("a size before a space and more", chunked("3 3\r\nabc\r\n0\r\n\r\n")),
        Refusal("a size ended by LF", chunked("3\nabc\r\n0\r\n\r\n")),
        Refusal("a chunk longer than its size", chunked("3\r\nabcd\r\n0\r\n\r\n")),
        Refusal("a chunk ended by LF", chunked("3\r\nabc\n0\r\n\r\n")),
        Refusal("an extension with a control character", chunked("3;a=\u{1}\r\nabc\r\n0\r\n\r\n")),
        Refusal("an extension with a bare CR", chunked("3;a\rb\r\nabc\r\n0\r\n\r\n")),
        Refusal("a size line without end", chunked("3;" + String(repeating: "a", count: 2_000))),
        Refusal("a folded trailer", chunked("0\r\nA: b\r\n c\r\n\r\n")),
        Refusal("trailers without end", chunked("0\r\n" + String(repeating: "A: b\r\n", count: 101) + "\r\n"), 431),
    ]

    private static func chunked(_ body: String) -> String { head + "Transfer-Encoding: chunked\r\n\r\n" + body }

    @Test("what two parsers could read differently is refused", arguments: Self.refusals)
    func refuses(_ refusal: Refusal) throws {
        for cut in [1, 5, 100_000] {
            let error = #expect(throws: HTTP1Error.self) { _ = try requests(refusal.text, cut: cut) }
            #expect(error?.status == refusal.status, "\(refusal.rule): \(error?.message ?? "")")
        }
    }

    @Test func framingFieldsAndNominatedFieldsGoNoFurther() throws {
        let text =
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: X-Secret, Authorization, close\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n"
            + "Authorization: me\r\nProxy-Connection: x\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nA: b\r\n\r\n"
        let found = try #require(try requests(text, cut: 1000).first?.0)
        #expect(found.fields == HeaderFields([("authorization", "me"), ("a", "b")]))
        #expect(!found.keepsAlive && found.upgrade == nil)
    }

    @Test func forbiddenTrailersAreDropped() throws {
        let text = Self.chunked("0\r\nContent-Length: 3\r\nHost: y\r\nTransfer-Encoding: x\r\nX-A: b\r\n\r\n")
        #expect(try requests(text, cut: 1000).first?.1 == "|x-a=b")
    }

    @Test("bytes without sense never trap", arguments: [1, 2, 3, 4, 5] as [UInt64])
    func noise(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let pieces = Self.refusals.map(\.text) + ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n", "0\r\n\r\n", "\0\u{7F}"]
        for _ in 0..<300 {
            var bytes = Array((pieces.randomElement(using: &generator) ?? "").utf8.prefix(400))
            for _ in 0..<Int.random(in: 0...6, using: &generator) where !bytes.isEmpty {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
            }
            _ = try? requests(String(decoding: bytes, as: UTF8.self), cut: Int.random(in: 1...50, using: &generator))
        }
    }
}

@Suite struct SpareBuffersTests {
    @Test func aBufferLeavesItsBytesToThoseWhoHoldThem() {
        let spares = SpareBuffers()
        var first = spares.take(100)
        first.writeString("one")
        let held = first
        spares.give(first)
        var second = spares.take(100)
        #expect(second.readableBytes == 0 && second.writableBytes >= 100)
        second.writeString("two")
        #expect(String(buffer: held) == "one")
    }

    @Test func fewAreKeptAndNoneThatIsLarge() {
        let spares = SpareBuffers()
        spares.give(ByteBuffer(repeating: 1, count: SpareBuffers.largest + 1))
        spares.give(ByteBuffer())
        #expect(spares.count == 0)
        for _ in 0..<(2 * SpareBuffers.most) { spares.give(ByteBuffer(repeating: 1, count: 100)) }
        #expect(spares.count == SpareBuffers.most)
    }
}
