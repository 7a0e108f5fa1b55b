import MeshCore
import NIOCore
import PacketDatagrams

@testable import EdgeTunnel

extension FuzzTarget {
    /// What a peer says before datagrams are sent. What is read is written in one form that reads back the same, and an agreement on it
    /// makes this side send no more than its bounds let it.
    static let datagramHello = FuzzTarget(name: "datagram-hello") { data, count in
        let bytes = ByteBuffer(bytes: UnsafeBufferPointer(start: data, count: count))
        guard let hello = try? DatagramHello(bytes) else { return 0 }
        guard (try? DatagramHello(hello.buffer)) == hello else { fatalError("\(hello) does not read back") }
        let now = MonotonicTime(nanoseconds: 0)
        var link = DatagramLink(.acceptor, of: parties, prefersAES: true, now: now)
        guard (try? link.received(hello: bytes, index: 1, addresses: [], now: now)) != nil else { return 0 }
        var generator = SeededGenerator(seed: 1)
        precondition(link.wake(now: now, using: &generator).count <= DatagramHello.maximumAddresses)
        precondition(link.maximumPacket == nil)
        return 0
    }

    /// Datagrams for an index that is in use: without the key none is taken, and nothing is answered.
    static let sealedDatagram = FuzzTarget(name: "sealed-datagram") { data, count in
        let now = MonotonicTime(nanoseconds: 0)
        let asked = DatagramExchange(index: 2, addresses: [], prefersAES: true).hello.buffer
        var link = DatagramLink(.acceptor, of: parties, prefersAES: true, now: now)
        guard (try? link.received(hello: asked, index: 1, addresses: [], now: now)) != nil else {
            fatalError("a good hello is refused")
        }
        var datagram = ByteBuffer(bytes: UnsafeBufferPointer(start: data, count: count))
        for index in [nil, UInt32(1)] {
            if let index, datagram.readableBytes >= 8 { datagram.setInteger(index, at: datagram.readerIndex + 4) }
            _ = DatagramSession.index(of: datagram)
            var plain = ByteBuffer()
            let received = datagram.withUnsafeReadableBytes {
                link.receive($0, from: TransportAddress(.v4(.loopback), 1), into: &plain, now: now)
            }
            precondition(received == .refused && plain.readableBytes == 0)
        }
        return 0
    }

    /// Frames of packets and messages between tunnels, in pieces: the same come of them however they are cut.
    static let packetFrames = FuzzTarget(name: "packet-frames") { data, count in
        guard count > 1, let step = data?[0] else { return 0 }
        let bytes = Array(UnsafeBufferPointer(start: data, count: count).dropFirst())
        precondition(cut(bytes, step: bytes.count) == cut(bytes, step: Int(step) + 1))
        return 0
    }
}

private let parties = DatagramParties(opener: [1], acceptor: [2])

/// The bytes of frames, then each message.
private func cut(_ bytes: [UInt8], step: Int) -> [[UInt8]] {
    var rest = bytes[...]
    var cutter = PacketFrameCutter()
    var cut: [[UInt8]] = [[]]
    while !rest.isEmpty {
        for piece in cutter.take(ByteBuffer(bytes: rest.prefix(step))) {
            switch piece {
            case .frames(let frames):
                // Flags that nobody knows are for the reader of the frames to refuse.
                frames.withUnsafeReadableBytes { PacketFrameCutter.forEachFrame(in: $0) { _, _, _ in } }
                cut[0] += Array(frames.readableBytesView)
            case .message(let message): cut.append(Array(message.readableBytesView))
            }
        }
        rest = rest.dropFirst(step)
    }
    return cut
}
