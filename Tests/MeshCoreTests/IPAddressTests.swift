import MeshCore
import Testing

@Suite("Addresses")
struct IPAddressTests {
    @Test(
        "IPv6 text is read and written as RFC 5952 has it",
        arguments: [
            ("::", "::"), ("::1", "::1"), ("2001:DB8::0:1", "2001:db8::1"), ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
            ("fe80:0:0:0:1:2:3:4", "fe80::1:2:3:4"), ("::ffff:10.1.2.3", "::ffff:10.1.2.3"),
            ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"), ("1:2:3:4:5:6:7:0", "1:2:3:4:5:6:7:0"), ("1::", "1::"),
        ]
    )
    func ipv6Text(text: String, canonical: String) throws {
        let address = try #require(IPv6Address(text))
        #expect(address.description == canonical)
        #expect(IPv6Address(address.description) == address)
        #expect(IPAddress(networkBytes: IPAddress.v6(address).networkBytes) == .v6(address))
    }

    @Test(
        "text that is no address is refused",
        arguments: [
            "", ":", "1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4 ", "1..2.3", ":::", "1::2::3",
            "12345::", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7", "::1%eth0", "1:", ":1", "::1.2.3", "1:2:3:4:5:6:7:1.2.3.4",
        ]
    )
    func refused(text: String) {
        #expect(IPAddress(text) == nil)
    }

    @Test("blocks hold the addresses of their prefix")
    func blocks() throws {
        let block = try #require(CIDR("10.244.3.7/22"))
        #expect(block.description == "10.244.0.0/22")
        #expect(block.contains(.v4(IPv4Address(10, 244, 3, 255))))
        #expect(!block.contains(.v4(IPv4Address(10, 244, 4, 0))))
        #expect(!block.contains(.v6(.loopback)))
        let wide = try #require(CIDR("fd00::/7"))
        #expect(try wide.contains(#require(IPAddress("fdff::1"))))
        #expect(try CIDR("0.0.0.0/0")?.contains(#require(IPAddress("9.9.9.9"))) == true)
        for text in ["1.2.3.4/33", "::/129", "1.2.3.4/-1", "1.2.3.4/", "/8", "1.2.3.4/+8"] {
            #expect(CIDR(text) == nil, "\(text)")
        }
    }

    @Test("transport addresses")
    func transportAddresses() {
        #expect(TransportAddress("1.2.3.4:80")?.description == "1.2.3.4:80")
        #expect(TransportAddress("[::1]:53")?.description == "[::1]:53")
        for text in ["::1:53", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "[1.2.3.4]:1", "[::1]"] {
            #expect(TransportAddress(text) == nil, "\(text)")
        }
    }
}
