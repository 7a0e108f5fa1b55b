import MeshCore
import NIOCore
import Testing

@testable import LibP2PRelay

@Suite struct PCPTests {
    static let request = PCP.MapRequest(
        client: .v4(IPv4Address(192, 168, 1, 2)),
        nonce: Array(1...12),
        internalPort: 20006,
        externalPort: 20006,
        lifetime: 7200
    )

    /// RFC 6887, figures 2, 7 and 9.
    static func response(
        version: UInt8 = 2,
        opcode: UInt8 = 0x81,
        code: UInt8 = 0,
        nonce: [UInt8] = Array(1...12),
        internalPort: UInt16 = 20006
    ) -> ByteBuffer {
        var buffer = ByteBuffer(bytes: [version, opcode, 0, code])
        buffer.writeInteger(UInt32(3600))
        buffer.writeInteger(UInt32(77))
        buffer.writeRepeatingByte(0, count: 12)
        buffer.writeBytes(nonce)
        buffer.writeBytes([6, 0, 0, 0])
        buffer.writeInteger(internalPort)
        buffer.writeInteger(UInt16(40001))
        buffer.writeBytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 1, 2, 3, 4])
        return buffer
    }

    @Test func theRequestHasTheFormOfTheRFC() {
        let bytes = Array(Self.request.encoded.readableBytesView)
        #expect(bytes.count == 60)
        #expect(Array(bytes[..<8]) == [2, 1, 0, 0, 0, 0, 0x1C, 0x20])
        #expect(Array(bytes[8..<24]) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 168, 1, 2])
        #expect(Array(bytes[24..<36]) == Array(1...12))
        #expect(Array(bytes[36..<44]) == [6, 0, 0, 0, 0x4E, 0x26, 0x4E, 0x26])
        #expect(Array(bytes[44...]) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0])
    }

    @Test func answersAreRead() {
        #expect(
            PCP.MapResponse(Self.response(), to: Self.request)
                == .mapped(externalAddress: .v4(IPv4Address(1, 2, 3, 4)), externalPort: 40001, lifetime: 3600)
        )
        #expect(PCP.MapResponse(Self.response(code: 8), to: Self.request) == .refused(code: 8))
        #expect(PCP.MapResponse(Self.response(code: 1), to: Self.request) == .unsupportedVersion)
        // What a server that has only NAT-PMP says.
        let old = ByteBuffer(bytes: [0, 0x81, 0, 1, 0, 0, 0, 9])
        #expect(PCP.MapResponse(old, to: Self.request) == .unsupportedVersion)
    }

    static let strangers = [
        response(opcode: 1), response(opcode: 0x80), response(nonce: Array(2...13)), response(internalPort: 1),
        ByteBuffer(), ByteBuffer(bytes: [2, 0x81, 0, 0]),
    ]

    @Test(arguments: strangers) func whatIsNoAnswerIsIgnored(_ bytes: ByteBuffer) {
        #expect(PCP.MapResponse(bytes, to: Self.request) == nil)
    }

    @Test func everyTruncationIsIgnored() throws {
        let whole = Self.response()
        for length in 0..<whole.readableBytes {
            let part = try #require(whole.getSlice(at: 0, length: length))
            #expect(PCP.MapResponse(part, to: Self.request) == nil)
        }
    }
}

@Suite struct NATPMPTests {
    static let map = NATPMP.Request.mapTCP(internalPort: 20006, externalPort: 20007, lifetime: 7200)

    @Test func requestsHaveTheFormOfTheRFC() {
        #expect(Array(NATPMP.Request.externalAddress.encoded.readableBytesView) == [0, 0])
        #expect(
            Array(Self.map.encoded.readableBytesView) == [0, 2, 0, 0, 0x4E, 0x26, 0x4E, 0x27, 0, 0, 0x1C, 0x20]
        )
    }

    static let answers: [(NATPMP.Request, [UInt8], NATPMP.Response?)] = [
        (.externalAddress, [0, 128, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4], .externalAddress(IPv4Address(1, 2, 3, 4))),
        (.externalAddress, [0, 128, 0, 3, 0, 0, 0, 1], .refused(code: 3)),
        (.externalAddress, [0, 130, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4], nil),
        (.externalAddress, [0, 128, 0, 0, 0, 0, 0, 1, 1, 2, 3], nil),
        (
            map, [0, 130, 0, 0, 0, 0, 0, 1, 0x4E, 0x26, 0x9C, 0x41, 0, 0, 0x0E, 0x10],
            .mapped(externalPort: 40001, lifetime: 3600)
        ),
        (map, [0, 130, 0, 0, 0, 0, 0, 1, 0x4E, 0x25, 0x9C, 0x41, 0, 0, 0x0E, 0x10], nil),
        (map, [0, 130, 0, 2, 0, 0, 0, 1], .refused(code: 2)),
        (map, [2, 130, 0, 0, 0, 0, 0, 1], nil),
        (map, [], nil),
    ]

    @Test(arguments: answers) func answersAreReadOrIgnored(
        _ request: NATPMP.Request,
        _ bytes: [UInt8],
        _ response: NATPMP.Response?
    ) {
        #expect(request.response(ByteBuffer(bytes: bytes)) == response)
    }
}

@Suite struct XMLScannerTests {
    func events(_ text: String) throws -> [XMLScanner.Event] {
        var scanner = XMLScanner(Array(text.utf8))
        var events: [XMLScanner.Event] = []
        while let event = try scanner.next() { events.append(event) }
        return events
    }

    @Test func elementsAndTextsAreRead() throws {
        let text = """
            <?xml version="1.0"?><!-- a <comment> -->
            <s:a x="1>2" y='"'><b>one &amp; two&#33;&#x21;</b><c/><d><![CDATA[<raw>]]></d > </s:a>
            """
        #expect(
            try self.events(text) == [
                .start("a"), .start("b"), .text("one & two!!"), .end("b"), .start("c"), .end("c"), .start("d"),
                .text("<raw>"), .end("d"), .end("a"),
            ]
        )
    }

    static let bad = [
        "<a>", "<a></b>", "</a>", "<a", "<a b=\"", "<>", "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>", "<a>&x;</a>",
        "<a>&#xD800;</a>", "<a>&#99999999999;</a>", "<a>&amp</a>", "<!-- ", "<![CDATA[>", "<![CDATA[]>",
        String(repeating: "<a>", count: 40) + String(repeating: "</a>", count: 40),
        "<\(String(repeating: "a", count: 200))/>",
    ]

    @Test(arguments: bad) func badDocumentsAreRefused(_ text: String) {
        #expect(throws: LibP2PRelayError.self) { try self.events(text) }
    }

    @Test func randomTextNeverTraps() {
        let seed = UInt64.random(in: .min ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let pieces = [
            "<", ">", "/", "a", "&", ";", "#", "x", "!", "[", "]", "CDATA", "-", "?", "\"", "'", " ", "=", "\u{FF}",
        ]
        for _ in 0..<5000 {
            let text = (0..<Int.random(in: 0...24, using: &generator)).map { _ in
                pieces.randomElement(using: &generator) ?? ""
            }
            _ = try? self.events(text.joined())
        }
    }
}

@Suite struct UPnPMessageTests {
    static let location = GatewayURL(host: IPv4Address(192, 168, 1, 1), port: 5000, path: "/rootDesc.xml")

    static let urls: [(String, GatewayURL?)] = [
        ("http://192.168.1.1:5000/rootDesc.xml", location),
        ("HTTP://192.168.1.1/a?b=c", GatewayURL(host: IPv4Address(192, 168, 1, 1), port: 80, path: "/a?b=c")),
        ("http://192.168.1.1", GatewayURL(host: IPv4Address(192, 168, 1, 1), port: 80, path: "/")),
        ("https://192.168.1.1/", nil), ("http://router.local/", nil), ("http://[fe80::1]/", nil),
        ("http://192.168.1.1:0/", nil), ("http://192.168.1.1:99999/", nil), ("http://1.1.1.1:1:1/", nil),
        ("http://user@192.168.1.1/", nil), ("http://192.168.1.1/a b", nil), ("http://192.168.1.1/\r\nX: y", nil),
        ("", nil),
    ]

    @Test(arguments: urls) func addressesAreReadOrRefused(_ text: String, _ url: GatewayURL?) {
        #expect(GatewayURL(text) == url)
    }

    @Test func aDocumentCannotLeadElsewhere() {
        #expect(Self.location.resolving("/ctl") == GatewayURL(host: Self.location.host, port: 5000, path: "/ctl"))
        #expect(Self.location.resolving("ctl")?.path == "/ctl")
        #expect(Self.location.resolving("http://192.168.1.1:1234/ctl")?.port == 1234)
        for text in ["http://10.0.0.1/ctl", "ftp://192.168.1.1/", "/a\r\nHost: b"] {
            #expect(Self.location.resolving(text) == nil)
        }
    }

    @Test func theLocationIsFoundInAnAnswer() {
        let answer = "HTTP/1.1 200 OK\r\nST: x\r\nLoCation:  http://192.168.1.1:5000/rootDesc.xml\r\n\r\n"
        #expect(UPnP.location(in: answer) == Self.location)
        for text in [
            "", "HTTP/1.1 404 No\r\nLocation: http://192.168.1.1/\r\n", "NOTIFY * HTTP/1.1\r\n", "HTTP/1.1 200 OK",
        ] {
            #expect(UPnP.location(in: text) == nil)
        }
    }

    static func description(_ services: [(String, String)]) -> String {
        let list = services.map { type, url in
            "<service><serviceType>urn:schemas-upnp-org:service:\(type)</serviceType><controlURL>\(url)</controlURL></service>"
        }
        return "<root><device><serviceList>\(list.joined())</serviceList></device></root>"
    }

    @Test func theBestServiceIsChosen() throws {
        let text = Self.description([
            ("Layer3Forwarding:1", "/no"), ("WANPPPConnection:1", "/ppp"), ("WANIPConnection:1", "/ip1"),
            ("WANIPConnection:2", "http://10.9.9.9/elsewhere"),
        ])
        let service = try UPnP.service(in: Array(text.utf8), at: Self.location)
        #expect(service?.type == "urn:schemas-upnp-org:service:WANIPConnection:1")
        #expect(service?.control.path == "/ip1")
        #expect(try UPnP.service(in: Array("<root/>".utf8), at: Self.location) == nil)
    }

    @Test func routesAreRead() {
        let text = """
            Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
            wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
            eth1\t00000000\t00000000\t0001\t0\t0\t1\t00000000\t0\t0\t0
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
            """
        #expect(DefaultGateway.parse(text) == IPv4Address(192, 168, 1, 1))
        #expect(DefaultGateway.parse("") == nil)
        #expect(DefaultGateway.parse("Iface\neth0 00000000 zz 0003 0 0 100 00000000") == nil)
    }
}
