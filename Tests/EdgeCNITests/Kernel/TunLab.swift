import Glibc
import MeshTesting
import PacketWire
import Synchronization

@testable import LinuxNetwork

/// Two network namespaces, each with a TUN device, and the packets of each brought to the other by the test.
final class TunLab: Sendable {
    /// How packets that stand for several get to the other side.
    enum Form: Sendable, CaseIterable {
        /// As they are.
        case large
        /// Cut and summed, for a peer that cannot do that.
        case cut
    }

    struct Counts: Sendable {
        var packets = 0
        /// Of these, those that stood for several.
        var large = 0
        var longest = 0
        var refused: [String] = []
    }

    let name = "emu\(getpid())x\(UInt16.random(in: 0...UInt16.max))"
    let devices: [TunDevice]
    private let isStopped = Atomic(false)
    private let state = Mutex(Counts())

    var counts: Counts { self.state.withLock { $0 } }

    init(queues: Int = 2, mtu: Int = 1400) throws {
        guard geteuid() == 0 else { throw KernelTestError(message: "kernel tests need root: run them with sudo") }
        // A container may lack the file of a device that its kernel has.
        try shell("[ -e /dev/net/tun ] || { mkdir -p /dev/net; mknod -m 600 /dev/net/tun c 10 200; }; [ -e /dev/net/tun ]")
        var devices: [TunDevice] = []
        for side in 0...1 {
            let namespace = "\(self.name)\(side)"
            try shell("ip netns add \(namespace) && ip -n \(namespace) link set lo up")
            try shell("ip -n \(namespace) addr add 10.7\(side).0.1/32 dev lo")
            try shell("ip -n \(namespace) addr add fd07:\(side)::1/128 dev lo nodad")
            devices.append(
                try NetworkNamespace(named: namespace).run {
                    try TunDevice(name: "edge_tun0", queues: queues, mtu: mtu)
                }
            )
        }
        self.devices = devices
    }

    deinit { _ = try? shell("ip netns del \(self.name)0; ip netns del \(self.name)1") }

    /// Runs `body` in the namespace of a side.
    func run<Value: Sendable>(on side: Int, _ body: @escaping @Sendable () throws -> Value) throws -> Value {
        try NetworkNamespace(named: "\(self.name)\(side)").run(body)
    }

    func stop() { self.isStopped.store(true, ordering: .relaxed) }

    /// Carries packets until `stop`. Blocks.
    func carry(_ form: Form) {
        let queues = self.devices.enumerated().flatMap { side, device in device.queues.map { (side, $0) } }
        var polls = queues.map { pollfd(fd: $0.1, events: Int16(POLLIN), revents: 0) }
        var slab = [UInt8](repeating: 0, count: VirtioNetHeader.length + 65_535)
        while !self.isStopped.load(ordering: .relaxed) {
            guard poll(&polls, nfds_t(polls.count), 20) > 0 else { continue }
            for (index, (side, descriptor)) in queues.enumerated() where polls[index].revents != 0 {
                for _ in 0..<64 {
                    let count = read(descriptor, &slab, slab.count)
                    guard count > 0 else { break }
                    let other = self.devices[1 - side].queues
                    do {
                        try self.forward(slab[..<count], form, to: other[index % other.count])
                    } catch {
                        self.state.withLock { $0.refused.append("\(error) \(Array(slab[..<min(count, 60)]))") }
                    }
                }
            }
        }
    }

    private func forward(_ bytes: ArraySlice<UInt8>, _ form: Form, to descriptor: Int32) throws {
        try bytes.withUnsafeBytes { bytes in
            let given = try VirtioNetHeader(parsing: bytes)
            let body = UnsafeRawBufferPointer(rebasing: bytes[VirtioNetHeader.length...])
            let packet = try IPPacket(parsing: body)
            let offload = try given.offload(of: packet, body)
            self.state.withLock { counts in
                counts.packets += 1
                if offload.segmentSize > 0 { counts.large += 1 }
                counts.longest = max(counts.longest, packet.length)
            }
            switch form {
            case .large:
                try Self.write(try VirtioNetHeader(offload, of: packet, body), body, to: descriptor)
            case .cut:
                let segments = try PacketSegments(offload, of: packet, body)
                var room = [UInt8](repeating: 0, count: segments.maximumLength)
                for index in 0..<segments.count {
                    try room.withUnsafeMutableBytes { room in
                        let length = segments.write(index, of: body, to: room)
                        let segment = UnsafeRawBufferPointer(rebasing: room[..<length])
                        let packet = try IPPacket(parsing: segment)
                        try Self.write(try VirtioNetHeader(.none, of: packet, segment), segment, to: descriptor)
                    }
                }
            }
        }
    }

    private static func write(
        _ header: VirtioNetHeader,
        _ packet: UnsafeRawBufferPointer,
        to descriptor: Int32
    ) throws {
        var head = [UInt8](repeating: 0, count: VirtioNetHeader.length)
        head.withUnsafeMutableBytes { header.write(to: $0) }
        try TunDevice.write(head, packet, to: descriptor)
    }
}

struct KernelTestError: Error { var message: String }
