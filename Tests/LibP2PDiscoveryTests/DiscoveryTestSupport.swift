import Glibc
import LibP2P
import Logging
import MeshCore
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Synchronization

@testable import LibP2PDiscovery

/// Numbers from a seed, as a host has them.
func seededNumbers(_ seed: UInt64) -> @Sendable () -> UInt64 {
    let generator = Generator(SeededGenerator(seed: seed))
    return { generator.state.withLock { $0.next() } }
}

private final class Generator: Sendable {
    let state: Mutex<SeededGenerator>
    init(_ generator: SeededGenerator) { self.state = Mutex(generator) }
}

func peer(_ number: UInt8) throws -> PeerID {
    try KeyPair(ed25519Seed: [UInt8](repeating: number, count: 32)).peerID
}

/// A peer ID that no key has.
func randomPeer(_ generator: inout SeededGenerator) throws -> PeerID {
    try PeerID(bytes: [0x12, 0x20] + (0..<32).map { _ in UInt8.random(in: .min ... .max, using: &generator) })
}

func seconds(_ value: Double) -> NIODeadline {
    .uptimeNanoseconds(1_000_000_000_000 + UInt64(value * 1e9))
}

func makeHost(
    listen: [String] = ["/ip4/127.0.0.1/tcp/0"],
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
) async throws -> Host {
    var configuration = HostConfiguration(listenAddresses: try listen.map { try Multiaddr($0) })
    configuration.identifyPushDelay = .milliseconds(20)
    // A machine that is busy with other things does not make a test fail.
    configuration.dial.privateTimeout = .seconds(60)
    configuration.handshakeTimeout = .seconds(60)
    configuration.identifyTimeout = .seconds(60)
    configuration.streamNegotiationTimeout = .seconds(60)
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let host = try Host(identity: .generate(), configuration: configuration, group: group, logger: logger)
    host.add(transport: TCPTransport())
    try await host.start()
    return host
}

func withHosts<Result>(_ hosts: [Host], body: () async throws -> Result) async throws -> Result {
    do {
        let result = try await body()
        for host in hosts { await host.shutdown(deadline: .now() + .seconds(1)) }
        return result
    } catch {
        for host in hosts { await host.shutdown(deadline: .now()) }
        throw error
    }
}
