import DNSWire
import Testing

@Suite struct DomainNameTests {
    @Test(arguments: [
        ("", "."), (".", "."), ("example.com", "example.com."), ("example.com.", "example.com."),
        ("_http._TCP.Web", "_http._TCP.Web."), (#"a\.b.c"#, #"a\.b.c."#), (#"a\065b"#, "aAb."),
        (#"a\000b"#, #"a\000b."#),
        (#"back\\slash"#, #"back\\slash."#),
    ])
    func readsAndWritesText(text: String, expected: String) throws {
        #expect(try DomainName(text).description == expected)
    }

    @Test(arguments: ["a..b", ".a", #"a\"#, #"a\25"#, #"a\256"#, String(repeating: "x", count: 64)])
    func refusesBadText(text: String) {
        #expect(throws: DNSWireError.self) { try DomainName(text) }
    }

    @Test func boundsTheWholeName() throws {
        let label = String(repeating: "x", count: 63)
        let longest = [label, label, label, String(repeating: "y", count: 61)].joined(separator: ".")
        #expect(try DomainName(longest).wire.count == 255)
        #expect(throws: DNSWireError.self) { try DomainName(longest + "y") }
    }

    @Test func keepsCaseAndComparesWithoutIt() throws {
        let mixed = try DomainName("WwW.eXample.COM")
        let plain = try DomainName("www.example.com")
        #expect(mixed == plain)
        #expect(mixed.hashValue == plain.hashValue)
        #expect(mixed.wire != plain.wire)
        #expect(mixed.lowercased.wire == plain.wire)
        // Only ASCII letters fold: '[' and '{' differ by the same bit.
        #expect(try DomainName("[") != DomainName("{"))
        #expect(try DomainName("@") != DomainName("`"))
    }

    @Test func tellsLabelsBelowAnAncestor() throws {
        let zone = try DomainName("cluster.local")
        let below = try #require(try DomainName("a.b.Cluster.LOCAL").labels(below: zone))
        #expect(below.map { String(decoding: $0, as: UTF8.self) } == ["a", "b"])
        #expect(try DomainName("cluster.local").labels(below: zone)?.isEmpty == true)
        #expect(try DomainName("xcluster.local").labels(below: zone) == nil)
        #expect(try DomainName("local").labels(below: zone) == nil)
    }
}
