import Glibc
import NIOCore
import NIOPosix
import Testing

@testable import ByteStreams

@Suite struct CongestionControlTests {
    /// Two TCP sockets of this host that are connected with each other.
    private final class Pair {
        let client: CInt
        let server: CInt

        /// - Parameter prepare: is given both sockets before they listen and connect.
        init(_ prepare: (CInt) -> Void) throws {
            let listener = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
            let client = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
            defer { close(listener) }
            prepare(listener)
            prepare(client)
            let results = try SocketAddress(ipAddress: "127.0.0.1", port: 0).withSockAddr { anyPort, size in
                var length = socklen_t(size)
                return try withUnsafeTemporaryAllocation(byteCount: size, alignment: 8) { bytes in
                    let address = try #require(bytes.baseAddress).assumingMemoryBound(to: sockaddr.self)
                    return [
                        bind(listener, anyPort, length), listen(listener, 8), getsockname(listener, address, &length),
                        connect(client, address, length),
                    ]
                }
            }
            self.client = client
            self.server = accept(listener, nil, nil)
            try #require(results == [0, 0, 0, 0] && self.server >= 0)
        }

        deinit {
            close(self.client)
            close(self.server)
        }
    }

    /// What a process may set depends on its privileges; `reno` is for all.
    private static let unpaced = ["cubic", "reno"]

    @Test func socketsOfNearPeersAreNotPaced() throws {
        let control = CongestionControl(hostChoice: "bbr", nearMicroseconds: .max)
        let pair = try Pair { control.begin($0) }
        control.settle(pair.client)
        control.settle(pair.server)
        for descriptor in [pair.client, pair.server] {
            #expect(Self.unpaced.contains(try #require(CongestionControl.name(of: descriptor))))
        }
    }

    @Test func socketsOfFarPeersHaveWhatTheHostHasChosen() throws {
        // Every system has `reno`; no round trip is shorter than a microsecond.
        let control = CongestionControl(hostChoice: "reno", nearMicroseconds: 0)
        let pair = try Pair { control.begin($0) }
        control.settle(pair.client)
        control.settle(pair.server)
        #expect(CongestionControl.name(of: pair.client) == "reno")
        #expect(CongestionControl.name(of: pair.server) == "reno")
    }

    @Test(arguments: ["cubic", "reno", "dctcp", "", nil])
    func aHostThatPacesNothingIsLeftAlone(_ choice: String?) async throws {
        #expect(!CongestionControl(hostChoice: choice).isNeeded)
    }

    @Test(arguments: ["bbr", "bbr2", "bbr3"])
    func aHostThatPacesIsNot(_ choice: String) async throws {
        #expect(CongestionControl(hostChoice: choice).isNeeded)
    }

    @Test func channelsAreFoundTheirSockets() async throws {
        let control = CongestionControl(hostChoice: "bbr", nearMicroseconds: .max)
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let listener = try await ServerBootstrap(group: loop)
            .serverChannelInitializer { channel in channel.eventLoop.makeCompletedFuture { control.begin(channel) } }
            .bind(host: "127.0.0.1", port: 0).get()
        let name = try await loop.submit {
            try listener.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) {
                CongestionControl.name(of: $0)
            }
        }.get()
        #expect(Self.unpaced.contains(try #require(name ?? nil)))
        try await listener.close()
    }
}
