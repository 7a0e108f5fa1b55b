import GatewayRouting
import MeshTesting
import NIOCore
import NIOHTTP2
import Synchronization
import Testing

@testable import EdgeGateway

/// What flows on the streams of one connection, and how one that stands still leaves the others alone.
@Suite struct HTTP2FlowTests {
    @Test func aWindowIsOpenedAgainAtHalfItsSize() {
        var window = ReceiveWindow(target: 100)
        // Before anything has come nothing is known of it.
        #expect(window.passed(0) == nil)
        #expect(window.changed(to: 60) == nil)
        #expect(window.changed(to: 50) == 50)
        #expect(window.changed(to: 100) == nil)
    }

    @Test func whatIsKeptLeavesNoRoom() {
        var window = ReceiveWindow(target: 100)
        window.received(80)
        #expect(window.changed(to: 20) == nil)
        #expect(window.passed(30) == nil)
        // The peer knows of 20.
        #expect(window.passed(50) == 80)
    }

    @Test func aWindowBelowZeroIsOpenedWhole() {
        var window = ReceiveWindow(target: 100)
        #expect(window.changed(to: 10) == 90)
        #expect(window.changed(by: -60) == 150)
        #expect(window.changed(to: .max) == nil)
    }

    @Test("a stream whose client does not read holds back neither the others nor its own rest")
    func stalledStream() async throws {
        try await HTTPProxyTests.withWeb { port, _, _ in
            let client = try await ClientHTTP2(port)
            let stalled = try await client.open(http2Head("GET", "/big/3000000"), ends: false)
            let channel = try #require(stalled.channel.withLock { $0 })
            try await channel.setOption(.autoRead, value: false).get()
            try await stalled.send(0, ends: true)
            for _ in 0..<20 {
                let other = try await client.open(http2Head("GET", "/big/100000"), ends: true)
                try await eventually("another stream's end") { other.isEnded && other.bytes == 100_000 }
            }
            #expect(!stalled.isEnded)
            try await channel.setOption(.autoRead, value: true).get()
            channel.read()
            try await eventually("the whole content") { stalled.isEnded && stalled.bytes == 3_000_000 }
            try await client.channel.close()
        }
    }

    /// The client is told to stop sending, but not before it has what it waits for: a reset drops what its window still keeps back.
    @Test func anAnswerBeforeTheEndOfItsRequestComesWhole() async throws {
        let body = [UInt8](repeating: 98, count: 300_000)
        let rule = matching("/early", .respond(DirectResponse(status: 403, body: body)))
        try await HTTPProxyTests.withWeb([rule]) { port, _, _ in
            let client = try await ClientHTTP2(port)
            let stream = try await client.open(http2Head("POST", "/early"), ends: false)
            try await eventually("all of it") { stream.bytes == body.count }
            #expect(stream.status == "403")
            try await client.channel.close()
        }
    }

    @Test("each stream has its own time, also one that was opened later")
    func idleStreams() async throws {
        var limits = GatewayLimits()
        limits.idleTimeout = .milliseconds(300)
        try await HTTPProxyTests.withWeb(limits: limits) { port, _, _ in
            let client = try await ClientHTTP2(port)
            let first = try await client.open(http2Head("GET", "/hang"), ends: true)
            let answered = try await client.open(http2Head("GET", "/x"), ends: true)
            try await eventually("an answer") { answered.isEnded }
            let second = try await client.open(http2Head("GET", "/hang"), ends: true)
            try await eventually("both are told") { first.status == "504" && second.status == "504" }
            try await client.channel.close()
        }
    }

    @Test("content that came before the backend was there arrives whole")
    func earlyContent() async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let client = try await ClientHTTP2(port)
            var streams: [ClientHTTP2.Stream] = []
            for index in 0..<8 {
                let stream = try await client.open(http2Head("POST", "/\(index)"), ends: false)
                try await stream.send(200_000, ends: false)
                try await stream.send(1, ends: true)
                streams.append(stream)
            }
            for stream in streams { try await eventually("an answer") { stream.isEnded && stream.status == "200" } }
            #expect(server.requests.sorted() == (0..<8).map { "POST /\($0) 200001" })
            try await client.channel.close()
        }
    }
}
