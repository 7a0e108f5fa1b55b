import LinuxNetwork
import MeshCore
import PacketWire

/// Decides what becomes of each packet between the device and the tunnel. No I/O; confined to one loop.
struct PacketForwarder {
    /// Why a packet goes no further.
    enum Drop: String, CaseIterable, Sendable {
        /// No packet, or one that is not what its device or its peer says of it.
        case malformed
        /// To this node or to its own networks, which have other ways.
        case local
        /// To no address of the mesh.
        case outside
        /// To an address of the mesh that nobody is known to have.
        case unknownNode
        /// From an address that is not of a pod of this node: the other side would take it from nobody.
        case foreignSource
        /// From a peer that does not own the source.
        case spoofed
        /// From a peer, to an address that is not on this node.
        case misdirected
        /// To a node that cannot be reached now.
        case unreachable
        /// Behind too many others to the same node.
        case overflow
        /// In a form that the agent of the other node does not know: IPv6 to v1.17.
        case unsupported
        /// The device did not take it.
        case device
    }

    struct Counters: Sendable, Hashable {
        var sentPackets: UInt64 = 0
        var sentBytes: UInt64 = 0
        var receivedPackets: UInt64 = 0
        var receivedBytes: UInt64 = 0
        var clampedSegmentSizes: UInt64 = 0
        /// Packets that tell their receivers of congestion.
        var markedPackets: UInt64 = 0
        /// Senders that were told why their packet is lost, and those that were not because there were too many.
        var answers: UInt64 = 0
        var answersWithheld: UInt64 = 0
        var drops: [Drop: UInt64] = [:]
    }

    /// A packet of the device that goes to another node.
    struct Sending: Equatable {
        var node: String
        var packet: IPPacket
        var offload: PacketOffload
        var flow: UInt32
        /// It opens a connection of TCP: what it says of the size of segments is to be bounded.
        var isOpening: Bool
    }

    /// What to do with a packet of the device.
    enum Outgoing: Equatable {
        case send(Sending)
        /// A packet for its sender, to be written to the device.
        case answer([UInt8])
        case drop(Drop)
    }

    /// What to do with a packet of a peer.
    enum Incoming {
        /// Write it to the device behind this header.
        case deliver(VirtioNetHeader)
        /// The device takes each of these only.
        case cut(PacketSegments)
        case drop(Drop)
    }

    /// How many senders are told in a second, and at once.
    static let answerRate = 100.0
    static let answerBurst = 50.0

    var routes: PodRoutes
    private(set) var counters = Counters()
    private let mtu: Int
    private let offloads: TunDevice.Offloads
    private var answerBucket: TokenBucket

    init(
        routes: PodRoutes,
        mtu: Int,
        offloads: TunDevice.Offloads,
        now: MonotonicTime
    ) {
        self.routes = routes
        self.mtu = mtu
        self.offloads = offloads
        self.answerBucket = TokenBucket(rate: Self.answerRate, burst: Self.answerBurst, now: now)
    }

    /// Judges what was read from the device: a header and a packet.
    mutating func outgoing(_ bytes: UnsafeRawBufferPointer, now: @autoclosure () -> MonotonicTime) -> Outgoing {
        let packet: IPPacket
        let offload: PacketOffload
        let body = UnsafeRawBufferPointer(rebasing: bytes.dropFirst(VirtioNetHeader.length))
        do {
            let header = try VirtioNetHeader(parsing: bytes)
            packet = try IPPacket(parsing: body)
            offload = try header.offload(of: packet, body)
        } catch {
            return .drop(self.drop(.malformed))
        }
        switch self.routes.place(of: packet.destination) {
        case .node(let node):
            guard self.routes.place(of: packet.source) == .local else { return .drop(self.drop(.foreignSource)) }
            self.counters.sentPackets &+= 1
            self.counters.sentBytes &+= UInt64(packet.length)
            return .send(
                Sending(
                    node: node,
                    packet: packet,
                    offload: offload,
                    flow: packet.flowHash(in: body),
                    isOpening: packet.opensConnection(in: body)
                )
            )
        case .local:
            return .drop(self.drop(.local))
        case .outside:
            return .drop(self.drop(.outside))
        case .unknown:
            self.drop(.unknownNode)
            return self.answer(.unreachable, to: packet, body, now: now()).map { .answer($0) } ?? .drop(.unknownNode)
        }
    }

    /// Bounds the segments of the connection that a packet opens, in a copy of it.
    mutating func clamp(_ sending: Sending, in bytes: UnsafeMutableRawBufferPointer) {
        let limit = IPPacket.maximumSegmentSize(mtu: self.mtu, isVersion6: sending.packet.family == .v6)
        if sending.packet.clampSegmentSize(
            in: bytes,
            to: limit,
            isChecksumPartial: sending.offload.isChecksumPartial
        ) {
            self.counters.clampedSegmentSizes &+= 1
        }
    }

    /// Tells the sender of a packet of the device why it is lost, if senders may be told now.
    mutating func answer(
        _ error: ICMPError,
        to packet: IPPacket,
        _ bytes: UnsafeRawBufferPointer,
        now: MonotonicTime
    ) -> [UInt8]? {
        // In the name of its destination: the kernel takes no packet from a device with a source that it would look for elsewhere, as
        // it would for the addresses of this node.
        guard self.routes.place(of: packet.source) == .local,
            let answer = error.answer(to: packet, bytes, from: packet.destination)
        else { return nil }
        guard self.answerBucket.take(now: now) else {
            self.counters.answersWithheld &+= 1
            return nil
        }
        self.counters.answers &+= 1
        return answer
    }

    /// Judges a packet that the agent of `node` sent.
    mutating func incoming(_ bytes: UnsafeRawBufferPointer, _ offload: PacketOffload, from node: String) -> Incoming {
        do {
            let packet = try IPPacket(parsing: bytes)
            guard self.routes.permits(source: packet.source, from: node) else { return .drop(self.drop(.spoofed)) }
            guard self.routes.place(of: packet.destination) == .local else {
                return .drop(self.drop(.misdirected))
            }
            let header = try VirtioNetHeader(offload, of: packet, bytes)
            let isTaken = offload.segmentSize == 0 || self.offloads.contains(packet.isDatagram ? .udp : .tcp)
            let incoming: Incoming =
                isTaken ? .deliver(header) : .cut(try PacketSegments(offload, of: packet, bytes))
            self.counters.receivedPackets &+= 1
            self.counters.receivedBytes &+= UInt64(packet.length)
            return incoming
        } catch {
            return .drop(self.drop(.malformed))
        }
    }

    mutating func countMarked() { self.counters.markedPackets &+= 1 }

    /// Counts packets that go no further.
    @discardableResult
    mutating func drop(_ reason: Drop, count: UInt64 = 1) -> Drop {
        self.counters.drops[reason, default: 0] &+= count
        return reason
    }
}
