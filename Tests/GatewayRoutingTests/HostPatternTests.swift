import Testing

@testable import GatewayRouting

@Suite struct HostPatternTests {
    @Test(arguments: [
        "", "a..b", "*.*.com", "a.*.com", "b*.com", "a b", "http://a", "a:80", "..", String(repeating: "a", count: 64),
    ])
    func whatIsNoHostIsRefused(text: String) {
        #expect(HostPattern(text) == nil)
    }

    @Test func wildcardsHoldAnyNumberOfLabels() throws {
        let pattern = try #require(HostPattern("*.Example.com."))
        #expect(pattern.text == "*.example.com")
        #expect(pattern.matches("a.example.com") && pattern.matches("a.b.example.com"))
        #expect(!pattern.matches("example.com") && !pattern.matches(".example.com") && !pattern.matches("aexample.com"))
        #expect(HostPattern.any.matches("x"))
    }

    @Test func theMostSpecificComesFirst() {
        let texts = ["*", "*.com", "a.com", "*.a.com", "www.a.com"]
        let sorted = texts.compactMap(HostPattern.init).sorted { HostPattern.isMoreSpecific($0, than: $1) }
        #expect(sorted.map(\.text) == ["www.a.com", "a.com", "*.a.com", "*.com", "*"])
    }
}
