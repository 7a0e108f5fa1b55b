public import LibP2P
public import LibP2PRelay
public import Logging

/// A host on a simulated machine with what it takes to be reached through relays and to do without them.
public struct RelayedPeer: Sendable {
    public let host: Host
    public let client: RelayClient
    public let puncher: HolePuncher
    private let observed: ObservedAddresses

    public init(
        on machine: Machine,
        relays: RelayClientConfiguration = RelayClientConfiguration(),
        punching: HolePunchConfiguration = HolePunchConfiguration(),
        logger: Logger = Logger(label: "peer", factory: { _ in SwiftLogNoOpLogHandler() }),
        _ configure: (inout HostConfiguration) -> Void = { _ in }
    ) throws {
        self.host = try machine.host(logger: logger, configure)
        self.client = RelayClient(host: self.host, configuration: relays, logger: logger)
        self.observed = ObservedAddresses(host: self.host)
        self.puncher = HolePuncher(host: self.host, observed: self.observed, configuration: punching)
    }

    /// Without waiting for a relay.
    public func start(relays: [RelayCandidate]) async throws {
        self.observed.start()
        self.puncher.start()
        try await self.host.start()
        self.client.start()
        self.client.setCandidates(relays)
    }

    /// All but the host.
    public func stop() {
        self.client.stop()
        self.puncher.stop()
        self.observed.stop()
    }

    public func directConnection(to other: RelayedPeer) -> Connection? {
        self.host.connections(to: other.host.peerID).first { !$0.isRelayed && $0.isOpen }
    }
}
