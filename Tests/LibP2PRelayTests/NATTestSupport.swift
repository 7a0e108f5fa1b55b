import LibP2P
import Logging
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity

/// A literal address.
func addr(_ text: String) -> Multiaddr {
    guard let address = try? Multiaddr(text) else { preconditionFailure("no multiaddr: \(text)") }
    return address
}

extension PeerID {
    static var random: PeerID { KeyPair.generate().peerID }
}

/// A running host on loopback.
func natHost(_ listen: [String], _ configure: (inout HostConfiguration) -> Void = { _ in }) async throws -> Host {
    var configuration = HostConfiguration(listenAddresses: listen.map(addr))
    configuration.identifyPushDelay = .milliseconds(10)
    configure(&configuration)
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let host = try Host(
        identity: .generate(),
        configuration: configuration,
        group: MultiThreadedEventLoopGroup.singleton,
        logger: logger
    )
    host.add(transport: TCPTransport())
    try await host.start()
    return host
}

func withNATHosts(_ hosts: [Host], _ body: () async throws -> Void) async throws {
    do {
        try await body()
    } catch {
        for host in hosts { await host.shutdown(deadline: .now()) }
        throw error
    }
    for host in hosts { await host.shutdown(deadline: .now()) }
}
