import Glibc
public import NIOCore

/// Keeps TCP between near peers from being paced.
///
/// A host may have chosen BBR, which sends at a pace. Unless the queueing discipline `fq` keeps that pace, which virtual devices
/// of pods and bridges do not have, the kernel sets a timer for each burst of 64 KiB. Over a round trip of microseconds that
/// gains nothing, and costs more than all else that TCP does for the bytes.
///
/// A socket that was paced once stays so, and how far its peer is shows only when it is connected. So sockets begin with a
/// congestion control that needs no pace, and those of far peers get what the host has chosen before they have sent anything. On
/// hosts whose choice paces nothing, nothing is done at all.
public struct CongestionControl: Sendable {
    /// What the sockets of this process have unless told otherwise.
    public static let ofHost = CongestionControl(hostChoice: Self.defaultName())

    /// Those that need no pace, the better first: a process may need a privilege for all but `reno`.
    static let unpaced = ["cubic", "reno"]
    /// A peer with a longer round trip is far.
    static let nearMicroseconds: UInt32 = 1000
    /// The kernel's bound of names, with the zero at the end.
    private static let nameBytes = 16

    private let hostChoice: String
    let isNeeded: Bool
    private let nearMicroseconds: UInt32

    init(hostChoice: String?, nearMicroseconds: UInt32 = Self.nearMicroseconds) {
        self.hostChoice = hostChoice ?? ""
        self.isNeeded = self.hostChoice.hasPrefix("bbr")
        self.nearMicroseconds = nearMicroseconds
    }

    /// Before a socket connects, or listens for those that it accepts. On the channel's loop.
    public func begin(_ channel: any Channel) {
        guard self.isNeeded else { return }
        self.withSocket(of: channel) { self.begin($0) }
    }

    /// Once a socket that began so is connected, before it is written to. On the channel's loop.
    public func settle(_ channel: any Channel) {
        guard self.isNeeded else { return }
        self.withSocket(of: channel) { self.settle($0) }
    }

    func begin(_ socket: CInt) {
        _ = Self.unpaced.contains { Self.setName($0, of: socket) }
    }

    func settle(_ socket: CInt) {
        var info = tcp_info()
        var length = socklen_t(MemoryLayout<tcp_info>.size)
        let isKnown = getsockopt(socket, CInt(IPPROTO_TCP), TCP_INFO, &info, &length) == 0 && info.tcpi_rtt > 0
        if !isKnown || info.tcpi_rtt > self.nearMicroseconds { _ = Self.setName(self.hostChoice, of: socket) }
    }

    private func withSocket(of channel: any Channel, _ body: (CInt) -> Void) {
        // A channel that is no socket, as in tests, has nothing to set.
        _ = try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self, body)
    }

    // MARK: System

    static func name(of socket: CInt) -> String? {
        var name = [UInt8](repeating: 0, count: Self.nameBytes)
        var length = socklen_t(name.count)
        guard getsockopt(socket, CInt(IPPROTO_TCP), TCP_CONGESTION, &name, &length) == 0 else { return nil }
        return String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
    }

    private static func setName(_ name: String, of socket: CInt) -> Bool {
        setsockopt(socket, CInt(IPPROTO_TCP), TCP_CONGESTION, name, socklen_t(name.utf8.count)) == 0
    }

    private static func defaultName() -> String? {
        let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        return self.name(of: descriptor)
    }
}
