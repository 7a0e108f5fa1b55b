import CLinux
import Glibc

/// A layer-3 device of the kernel whose packets go to and come from this process.
///
/// It lives as long as a queue of it is open, so nothing of it stays after a crash: its addresses and the routes over it go with it.
/// In the network namespace of the thread that makes it.
public final class TunDevice: Sendable {
    /// What the kernel may leave undone on packets that it hands over.
    public struct Offloads: OptionSet, Hashable, Sendable {
        public let rawValue: UInt8
        /// Large TCP segments, and checksums.
        public static let tcp = Offloads(rawValue: 1)
        /// Large UDP datagrams that stand for several.
        public static let udp = Offloads(rawValue: 2)

        public init(rawValue: UInt8) { self.rawValue = rawValue }
    }

    public static let maximumQueues = 8

    public let name: String
    /// The kernel's number of the device.
    public let index: Int32
    public let offloads: Offloads
    /// A descriptor for each queue, which does not block and belongs to this object. What is read is one packet with a
    /// `virtio_net_hdr` of ten bytes before it; the kernel keeps the packets of a flow in one queue.
    public let queues: [Int32]

    /// Makes the device, with `mtu` bytes, and sets it up.
    /// - Throws: also if another process has a device of this name.
    public init(name: String, queues count: Int, mtu: Int) throws {
        guard !name.isEmpty, name.utf8.count < 16 else {
            throw LinuxNetworkError(.unsupported, "device name \"\(name)\" must have 1 to 15 characters")
        }
        guard (1...Self.maximumQueues).contains(count) else {
            throw LinuxNetworkError(.unsupported, "\(count) queues of \(name); 1 to \(Self.maximumQueues) are possible")
        }
        // A second process would get queues of the first one's device, and half of its packets.
        guard try !RouteNetlink.links().contains(where: { $0.name == name }) else {
            throw LinuxNetworkError(
                .system(EEXIST),
                "there is a device \(name) already: another agent runs, or somebody made it; remove it"
            )
        }
        var opened: [Int32] = []
        do {
            var offloads = Offloads(rawValue: 3)
            for _ in 0..<count {
                let descriptor = clinux_tun_open(name)
                guard descriptor >= 0 else {
                    throw systemError("cannot make the device \(name) (is /dev/net/tun there, and the module tun?)")
                }
                opened.append(descriptor)
                offloads.formIntersection(
                    Offloads(rawValue: UInt8(truncatingIfNeeded: clinux_tun_set_offloads(descriptor)))
                )
            }
            guard let link = try RouteNetlink.links().first(where: { $0.name == name }) else {
                throw LinuxNetworkError(.system(ENODEV), "device \(name) vanished")
            }
            try RouteNetlink.setUp(link, mtu: mtu)
            self.index = link.index
            self.offloads = offloads
        } catch {
            for descriptor in opened { close(descriptor) }
            throw error
        }
        self.name = name
        self.queues = opened
    }

    /// Writes a packet behind its header to a queue of a device. Never waits: a packet that the device cannot take now is lost.
    public static func write(
        _ header: [UInt8],
        _ packet: UnsafeRawBufferPointer,
        to queue: Int32
    ) throws(LinuxNetworkError) {
        let status = header.withUnsafeBytes { header in
            clinux_tun_write(queue, header.baseAddress, header.count, packet.baseAddress, packet.count)
        }
        guard status == 0 else { throw systemError("cannot write a packet of \(packet.count) bytes to the device") }
    }

    /// Reads a packet behind its header from a queue of a device; what does not fit into `target` of it is lost.
    /// - Returns: how long both are; nil if there is none now.
    public static func read(_ target: UnsafeMutableRawBufferPointer, from queue: Int32) -> Int? {
        var count: Int
        repeat { count = Glibc.read(queue, target.baseAddress, target.count) } while count < 0 && errno == EINTR
        return count > 0 ? count : nil
    }

    deinit {
        for descriptor in self.queues { close(descriptor) }
    }
}
