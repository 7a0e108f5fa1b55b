import KubeModel
import LibP2P
import LibP2PRelay
import Logging
import MeshCore
import Multiformats
import NIOCore
import ServiceCatalog
import Synchronization

extension MeshNode {
    /// Names that are derived before other events of the loop have their turn.
    private static let derivationsPerTurn = 16
    private static let relaySource = "configured"

    // MARK: Settings

    /// Takes over what can change while it runs: relays and whether this node is one, targets, liveness.
    func update(_ settings: TunnelSettings) {
        self.state.withLock { state in
            state.settings.relays = settings.relays
            state.settings.relayService = settings.relayService
            state.settings.targets = settings.targets
            state.settings.livenessInterval = settings.livenessInterval
            state.settings.livenessTimeout = settings.livenessTimeout
        }
        var liveness = self.paths.configuration.liveness
        liveness.interval = settings.livenessInterval
        liveness.timeout = settings.livenessTimeout
        self.paths.update(liveness)
        self.access.apply(settings.targets)
        self.relaysChanged()
        self.followRole()
    }

    /// Begins or ends to relay for others, as the settings and this node's reachability have it.
    func followRole() {
        let settings = self.settings
        let own = settings.relays.first { $0.nodeName == settings.nodeName }
        self.host.advertise(own.map { settings.addresses(of: $0) } ?? [], source: Self.relaySource)
        let isWanted = self.state.withLock { state in
            !state.isStopped
                && (settings.isConfiguredRelay || (settings.relayService == .volunteer && state.isReachable))
        }
        var configuration = RelayServiceConfiguration()
        configuration.maximumReservations = self.maximumNodes
        configuration.maximumReservationsPerAddress = max(1, self.maximumNodes / 2)
        configuration.maximumCircuits = TunnelSettings.circuits(nodes: self.maximumNodes)
        let candidate = RelayService(host: self.host, configuration: configuration, logger: self.logger)
        let change = self.state.withLock { state -> (start: RelayService?, stop: RelayService?) in
            if isWanted, state.relayService == nil {
                state.relayService = candidate
                return (candidate, nil)
            }
            if !isWanted { return (nil, state.relayService.take()) }
            return (nil, nil)
        }
        if let service = change.start {
            service.start()
            self.logger.notice("this node relays for others")
            self.run { [weak self] in await self?.serveAutoNAT() }
        }
        if let service = change.stop {
            service.stop()
            self.logger.notice("this node relays for others no more")
            let server = self.state.withLock { $0.autoNATServer.take() }
            if let server { self.run { await server.stop() } }
        }
    }

    /// Those who can be reached tell others whether they can be.
    private func serveAutoNAT() async {
        guard !self.surroundings.dialBackTransports.isEmpty else { return }
        do {
            let server = try AutoNATServer(host: self.host, transports: self.surroundings.dialBackTransports)
            try await server.start()
            let isKept = self.state.withLock { state in
                guard state.relayService != nil, state.autoNATServer == nil, !state.isStopped else { return false }
                state.autoNATServer = server
                return true
            }
            if !isKept { await server.stop() }
        } catch {
            self.logger.warning("peers are not told whether they can be reached", metadata: ["error": "\(error)"])
        }
    }

    private func relaysChanged() {
        self.relays.configure(self.settings)
        self.offerRelays()
    }

    func offerRelays() {
        guard self.state.withLock({ $0.hasListened }) else { return }
        self.relayClient.setCandidates(self.relays.candidates)
    }

    // MARK: Events

    func observe(_ event: HostEvent) {
        switch event {
        case .identified(let connection, let identification):
            let peer = connection.remotePeer
            guard !connection.isRelayed, let node = self.directory.node(of: peer) else { return }
            let isNews =
                identification.protocols.contains(RelayBook.hopProtocol)
                ? self.relays.volunteered(peer, node, identification.listenAddresses) : self.relays.withdrew(peer)
            if isNews { self.offerRelays() }
        case .reservation(let event):
            guard case .active = event.state else { return }
            let reservation = self.relayClient.reservations.first { $0.relay == event.relay }
            if let time = reservation?.roundTripTime { self.relays.measured(event.relay, time) }
        case .reachabilityChanged(let reachability):
            self.state.withLock { $0.isReachable = reachability == .publiclyReachable }
            self.followRole()
        default: break
        }
    }

    /// How far the relays are that this node is connected to: their sessions measure it anyway.
    func measureRelays() {
        for relay in self.relays.relays {
            let connection = self.host.connections(to: relay.peer).first { !$0.isRelayed && $0.isOpen }
            if let time = connection?.roundTripTime { self.relays.measured(relay.peer, time) }
        }
    }

    /// Without a relay, all that are known are tried anew, whatever came of it before: names may have other addresses now.
    func findRelays() {
        guard self.relayClient.reservations.isEmpty else { return }
        self.relayClient.retry()
    }

    // MARK: Cluster, on the loop

    func nodesChanged(_ snapshot: CatalogSnapshot) {
        let recordBefore = self.directory.ownRecord
        guard let change = self.directory.update(snapshot.nodes, stored: snapshot.nodesFromStore) else { return }
        if change.isRevocationChanged { self.surroundings.revocations?.write(self.directory.revokedPeers) }
        for problem in change.problems { self.logger.warning("\(problem)") }
        if self.settings.identity == .derived, let recorded = self.directory.ownRecord, recorded != recordBefore,
            recorded != self.host.peerID.description
        {
            self.logger.warning(
                "the cluster's record of this node names another peer, so agents refuse this one: remove the annotation, or set modules.edgeTunnel.identity to node",
                metadata: ["annotation": "\(NodeObject.peerIDAnnotation)", "peer-id": "\(recorded)"]
            )
        }
        if change.isPending { self.derive() }
        self.namesChanged(change.revoked)
    }

    private func derive() {
        if self.directory.derivePending(atMost: Self.derivationsPerTurn) {
            self.loop.execute { self.derive() }
        } else {
            self.namesChanged([])
        }
    }

    private func namesChanged(_ revoked: Set<PeerID>) {
        self.relaysChanged()
        self.paths.namesChanged(revoked: revoked)
    }

    // MARK: Network

    /// Addresses or routes of this machine have changed.
    func networkChanged() {
        self.host.refreshAddresses()
        let addresses = Set(self.host.configuration.interfaces.addresses().map(\.address))
        self.paths.networkChanged(addresses)
        self.packetChannels.networkChanged()
        self.relayClient.retry()
        if !self.interfaces.isOpen { self.run { [weak self] in try? await self?.listen() } }
    }

    /// Listens where the settings want it. Throws if none of the wanted addresses can be listened on though there are some.
    func listen() async throws {
        let wanted = self.wantedAddresses
        let listening = self.state.withLock { $0.listening }
        for address in listening.subtracting(wanted) {
            await self.host.stopListening(on: address)
            self.state.withLock { _ = $0.listening.remove(address) }
        }
        var failure: (any Error)?
        for address in wanted.subtracting(listening).sorted(by: { $0.description < $1.description }) {
            do {
                try await self.host.listen(on: address)
                self.state.withLock { _ = $0.listening.insert(address) }
            } catch {
                // Without IPv6 in the kernel the other family does.
                failure = error
                self.logger.info("not listening", metadata: ["address": "\(address)", "error": "\(error)"])
            }
        }
        guard let failure, self.state.withLock({ $0.listening.isEmpty }) else { return }
        throw EdgeTunnelError(
            code: .listen,
            message: "the tunnel cannot listen on port \(self.settings.listenPort) (modules.edgeTunnel.listenPort)",
            cause: failure
        )
    }

    private var wantedAddresses: Set<Multiaddr> {
        let layers = self.settings.layers
        guard !self.interfaces.isOpen else {
            return [Multiaddr([.ip4(.any)] + layers), Multiaddr([.ip6(.any)] + layers)]
        }
        let addresses = self.host.configuration.interfaces.addresses().filter { self.interfaces.admits($0.interface) }
        return Set(
            addresses.map { interface in
                switch interface.address {
                case .v4(let v4): Multiaddr([.ip4(v4)] + layers)
                case .v6(let v6): Multiaddr([.ip6(v6)] + layers)
                }
            }
        )
    }
}
