import MeshInterfaces
import NIOCore
import PacketWire

@testable import EdgeCNI

extension FuzzTarget {
    /// IP packets of other nodes. What is read stays readable through every change, and its segments and answers are packets.
    ///
    /// The first two bytes are the size of segments, in the order of the network.
    static let ipPacket = FuzzTarget(name: "ip-packet") { data, count in
        let input = UnsafeRawBufferPointer(start: data, count: count)
        guard input.count > 2 else { return 0 }
        let size = UInt16(input[0]) << 8 | UInt16(input[1])
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: count - 2, alignment: 8)
        defer { bytes.deallocate() }
        bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: input[2...]))
        let view = UnsafeRawBufferPointer(bytes)
        _ = try? IPPacket.length(announcedBy: view)
        guard let packet = try? IPPacket(parsing: view) else { return 0 }
        precondition(packet.length == view.count && packet.payloadOffset <= view.count)
        _ = packet.flowHash(in: view)
        for error in [ICMPError.tooBig(mtu: 1280), .hopLimitExceeded, .unreachable, .prohibited] {
            guard let answer = error.answer(to: packet, view, from: packet.destination) else { continue }
            let parsed = answer.withUnsafeBytes { try? IPPacket(parsing: $0) }
            guard parsed?.destination == packet.source else { fatalError("an answer that is no packet") }
        }
        for offload in [
            PacketOffload.none, PacketOffload(isChecksumPartial: true),
            PacketOffload(isChecksumPartial: true, segmentSize: size),
        ] {
            check(offload, of: packet, view)
        }
        packet.clampSegmentSize(in: bytes, to: size)
        let hasHops = packet.decrementHopLimit(in: bytes)
        guard let changed = try? IPPacket(parsing: view) else { fatalError("\(packet) does not read back") }
        precondition(changed.hopLimit == (hasHops ? packet.hopLimit - 1 : packet.hopLimit))
        return 0
    }
}

extension FuzzTarget {
    /// Streams of packets of other agents, in both forms: what comes in two pieces is what comes in one, and what leaves in one batch are
    /// the packets that went in, however they joined.
    ///
    /// The first byte chooses the form, the second where the stream is cut.
    static let packetStream = FuzzTarget(name: "packet-stream") { data, count in
        let input = UnsafeRawBufferPointer(start: data, count: count)
        guard input.count > 2 else { return 0 }
        let form: PacketChannel.Form = input[0] & 1 == 0 ? .framed : .original
        let bytes = ByteBuffer(bytes: input[2...])
        var rest = bytes
        guard let first = rest.readSlice(length: min(Int(input[1]), bytes.readableBytes)) else { return 0 }
        let whole = packets(of: [bytes], form)
        let cut = packets(of: [first, rest], form)
        guard whole.packets == cut.packets, whole.isBroken == cut.isBroken else { fatalError("a cut changes a stream") }
        checkBatch(of: whole.packets)
        return 0
    }
}

private struct HandedPacket: Equatable {
    var bytes: [UInt8]
    var offload: PacketOffload

    /// The packets that it stands for, without the number for parts and the sum over it, which those that join get anew; nil if it is
    /// none that a device would hand over.
    var segments: [[UInt8]]? {
        self.bytes.withUnsafeBytes { bytes in
            guard let packet = try? IPPacket(parsing: bytes),
                let segments = try? PacketSegments(self.offload, of: packet, bytes)
            else { return nil }
            return (0..<segments.count).map { index in
                var room = [UInt8](repeating: 0, count: segments.maximumLength)
                let length = room.withUnsafeMutableBytes { segments.write(index, of: bytes, to: $0) }
                if packet.family == .v4 { for offset in [4, 5, 10, 11] { room[offset] = 0 } }
                return Array(room[..<length])
            }
        }
    }
}

private func checkBatch(of all: [HandedPacket]) {
    var batch = FrameBatch()
    var expected: [[UInt8]] = []
    for handed in all {
        guard let segments = handed.segments else { continue }
        expected += segments
        handed.bytes.withUnsafeBytes { bytes in
            if let packet = try? IPPacket(parsing: bytes) { batch.append(packet, bytes, handed.offload) }
        }
    }
    let (joined, isBroken) = packets(of: [batch.bytes], .framed)
    guard !isBroken, joined.flatMap({ $0.segments ?? [] }) == expected else { fatalError("a batch changes packets") }
}

/// The packets that come before the end of a stream, or before what breaks it.
private func packets(of pieces: [ByteBuffer], _ form: PacketChannel.Form) -> (packets: [HandedPacket], isBroken: Bool) {
    var stream = PacketStream(form: form)
    var packets: [HandedPacket] = []
    do {
        for piece in pieces { try stream.take(piece) { packets.append(HandedPacket(bytes: Array($0), offload: $1)) } }
        return (packets, false)
    } catch {
        return (packets, true)
    }
}

/// Of a header that reads back as what it was made of, and of segments that are packets and carry as much as the whole.
private func check(_ offload: PacketOffload, of packet: IPPacket, _ bytes: UnsafeRawBufferPointer) {
    guard let header = try? VirtioNetHeader(offload, of: packet, bytes) else { return }
    guard (try? header.offload(of: packet, bytes)) == offload else { fatalError("another offload is read") }
    guard let segments = try? PacketSegments(offload, of: packet, bytes) else { fatalError("no segments of \(packet)") }
    let room = UnsafeMutableRawBufferPointer.allocate(byteCount: segments.maximumLength, alignment: 8)
    defer { room.deallocate() }
    for index in 0..<segments.count {
        let length = segments.write(index, of: bytes, to: room)
        let segment = UnsafeRawBufferPointer(rebasing: room[..<length])
        guard (try? IPPacket(parsing: segment))?.destination == packet.destination else {
            fatalError("segment \(index) of \(packet) is no packet")
        }
    }
}
