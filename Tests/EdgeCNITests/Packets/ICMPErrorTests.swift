import MeshCore
import PacketWire
import Testing

@Suite
struct ICMPErrorTests {
    private typealias Sample = SamplePackets
    private static let router4 = IPAddress.v4(IPv4Address(10, 244, 1, 1))
    private static let router6 = IPAddress.v6(IPv6Address(high: 0xFD00_0244_0001_0000, low: 1))

    private func answer(_ error: ICMPError, _ bytes: [UInt8], from router: IPAddress) throws -> [UInt8]? {
        let packet = try Sample.parse(bytes)
        return bytes.withUnsafeBytes { error.answer(to: packet, $0, from: router) }
    }

    @Test
    func sendersOfVersion4AreToldWhatFits() throws {
        let bytes = Sample.version4(payload: Sample.udp(payload: [UInt8](repeating: 7, count: 1400)))
        let answer = try #require(try self.answer(.tooBig(mtu: 1280), bytes, from: Self.router4))
        let packet = try Sample.parse(answer)
        #expect(packet.source == Self.router4)
        #expect(packet.destination == Sample.source4)
        #expect(packet.protocolNumber == 1)
        #expect(answer.count == 576)
        // RFC 1191 section 4: type 3, code 4, two bytes unused, the MTU; then the packet's beginning.
        #expect(Array(answer[20..<22]) == [3, 4])
        #expect(Array(answer[24..<28]) == [0, 0, 0x05, 0x00])
        #expect(answer[28...].elementsEqual(bytes.prefix(548)))
        #expect(Sample.sum(answer[20...]) == 0xFFFF)
    }

    @Test
    func sendersOfVersion6AreToldWhatFits() throws {
        let bytes = Sample.version6(payload: [UInt8](repeating: 7, count: 1400))
        let answer = try #require(try self.answer(.tooBig(mtu: 1380), bytes, from: Self.router6))
        let packet = try Sample.parse(answer)
        #expect(packet.source == Self.router6)
        #expect(packet.destination == Sample.source6)
        #expect(packet.protocolNumber == 58)
        #expect(answer.count == 1280)
        // RFC 4443 section 3.2: type 2, code 0, the MTU.
        #expect(Array(answer[40..<42]) == [2, 0])
        #expect(Array(answer[44..<48]) == [0, 0, 0x05, 0x64])
        #expect(answer[48...].elementsEqual(bytes.prefix(1232)))
        #expect(try Sample.isSound(answer))
    }

    @Test(
        arguments: [
            (ICMPError.hopLimitExceeded, [11, 0], [3, 0]), (.unreachable, [3, 1], [1, 3]),
            (.prohibited, [3, 13], [1, 1]),
        ] as [(ICMPError, [UInt8], [UInt8])]
    )
    func otherReasonsAreTold(error: ICMPError, codes4: [UInt8], codes6: [UInt8]) throws {
        let bytes4 = Sample.version4(payload: Sample.udp(payload: [1, 2, 3]))
        let answer4 = try #require(try self.answer(error, bytes4, from: Self.router4))
        #expect(Array(answer4[20..<22]) == codes4)
        #expect(answer4[28...].elementsEqual(bytes4))
        #expect(Sample.sum(answer4[20...]) == 0xFFFF)
        let bytes6 = Sample.version6(payload: [1, 2, 3])
        let answer6 = try #require(try self.answer(error, bytes6, from: Self.router6))
        #expect(Array(answer6[40..<42]) == codes6)
        #expect(answer6[48...].elementsEqual(bytes6))
        #expect(try Sample.isSound(answer6))
    }

    @Test(arguments: [
        SamplePackets.version4(number: 1, payload: [3, 4, 0, 0, 0, 0, 0, 0]),
        SamplePackets.version4(number: 1, payload: [11, 0, 0, 0, 0, 0, 0, 0]),
        SamplePackets.version4(flags: 185, payload: [1, 2, 3]),
        SamplePackets.version4(target: .v4(IPv4Address(224, 0, 0, 251)), payload: [1]),
        SamplePackets.version4(target: .v4(IPv4Address(255, 255, 255, 255)), payload: [1]),
        SamplePackets.version4(source: .v4(.any), payload: [1]),
        SamplePackets.version4(source: .v4(.loopback), payload: [1]),
        SamplePackets.version4(source: .v4(IPv4Address(239, 0, 0, 1)), payload: [1]),
        SamplePackets.version6(next: 58, payload: [1, 0, 0, 0, 0, 0, 0, 0]),
        SamplePackets.version6(next: 58, payload: [137, 0, 0, 0, 0, 0, 0, 0]),
        SamplePackets.version6(source: .v6(.any), payload: [1]),
        SamplePackets.version6(source: .v6(IPv6Address(high: 0xFF02 << 48, low: 1)), payload: [1]),
        SamplePackets.version6(target: .v6(IPv6Address(high: 0xFF02 << 48, low: 1)), payload: [1]),
    ])
    func nobodyIsToldWhereThatDoesHarm(bytes: [UInt8]) throws {
        let packet = try Sample.parse(bytes)
        let router = packet.family == .v4 ? Self.router4 : Self.router6
        #expect(try self.answer(.unreachable, bytes, from: router) == nil)
        #expect(try self.answer(.hopLimitExceeded, bytes, from: router) == nil)
    }

    @Test
    func echoesAreAnsweredAndFamiliesAreKept() throws {
        let echo = Sample.version4(number: 1, payload: [8, 0, 0, 0, 0, 0, 0, 0])
        #expect(try self.answer(.unreachable, echo, from: Self.router4) != nil)
        #expect(try self.answer(.unreachable, echo, from: Self.router6) == nil)
        // RFC 4443 section 2.4 (e.3): too big is told of what was sent to many, too.
        let toMany = Sample.version6(target: .v6(IPv6Address(high: 0xFF02 << 48, low: 1)), payload: [1])
        #expect(try self.answer(.tooBig(mtu: 1280), toMany, from: Self.router6) != nil)
    }
}
