import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import Testing

@testable import EdgeTunnel

@Suite
struct MessageTests {
    private static let target = TransportAddress(.v4(IPv4Address(10, 244, 1, 2)), 9376)

    // MARK: v1.17

    @Test
    func theOriginalsMessagesHaveItsBytes() {
        let discovery = DiscoveryMessage(.connect, foundBy: "MDNS", nodeName: "k8s-master")
        #expect(discovery.framed.hex == "14080012044d444e531a0a6b38732d6d6173746572")
        let connect = ProxyMessage.connect(.tcp, to: Self.target, of: "ke-edge1")
        #expect(
            connect.framed.hex == "2008001203746370" + "1a086b652d6564676531" + "220a31302e3234342e312e32" + "28a049"
        )
        #expect(
            connect.success.framed.hex
                == "2008011203746370" + "1a086b652d6564676531" + "220a31302e3234342e312e32" + "28a049"
        )
        #expect(ProxyMessage.failed.framed.hex == "020802")
        // Zero and empty values are written, too.
        let packets = ProxyMessage.packets(protocol: 6, to: "ke-edge1")
        #expect(packets.framed.hex == "1e0800120c0970726f746f636f6c3d360a1a086b652d656467653122002800")
    }

    @Test
    func theOriginalsMessagesAreRead() throws {
        var bytes = try ByteBuffer(hex: "20080012037463701a086b652d6564676531220a31302e3234342e312e3228a049")
        let connect = try ProxyMessage(try #require(try bytes.readVarintPrefixed(maximumLength: 4096)))
        #expect(connect == ProxyMessage.connect(.tcp, to: Self.target, of: "ke-edge1"))
        #expect(connect.target == Self.target && connect.transport == .tcp && connect.packetProtocol == nil)
        let packets = ProxyMessage.packets(protocol: 17, to: "ke-edge1")
        #expect(try ProxyMessage(packets.buffer).packetProtocol == 17)
        #expect(packets.target == nil && packets.transport == nil)
        let answer = DiscoveryMessage(.success, foundBy: "DHT", nodeName: "ke-edge2")
        #expect(try DiscoveryMessage(answer.buffer) == answer)
        // proto2: what is not set is absent.
        let bare = try ProxyMessage(ProxyMessage.failed.buffer)
        #expect(bare.kind == .failed && bare.ip == nil && bare.port == nil)
    }

    @Test(arguments: [
        "0803", "0a00", "1201", "12ff", "1202ff fe".replacing(" ", with: ""), "28ffffffffff01", "2a00", "0c",
    ])
    func brokenMessagesOfTheOriginalAreErrors(_ hex: String) throws {
        let bytes = try ByteBuffer(hex: hex)
        #expect(throws: MultiformatsError.self) { try ProxyMessage(bytes) }
    }

    @Test(arguments: [-1, 0, 65_536, Int32.max, Int32.min])
    func aPortThatIsNoneMakesNoTarget(_ port: Int32) throws {
        var message = ProxyMessage.connect(.udp, to: Self.target, of: "n")
        message.port = port
        #expect(try ProxyMessage(message.buffer).port == port)
        #expect(message.target == nil)
    }

    // MARK: Ours

    @Test
    func aRequestKeepsAllThatItSays() throws {
        var request = OpenRequest(.udp, to: TransportAddress(.v6(.loopback), 53), of: "edge-1", purpose: .socks)
        request.client = TransportAddress(.v4(IPv4Address(192, 168, 1, 7)), 40_000)
        request.timeoutMilliseconds = 4500
        request.service = ObjectName(namespace: "shop", name: "cart")
        #expect(try OpenRequest(request.buffer) == request)
        let bare = OpenRequest(.tcp, to: Self.target, of: "edge-1")
        #expect(try OpenRequest(bare.buffer) == bare)
    }

    @Test
    func unknownFieldsAreSkipped() throws {
        let request = OpenRequest(.tcp, to: Self.target, of: "edge-1")
        var writer = ProtobufWriter(request.buffer)
        writer.write(text: "of a later version", to: 100)
        writer.write(fixed64: 7, to: 101)
        #expect(try OpenRequest(writer.buffer) == request)
        var reply = ProtobufWriter(OpenReply(.refused, "no").buffer)
        reply.write(bool: true, to: 9)
        #expect(try OpenReply(reply.buffer) == OpenReply(.refused, "no"))
    }

    @Test
    func requestsThatCannotBeServedAreErrors() throws {
        let good = OpenRequest(.tcp, to: Self.target, of: "edge-1")
        // A later field of the same number replaces an earlier one.
        for (field, value) in [(1, UInt64(2)), (4, 0), (4, 65_536), (9, 2), (9, .max)] {
            var writer = ProtobufWriter(good.buffer)
            writer.write(varint: value, to: field)
            #expect(throws: MultiformatsError.self, "field \(field) = \(value)") { try OpenRequest(writer.buffer) }
        }
        var writer = ProtobufWriter(good.buffer)
        writer.write(bytes: [1, 2, 3], to: 3)
        #expect(throws: MultiformatsError.self) { try OpenRequest(writer.buffer) }
        #expect(throws: MultiformatsError.self) { try OpenRequest(ByteBuffer()) }
    }

    @Test
    func aReplysMessageIsBoundedAndHoldsNoControlCharacters() throws {
        var writer = ProtobufWriter()
        writer.write(varint: 3, to: 1)
        writer.write(text: "line\nforged \u{1B}[31m" + String(repeating: "ä", count: 500), to: 2)
        let reply = try OpenReply(writer.buffer)
        #expect(reply.code == .notAllowed)
        #expect(reply.message.hasPrefix("line forged  [31m"))
        #expect(reply.message.utf8.count <= OpenReply.maximumMessageBytes)
        #expect(OpenReply(.ok, reply.message + reply.message).message.utf8.count <= OpenReply.maximumMessageBytes)
    }

    @Test
    func anUnknownCodeIsKnownToBeUnknown() throws {
        var writer = ProtobufWriter()
        writer.write(varint: 99, to: 1)
        let reply = try OpenReply(writer.buffer)
        #expect(reply.code == nil)
        let target = TunnelTarget(node: "edge-1", address: Self.target)
        #expect(TunnelError(reply, opening: target).code == .badAnswer)
        #expect(TunnelError(OpenReply(.wrongNode), opening: target).code == .unknownNode)
    }

    @Test
    func noBytesTrap() {
        var generator = SeededGenerator(seed: 20_260_117)
        for _ in 0..<5000 {
            let bytes = (0..<Int.random(in: 0..<64, using: &generator)).map { _ in
                UInt8.random(in: .min ... .max, using: &generator)
            }
            let buffer = ByteBuffer(bytes: bytes)
            _ = try? ProxyMessage(buffer)
            _ = try? DiscoveryMessage(buffer)
            if let request = try? OpenRequest(buffer) {
                #expect((try? OpenRequest(request.buffer)) == request)
            }
            _ = try? OpenReply(buffer)
        }
    }
}

extension ByteBuffer {
    var hex: String {
        self.readableBytesView.map { byte in
            let digits = Array("0123456789abcdef")
            return "\(digits[Int(byte >> 4)])\(digits[Int(byte & 15)])"
        }.joined()
    }

    /// Reads hexadecimal digits; spaces do not matter.
    init(hex text: String) throws {
        let digits = text.filter { $0 != " " }.compactMap(\.hexDigitValue)
        self.init(bytes: stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] * 16 + digits[$0 + 1]) })
    }
}
