import ByteStreams
import CLinux
import Glibc
import MeshCore
import NIOCore
import Synchronization

/// A socket of UDP by which any thread sends at once. What the socket has no room for is lost, as on any link: its buffer is the one
/// queue, which is bounded, and the kernel's fair queue behind it says what of it goes first.
final class DatagramSocket: Sendable {
    /// Datagrams of one length, but for the last, which may be shorter, to one address.
    struct Batch: Sendable {
        var bytes: ByteBuffer
        var segmentSize: Int
        var target: TransportAddress

        /// Datagrams.
        var count: Int { (self.bytes.readableBytes + self.segmentSize - 1) / max(1, self.segmentSize) }
    }

    /// Bytes that wait to be sent: a few batches, as a queue here adds nothing but delay to that of the device.
    private static let sendBuffer: CInt = 512 << 10
    /// Bytes that wait for the loop.
    private static let receiveBuffer: CInt = 4 << 20

    let port: UInt16
    private let descriptor: CInt
    /// The kernel, or the card, does not cut batches.
    private let cutsBatches: Atomic<Bool>

    /// Takes a port of all addresses of a family; 0 for any.
    init(_ family: IPFamily, port: UInt16) throws(IOError) {
        let descriptor = clinux_datagram_socket(
            family == .v4 ? AF_INET : AF_INET6,
            port,
            Self.sendBuffer,
            Self.receiveBuffer
        )
        guard descriptor >= 0 else { throw IOError(errnoCode: errno, reason: "cannot take port \(port) of UDP") }
        self.descriptor = descriptor
        self.cutsBatches = Atomic(!System.supportsUDPSegmentationOffload)
        var address = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let bound = withUnsafeMutableBytes(of: &address) { bytes -> UInt16 in
            // The port stands at the same place in both families.
            guard let start = bytes.baseAddress,
                getsockname(descriptor, start.assumingMemoryBound(to: sockaddr.self), &length) == 0
            else { return 0 }
            return UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
        }
        self.port = bound
    }

    deinit { close(self.descriptor) }

    /// Another descriptor of the socket, to be closed by whoever asks; negative if there is none.
    func duplicate() -> CInt { fcntl(self.descriptor, F_DUPFD_CLOEXEC, 0) }

    /// Sends a batch.
    /// - Returns: 0, or why it is lost: `EAGAIN` if the socket is full.
    func send(_ batch: Batch) -> CInt {
        let target = SocketAddress(batch.target)
        return batch.bytes.withUnsafeReadableBytes { bytes in
            guard batch.count > 1 else { return self.send(bytes, bytes.count, target) }
            if !self.cutsBatches.load(ordering: .relaxed) {
                let error = self.send(bytes, batch.segmentSize, target)
                // What a card that computes no checksums says.
                guard error == EIO else { return error }
                self.cutsBatches.store(true, ordering: .relaxed)
            }
            var lost: CInt = 0
            for start in stride(from: 0, to: bytes.count, by: batch.segmentSize) {
                let end = min(start + batch.segmentSize, bytes.count)
                let error = self.send(UnsafeRawBufferPointer(rebasing: bytes[start..<end]), end - start, target)
                if error != 0 { lost = error }
            }
            return lost
        }
    }

    private func send(_ bytes: UnsafeRawBufferPointer, _ segmentSize: Int, _ target: SocketAddress) -> CInt {
        target.withSockAddr { address, length in
            clinux_send_datagrams(
                self.descriptor,
                bytes.baseAddress,
                bytes.count,
                UInt16(clamping: segmentSize),
                address,
                socklen_t(length)
            )
        }
    }
}
