import HashTreeCollections
import KubeModel
import LinuxNetwork
import Logging
import MeshCore
import MeshInterfaces
import ServiceCatalog
import Synchronization

/// Follows the cluster and the networks of this node: says which pod is where, and keeps the kernel's routes to them. Off the loops
/// that carry packets.
actor RouteFollower {
    /// What it has found.
    struct Findings: Sendable {
        var routes = PodRoutes()
        /// By which addresses this node takes part.
        var sources: [IPAddress] = []
        /// The blocks that lead into the tunnel.
        var captured: [CIDR] = []
        var local: [CIDR] = []
        /// Nodes that are themselves reached by an address of the mesh's blocks: packets of the tunnel would go into the tunnel.
        var swallowed: [String] = []
        /// Why the routes are not in the kernel as they should be.
        var problem: String?
    }

    private let settings: EdgeCNISettings
    private let platform: PodNetworkPlatform
    private let device: any PodDevice
    private let publish: @Sendable (Findings) -> Void
    private let logger: Logger
    private let inbox = Inbox()
    private var builder: PodRouteBuilder
    private var networks = HostNetworks()
    private var latest = CatalogSnapshot()
    /// The blocks of this node's pods.
    private var own: [CIDR] = []
    private(set) var findings = Findings()

    /// - Parameter publish: takes the findings when packets are to be judged by others. Must not block.
    init(
        settings: EdgeCNISettings,
        platform: PodNetworkPlatform,
        device: any PodDevice,
        logger: Logger,
        publish: @escaping @Sendable (Findings) -> Void
    ) {
        self.settings = settings
        self.platform = platform
        self.device = device
        self.logger = logger
        self.publish = publish
        self.builder = PodRouteBuilder(localNode: settings.nodeName, networks: PodNetworks(mesh: settings.mesh))
    }

    /// The networks of this node may have changed. Any thread.
    nonisolated func networksChanged() { self.inbox.noteNetworks() }

    /// Follows until it is cancelled.
    func run(catalog: any CatalogReading) async {
        let subscription = catalog.subscribe { [inbox] in inbox.put($0) }
        defer { subscription.cancel() }
        self.inbox.noteNetworks()
        for await _ in self.inbox.arrivals {
            let (update, hasNetworks) = self.inbox.take()
            self.follow(update, readsNetworks: hasNetworks)
        }
    }

    private func follow(_ update: CatalogUpdate?, readsNetworks: Bool) {
        if readsNetworks {
            do {
                self.networks = try self.platform.networks(self.settings.device)
                self.builder.setLocalNetworks(self.networks.blocks)
            } catch {
                self.logger.warning("the networks of this node cannot be read", metadata: ["error": "\(error)"])
            }
        }
        if let update {
            self.own = update.snapshot.nodes[self.settings.nodeName]?.podCIDRs ?? []
            self.latest = update.snapshot
        }
        let routes = self.builder.apply(self.latest, changed: update?.changedServices ?? [])
        var findings = self.findings
        findings.routes = routes ?? findings.routes
        findings.sources = self.networks.sources(in: self.own)
        findings.local = self.networks.blocks
        let networks = PodNetworks(mesh: self.settings.mesh, local: self.networks.blocks)
        findings.captured = networks.captured(besides: self.own)
        if routes != nil { findings.swallowed = self.swallowedNodes }
        if readsNetworks || findings.captured != self.findings.captured || findings.sources != self.findings.sources
            || findings.problem != nil
        {
            findings.problem = self.setRoutes(findings)
        }
        self.report(findings)
        self.findings = findings
        if routes != nil { self.publish(findings) }
    }

    private var swallowedNodes: [String] {
        self.latest.nodes.values.filter { node in
            node.name != self.settings.nodeName
                && node.internalIPs.contains { address in
                    self.settings.mesh.contains { $0.contains(address) }
                        && !self.networks.blocks.contains { $0.contains(address) }
                }
        }.map(\.name).sorted()
    }

    /// - Returns: why they are not in the kernel.
    private func setRoutes(_ findings: Findings) -> String? {
        do {
            try self.platform.setRoutes(findings.captured, findings.sources, self.device)
            return nil
        } catch {
            return "\(error)"
        }
    }

    private func report(_ new: Findings) {
        if let problem = new.problem, problem != self.findings.problem {
            self.logger.error("the routes to pods of other nodes are not all set", metadata: ["error": "\(problem)"])
        }
        if new.captured != self.findings.captured {
            self.logger.info(
                "pods of other nodes are reached by the tunnel",
                metadata: ["blocks": "\(new.captured.map(\.description).joined(separator: ","))"]
            )
        }
        if new.swallowed != self.findings.swallowed, !new.swallowed.isEmpty {
            self.logger.warning(
                "nodes have addresses in the blocks of pods (meshCIDRConfig): if they are reached by these, they are not reached at all",
                metadata: ["nodes": "\(new.swallowed.prefix(8).joined(separator: ","))"]
            )
        }
    }
}

/// What has come since the follower looked last: changes that come faster than it works are taken as one.
private final class Inbox: Sendable {
    private struct Pending {
        var update: CatalogUpdate?
        var hasNetworks = false
    }

    let arrivals: AsyncStream<Void>
    private let bell: AsyncStream<Void>.Continuation
    private let pending = Mutex(Pending())

    init() {
        (self.arrivals, self.bell) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    func put(_ update: CatalogUpdate) {
        self.pending.withLock { pending in
            let missed = pending.update?.changedServices ?? []
            pending.update = CatalogUpdate(
                snapshot: update.snapshot,
                changedServices: missed.union(update.changedServices)
            )
        }
        self.bell.yield()
    }

    func noteNetworks() {
        self.pending.withLock { $0.hasNetworks = true }
        self.bell.yield()
    }

    func take() -> (CatalogUpdate?, Bool) {
        self.pending.withLock { pending in
            defer { pending = Pending() }
            return (pending.update, pending.hasNetworks)
        }
    }
}
