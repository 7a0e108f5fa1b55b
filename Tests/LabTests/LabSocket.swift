import Glibc
import MeshCore

@testable import NetLab

/// A blocking IPv4 socket of a lab's host, for what stock tools cannot show. Every call ends within its limit.
final class LabSocket {
    struct Failure: Error, CustomStringConvertible {
        var call: String
        var number: Int32
        var description: String { "\(self.call): \(NetLab.describe(errno: self.number))" }
    }

    private var descriptor: Int32

    convenience init(_ node: NodeLab, on host: String, _ transport: TransportProtocol) throws {
        try self.init(node.lab, on: host, transport)
    }

    /// - Parameter seconds: the limit of each call.
    init(_ lab: Lab, on host: String, _ transport: TransportProtocol, within seconds: Int = 5) throws {
        let type = transport == .udp ? SOCK_DGRAM : SOCK_STREAM
        self.descriptor = try lab.withNetwork(of: host) {
            socket(AF_INET, Int32(type.rawValue | SOCK_CLOEXEC.rawValue), 0)
        }
        guard self.descriptor >= 0 else { throw Failure(call: "socket", number: errno) }
        var limit = timeval(tv_sec: seconds, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(self.descriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    deinit { if self.descriptor >= 0 { close(self.descriptor) } }

    func bind(_ address: String, _ port: UInt16) throws {
        var isOn: Int32 = 1
        setsockopt(self.descriptor, SOL_SOCKET, SO_REUSEADDR, &isOn, socklen_t(MemoryLayout<Int32>.size))
        try Self.withAddress(address, port) { pointer, length in
            guard Glibc.bind(self.descriptor, pointer, length) == 0 else { throw Failure(call: "bind", number: errno) }
        }
    }

    /// Leaves the socket to another owner.
    func release() -> Int32 {
        defer { self.descriptor = -1 }
        return self.descriptor
    }

    func connect(_ address: String, _ port: UInt16) throws {
        try Self.withAddress(address, port) { pointer, length in
            guard Glibc.connect(self.descriptor, pointer, length) == 0 else {
                throw Failure(call: "connect", number: errno)
            }
        }
    }

    func send(_ bytes: some Sequence<UInt8>) throws {
        var bytes = Array(bytes)[...]
        repeat {
            let count = bytes.withUnsafeBytes {
                Glibc.send(self.descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count >= 0 else { throw Failure(call: "send", number: errno) }
            bytes = bytes.dropFirst(count)
        } while !bytes.isEmpty
    }

    func send(_ bytes: some Sequence<UInt8>, to address: String, _ port: UInt16) throws {
        let bytes = Array(bytes)
        try Self.withAddress(address, port) { pointer, length in
            guard sendto(self.descriptor, bytes, bytes.count, 0, pointer, length) == bytes.count else {
                throw Failure(call: "sendto", number: errno)
            }
        }
    }

    /// What comes next: a datagram, or some bytes of a stream; empty at its end.
    func receive() throws -> [UInt8] { try self.receiveFrom().bytes }

    /// With the address that it came from.
    func receiveFrom() throws -> (bytes: [UInt8], source: String) {
        var bytes = [UInt8](repeating: 0, count: 65_536)
        var source = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let count = withUnsafeMutablePointer(to: &source) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                recvfrom(self.descriptor, &bytes, bytes.count, 0, $0, &length)
            }
        }
        guard count >= 0 else { throw Failure(call: "recv", number: errno) }
        let address = IPv4Address(rawValue: UInt32(bigEndian: source.sin_addr.s_addr))
        return (Array(bytes[..<count]), "\(address):\(UInt16(bigEndian: source.sin_port))")
    }

    func receive(count: Int) throws -> [UInt8] {
        var all: [UInt8] = []
        while all.count < count {
            let bytes = try self.receive()
            if bytes.isEmpty { break }
            all += bytes
        }
        return all
    }

    func receiveAll() throws -> [UInt8] { try self.receive(count: .max) }

    func finishWriting() { shutdown(self.descriptor, Int32(SHUT_WR)) }

    /// Sends text as one datagram and returns the answer, without its newline.
    func ask(_ text: String) throws -> String {
        try self.send(text.utf8)
        return String(decoding: try self.receive(), as: UTF8.self).trimmed
    }

    private static func withAddress(
        _ address: String,
        _ port: UInt16,
        _ body: (UnsafePointer<sockaddr>, socklen_t) throws -> Void
    ) throws {
        guard let parsed = IPv4Address(address) else { throw Failure(call: "address \(address)", number: EINVAL) }
        var socketAddress = sockaddr_in()
        socketAddress.sin_family = sa_family_t(AF_INET)
        socketAddress.sin_port = port.bigEndian
        socketAddress.sin_addr.s_addr = parsed.rawValue.bigEndian
        try withUnsafePointer(to: socketAddress) {
            try $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                try body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }
}
