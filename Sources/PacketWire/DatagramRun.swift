import MeshCore

/// Datagrams of one flow, one behind the other, as the one packet that a device with segmentation of UDP takes for them: the headers of
/// the first, and the payloads. All payloads are equally long, but that of the last may be shorter.
public struct DatagramRun: Sendable {
    /// `UDP_MAX_SEGMENTS` of kernels before 6.9: they take no packet that stands for more.
    public static let maximumCount = 64

    /// What the packet says of itself now.
    public private(set) var offload: PacketOffload
    /// Of the packet.
    public private(set) var length: Int
    /// Of IP and UDP.
    private let headersLength: Int
    private let upperOffset: Int
    private let payload: Int
    private let isVersion6: Bool
    private var count = 1
    private var isOpen = true

    /// Begins with a datagram; nil if none can follow it: one that is a part, or may be cut on its way and needs a number of its own for
    /// that (RFC 6864), or whose checksum is not left to the receiver.
    /// - Parameter bytes: of the packet.
    public init?(_ packet: IPPacket, _ offload: PacketOffload, _ bytes: UnsafeRawBufferPointer) {
        guard Self.isDatagram(packet, offload, bytes), !packet.isFragmentable else { return nil }
        self.offload = offload
        self.length = packet.length
        self.upperOffset = packet.payloadOffset
        self.headersLength = packet.payloadOffset + 8
        self.payload = packet.length - packet.payloadOffset - 8
        self.isVersion6 = packet.family == .v6
    }

    /// Whether a packet is the next datagram of the run.
    /// - Parameters:
    ///   - bytes: of the packet.
    ///   - run: of the run, from its first byte.
    public func isContinued(
        by packet: IPPacket,
        _ offload: PacketOffload,
        _ bytes: UnsafeRawBufferPointer,
        _ run: UnsafeRawBufferPointer
    ) -> Bool {
        let added = packet.length - self.headersLength
        guard self.isOpen, self.count < Self.maximumCount, packet.payloadOffset == self.upperOffset,
            added > 0, added <= self.payload, self.length + added <= 65_535, Self.isDatagram(packet, offload, bytes)
        else { return false }
        func isCommon(_ range: Range<Int>) -> Bool { bytes.part(range).elementsEqual(run.part(range)) }
        // All but lengths, the number for parts, and checksums.
        return self.isVersion6
            ? isCommon(0..<4) && isCommon(6..<(self.upperOffset + 4))
            : isCommon(0..<2) && isCommon(6..<10) && isCommon(12..<(self.upperOffset + 4))
    }

    /// Whether a packet is one whole datagram with a payload, whose checksum is left to the receiver.
    private static func isDatagram(
        _ packet: IPPacket,
        _ offload: PacketOffload,
        _ bytes: UnsafeRawBufferPointer
    ) -> Bool {
        packet.isDatagram && packet.fragment == nil && offload.isChecksumPartial && offload.segmentSize == 0
            && bytes.count == packet.length && packet.length > packet.payloadOffset + 8
            && Int(bytes.network(UInt16.self, at: packet.payloadOffset + 4)) == packet.length - packet.payloadOffset
    }

    /// Adds a packet that continues the run, whose payload was put behind it.
    /// - Parameters:
    ///   - length: of the packet that was added.
    ///   - run: of the run, from its first byte; its headers are changed.
    public mutating func add(length: Int, to run: UnsafeMutableRawBufferPointer) {
        let added = length - self.headersLength
        self.count += 1
        self.isOpen = added == self.payload
        self.offload.segmentSize = UInt16(clamping: self.payload)
        self.length += added
        let lengthOffset = self.isVersion6 ? 4 : 2
        let old = run.network(UInt16.self, at: lengthOffset)
        let new = old &+ UInt16(truncatingIfNeeded: added)
        run.set(new, at: lengthOffset)
        if !self.isVersion6 { run.set(InternetChecksum.updated(run.network(at: 10), from: old, to: new), at: 10) }
        let oldUpper = run.network(UInt16.self, at: self.upperOffset + 4)
        let newUpper = oldUpper &+ UInt16(truncatingIfNeeded: added)
        run.set(newUpper, at: self.upperOffset + 4)
        // The sum of the pseudo header, which is no complement as a checksum is.
        let sum = run.network(UInt16.self, at: self.upperOffset + 6)
        run.set(~InternetChecksum.updated(~sum, from: oldUpper, to: newUpper), at: self.upperOffset + 6)
    }
}
