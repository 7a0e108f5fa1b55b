import PacketWire

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
