import GatewayRouting
import Testing

@Suite(.timeLimit(.minutes(4))) struct HTTPRetryTests {
    /// A route counts its tries (GEP-1731); one more in place of an idle connection would not be counted.
    @Test func connectionsThatBreakOffAreRetriedAsOftenAsTheRouteSays() async throws {
        func get(_ path: String) -> String { "GET \(path) HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n" }
        var rule = forwarding("web")
        rule.retries = RetryPolicy(attempts: 2, conditions: [.reset], backoff: .milliseconds(1))
        try await HTTPProxyTests.withWeb([rule]) { port, server, _ in
            let answered = try await RawClient.exchange(port, get("/"))
            #expect(answered.hasPrefix("HTTP/1.1 200 "), "and its connection to the backend is idle now")
            let answer = try await RawClient.exchange(port, get("/close"))
            #expect(answer.hasPrefix("HTTP/1.1 503 "))
            #expect(server.requests.dropFirst() == ["GET /close 0", "GET /close 0", "GET /close 0"])
        }
    }
}
