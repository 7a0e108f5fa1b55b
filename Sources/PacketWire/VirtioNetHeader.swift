import MeshCore

/// `struct virtio_net_hdr` of linux/virtio_net.h, which precedes each packet of a TUN device that was opened with `IFF_VNET_HDR`.
/// Numbers are in the order of the machine.
public struct VirtioNetHeader: Hashable, Sendable {
    /// Bytes of the header.
    public static let length = 10

    /// How the segments of a large packet are to be cut.
    enum Segmentation: UInt8 {
        case none = 0
        case tcp4 = 1
        case tcp6 = 4
        case udp = 5
    }

    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
    private static let needsChecksum: UInt8 = 1
    /// `VIRTIO_NET_HDR_GSO_ECN`: the packet has TCP's CWR flag.
    private static let congestion: UInt8 = 0x80

    var flags: UInt8 = 0
    var type: UInt8 = 0
    /// A hint, which the kernel need not give.
    var headersLength: UInt16 = 0
    var segmentSize: UInt16 = 0
    var checksumStart: UInt16 = 0
    var checksumOffset: UInt16 = 0

    /// Of a packet on which nothing is left to be done.
    public init() {}

    /// Reads the header at the beginning of `bytes`.
    public init(parsing bytes: UnsafeRawBufferPointer) throws(PacketError) {
        guard bytes.count >= Self.length else { throw PacketError(.truncated) }
        self.flags = bytes[0]
        self.type = bytes[1]
        self.headersLength = bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
        self.segmentSize = bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self)
        self.checksumStart = bytes.loadUnaligned(fromByteOffset: 6, as: UInt16.self)
        self.checksumOffset = bytes.loadUnaligned(fromByteOffset: 8, as: UInt16.self)
    }

    /// The header that tells a device of the packet's offloads.
    public init(_ offload: PacketOffload, of packet: IPPacket, _ bytes: UnsafeRawBufferPointer) throws(PacketError) {
        let upper = try offload.upperLayer(of: packet, bytes)
        guard let upper else { return }
        if offload.isChecksumPartial {
            self.flags = Self.needsChecksum
            self.checksumStart = UInt16(clamping: packet.payloadOffset)
            self.checksumOffset = UInt16(clamping: upper.checksumOffset)
        }
        guard offload.segmentSize > 0 else { return }
        self.segmentSize = offload.segmentSize
        self.headersLength = UInt16(clamping: upper.headersLength)
        if packet.protocolNumber == IPPacket.udp {
            self.type = Segmentation.udp.rawValue
        } else {
            self.type = (packet.family == .v4 ? Segmentation.tcp4 : .tcp6).rawValue
            if upper.hasCongestionFlag { self.type |= Self.congestion }
        }
    }

    /// Writes the header to the beginning of `bytes`.
    public func write(to bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= Self.length)
        bytes[0] = self.flags
        bytes[1] = self.type
        bytes.storeBytes(of: self.headersLength, toByteOffset: 2, as: UInt16.self)
        bytes.storeBytes(of: self.segmentSize, toByteOffset: 4, as: UInt16.self)
        bytes.storeBytes(of: self.checksumStart, toByteOffset: 6, as: UInt16.self)
        bytes.storeBytes(of: self.checksumOffset, toByteOffset: 8, as: UInt16.self)
    }

    /// What the device left to be done on the packet behind the header.
    public func offload(of packet: IPPacket, _ bytes: UnsafeRawBufferPointer) throws(PacketError) -> PacketOffload {
        guard let segmentation = Segmentation(rawValue: self.type & ~Self.congestion) else {
            throw PacketError(.offload)
        }
        let offload = PacketOffload(
            isChecksumPartial: self.flags & Self.needsChecksum != 0,
            segmentSize: segmentation == .none ? 0 : self.segmentSize
        )
        guard segmentation == .none || self.segmentSize > 0 else { throw PacketError(.offload) }
        let upper = try offload.upperLayer(of: packet, bytes)
        let fits =
            switch segmentation {
            case .none: true
            case .udp: packet.protocolNumber == IPPacket.udp
            case .tcp4: packet.protocolNumber == IPPacket.tcp && packet.family == .v4
            case .tcp6: packet.protocolNumber == IPPacket.tcp && packet.family == .v6
            }
        guard fits else { throw PacketError(.offload) }
        if offload.isChecksumPartial, let upper {
            guard Int(self.checksumStart) == packet.payloadOffset, Int(self.checksumOffset) == upper.checksumOffset
            else { throw PacketError(.offload) }
        }
        return offload
    }
}
