import MeshCore
import Testing

@testable import PacketWire

@Suite
struct PacketOffloadTests {
    private typealias Sample = SamplePackets

    private func segments(_ bytes: [UInt8], _ offload: PacketOffload) throws -> [[UInt8]] {
        let packet = try Sample.parse(bytes)
        return try bytes.withUnsafeBytes { bytes in
            let segments = try PacketSegments(offload, of: packet, bytes)
            return (0..<segments.count).map { index in
                var room = [UInt8](repeating: 0xEE, count: segments.maximumLength)
                let length = room.withUnsafeMutableBytes { segments.write(index, of: bytes, to: $0) }
                return Array(room[..<length])
            }
        }
    }

    private static let payload = (0..<3000).map { UInt8(truncatingIfNeeded: $0 * 13) }
    private static let timestamps: [UInt8] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]

    @Test(arguments: [IPFamily.v4, .v6])
    func largeSegmentsAreCut(family: IPFamily) throws {
        let (source, target) =
            family == .v4 ? (Sample.source4, Sample.target4) : (Sample.source6, Sample.target6)
        // CWR, PSH, ACK and FIN.
        let large = Sample.tcp(
            flags: 0x99,
            sequence: .max - 1000,
            options: Self.timestamps,
            payload: Self.payload,
            between: source,
            and: target,
            isPartial: true
        )
        let bytes =
            family == .v4
            ? Sample.version4(number: 6, identification: 0xFFFF, payload: large)
            : Sample.version6(next: 6, payload: large)
        let segments = try self.segments(bytes, PacketOffload(isChecksumPartial: true, segmentSize: 1400))
        #expect(segments.count == 3)
        let start = family == .v4 ? 20 : 40
        var carried: [UInt8] = []
        for (index, segment) in segments.enumerated() {
            #expect(try Sample.isSound(segment))
            let packet = try Sample.parse(segment)
            #expect(packet.source == source)
            #expect(segment[(start + 20)..<(start + 32)].elementsEqual(Self.timestamps))
            let sequence = segment[(start + 4)..<(start + 8)].reduce(0 as UInt32) { $0 << 8 | UInt32($1) }
            #expect(sequence == (UInt32.max - 1000) &+ UInt32(index * 1400))
            #expect(segment[start + 13] == [0x90, 0x10, 0x19][index])
            if family == .v4 { #expect(Array(segment[4..<6]) == [[0xFF, 0xFF], [0, 0], [0, 1]][index]) }
            carried += segment[(start + 32)...]
        }
        #expect(carried == Self.payload)
    }

    @Test(arguments: [IPFamily.v4, .v6])
    func largeDatagramsAreCut(family: IPFamily) throws {
        let (source, target) =
            family == .v4 ? (Sample.source4, Sample.target4) : (Sample.source6, Sample.target6)
        let large = Sample.udp(payload: Self.payload, between: source, and: target, isPartial: true)
        let bytes = family == .v4 ? Sample.version4(payload: large) : Sample.version6(payload: large)
        let segments = try self.segments(bytes, PacketOffload(isChecksumPartial: true, segmentSize: 1200))
        let start = family == .v4 ? 20 : 40
        #expect(segments.map(\.count) == [1200, 1200, 600].map { start + 8 + $0 })
        for segment in segments {
            #expect(try Sample.isSound(segment))
            #expect(Array(segment[(start + 4)..<(start + 6)]) == Sample.word(UInt16(segment.count - start)))
        }
        #expect(segments.flatMap { $0[(start + 8)...] } == Self.payload)
    }

    @Test
    func segmentsOfTCPAreCutToWhatFits() throws {
        let large = Sample.version4(
            number: 6,
            payload: Sample.tcp(flags: 0x10, sequence: 7, payload: Self.payload, isPartial: true)
        )
        func lengths(
            _ bytes: [UInt8],
            _ segmentSize: UInt16,
            isPartial: Bool = true,
            fitting limit: Int
        ) throws -> [Int]? {
            let packet = try Sample.parse(bytes)
            let offload = PacketOffload(isChecksumPartial: isPartial, segmentSize: segmentSize)
            var cut: [[UInt8]] = []
            bytes.withUnsafeBytes { bytes in
                guard let segments = PacketSegments(offload, of: packet, bytes, fitting: limit) else { return }
                for index in 0..<segments.count {
                    var room = [UInt8](repeating: 0xEE, count: segments.maximumLength)
                    let length = room.withUnsafeMutableBytes { segments.write(index, of: bytes, to: $0) }
                    cut.append(Array(room[..<length]))
                }
            }
            for segment in cut { #expect(try Sample.isSound(segment)) }
            return cut.isEmpty ? nil : cut.map(\.count)
        }
        // As its device wants them; shorter; one that is none of several.
        #expect(try lengths(large, 1460, fitting: 1500) == [1500, 1500, 120])
        #expect(try lengths(large, 1460, fitting: 1440) == [1440, 1440, 240])
        #expect(try lengths(large, 0, fitting: 1440) == [1440, 1440, 240])
        #expect(try lengths(large, 0, fitting: 3040) == [3040])
        // Whose sum is there is not taken apart; nor is one that opens a connection, nor a datagram.
        #expect(try lengths(large, 0, isPartial: false, fitting: 1440) == nil)
        let opening = Sample.version4(
            number: 6,
            payload: Sample.tcp(flags: 0x02, sequence: 7, payload: Self.payload, isPartial: true)
        )
        #expect(try lengths(opening, 0, fitting: 1440) == nil)
        let datagram = Sample.version4(payload: Sample.udp(payload: Self.payload, isPartial: true))
        #expect(try lengths(datagram, 1472, fitting: 1440) == nil)
        #expect(try lengths(datagram, 1400, fitting: 1440) == [1428, 1428, 228])
        #expect(try lengths(large, 1460, fitting: 40) == nil)
    }

    @Test
    func whatIsOnePacketStaysOne() throws {
        let whole = Sample.version4(number: 47, payload: [1, 2, 3])
        #expect(try self.segments(whole, .none) == [whole])
        let partial = Sample.version4(payload: Sample.udp(payload: [1, 2, 3], isPartial: true))
        let finished = Sample.version4(payload: Sample.udp(payload: [1, 2, 3]))
        #expect(try self.segments(partial, PacketOffload(isChecksumPartial: true)) == [finished])
    }

    @Test
    func sumsOfZeroAreWrittenAsOnes() throws {
        // Two bytes of payload that make the sum of the datagram zero.
        let sum = Sample.sum(
            Sample.pseudoHeader(Sample.source4, Sample.target4, 17, 10) + Sample.udp(payload: [0, 0]).prefix(6)
        )
        let payload = Sample.word(~sum)
        let partial = Sample.version4(payload: Sample.udp(payload: payload, isPartial: true))
        let finished = try self.segments(partial, PacketOffload(isChecksumPartial: true))
        #expect(Array(finished[0][26..<28]) == [0xFF, 0xFF])
        #expect(try Sample.isSound(finished[0]))
    }

    @Test(arguments: [
        // No transport that can be cut or summed, a part of a packet, no payload, a header that is cut off, one too many.
        (SamplePackets.version4(number: 47, payload: payload), PacketOffload(isChecksumPartial: true)),
        (SamplePackets.version4(flags: 0x2000, payload: payload), PacketOffload(isChecksumPartial: true)),
        (
            SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0x10)),
            PacketOffload(isChecksumPartial: true, segmentSize: 100)
        ),
        (
            SamplePackets.version4(number: 6, payload: [UInt8](payload.prefix(19))),
            PacketOffload(isChecksumPartial: true)
        ),
        (
            SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0, payload: payload)),
            PacketOffload(isChecksumPartial: true, segmentSize: 1)
        ),
        (
            SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0, payload: payload)),
            PacketOffload(isChecksumPartial: false, segmentSize: 1000)
        ),
    ])
    func whatCannotBeDoneIsRefused(bytes: [UInt8], offload: PacketOffload) throws {
        let packet = try Sample.parse(bytes)
        #expect(throws: PacketError(.offload)) {
            try bytes.withUnsafeBytes { _ = try PacketSegments(offload, of: packet, $0) }
        }
    }

    @Test
    func headersOfDevicesReadBack() throws {
        let tcp4 = Sample.version4(number: 6, payload: Sample.tcp(flags: 0x90, payload: Self.payload, isPartial: true))
        let tcp6 = Sample.version6(
            next: 6,
            payload: Sample.tcp(
                flags: 0x10,
                payload: Self.payload,
                between: Sample.source6,
                and: Sample.target6,
                isPartial: true
            )
        )
        let udp4 = Sample.version4(payload: Sample.udp(payload: Self.payload, isPartial: true))
        let large = PacketOffload(isChecksumPartial: true, segmentSize: 1200)
        for (bytes, offload, type, start, sum) in [
            (tcp4, large, 0x81, 20, 16), (tcp6, large, 4, 40, 16), (udp4, large, 5, 20, 6),
            (tcp4, PacketOffload(isChecksumPartial: true), 0, 20, 16), (udp4, .none, 0, 0, 0),
        ] as [(bytes: [UInt8], offload: PacketOffload, type: UInt8, start: UInt16, sum: UInt16)] {
            let packet = try Sample.parse(bytes)
            try bytes.withUnsafeBytes { bytes in
                let header = try VirtioNetHeader(offload, of: packet, bytes)
                #expect(header.type == type)
                #expect(header.checksumStart == start)
                #expect(header.checksumOffset == sum)
                var written = [UInt8](repeating: 0xEE, count: 12)
                written.withUnsafeMutableBytes { header.write(to: $0) }
                #expect(written[10...] == [0xEE, 0xEE])
                let again = try written.withUnsafeBytes { try VirtioNetHeader(parsing: $0) }
                #expect(again == header)
                #expect(try again.offload(of: packet, bytes) == offload)
            }
        }
    }

    @Test(
        arguments: [
            // Cut as something else, without a size, of an unknown kind (UDP's fragments), summed elsewhere.
            [1, 4, 0, 0, 0xB0, 4, 20, 0, 16, 0], [1, 1, 0, 0, 0, 0, 20, 0, 16, 0], [1, 3, 0, 0, 0xB0, 4, 20, 0, 16, 0],
            [1, 5, 0, 0, 0xB0, 4, 20, 0, 16, 0], [1, 0, 0, 0, 0, 0, 21, 0, 16, 0], [1, 0, 0, 0, 0, 0, 20, 0, 6, 0],
            [0, 1, 0, 0, 0xB0, 4, 20, 0, 16, 0],
        ] as [[UInt8]]
    )
    func headersThatDoNotFitAreRefused(header: [UInt8]) throws {
        // Little-endian, as the bytes above are.
        let numbers = stride(from: 2, to: 10, by: 2).map { UInt16(header[$0]) | UInt16(header[$0 + 1]) << 8 }
        let native = Array(header[..<2]) + numbers.flatMap { number in withUnsafeBytes(of: number) { Array($0) } }
        let bytes = Sample.version4(number: 6, payload: Sample.tcp(flags: 0x10, payload: Self.payload, isPartial: true))
        let packet = try Sample.parse(bytes)
        let parsed = try native.withUnsafeBytes { try VirtioNetHeader(parsing: $0) }
        #expect(throws: PacketError(.offload)) {
            try bytes.withUnsafeBytes { _ = try parsed.offload(of: packet, $0) }
        }
    }
}
