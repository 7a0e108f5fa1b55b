import EdgeCNI
import EdgeProxy
import LinuxNetwork
import Logging
import MeshCore
import NIOPosix
import Synchronization

extension NodePlatform {
    /// This machine.
    static func live(_ logger: Logger) -> NodePlatform {
        let lookups = FlowLookups()
        return NodePlatform(
            ensureBridge: { name, addresses in try RouteNetlink.ensureBridge(name, addresses: addresses) },
            makeProgramming: { try await Self.makeProgramming($0, $1, $2) },
            makePodNetwork: { PodNetworkPlatform.live(backend: $0, logger: $1) },
            udpOriginalDestination: { client, listener in lookups.udp(client: client, listener: listener) },
            clearStaleFlows: { stale in
                do {
                    // Reads and writes the kernel's table of flows, which may be long: not on an event loop or an actor.
                    try await NIOThreadPool.singleton.runIfActive { try Self.clear(stale) }
                } catch {
                    logger.warning("stale flows stay until they time out", metadata: ["error": "\(error)"])
                }
            }
        )
    }

    private static func makeProgramming(
        _ configured: String,
        _ bridgeAddress: IPAddress,
        _ logger: Logger
    ) async throws -> any ServiceProgramming {
        let backend = try await ServiceProgrammingBackend.choose(configured: configured)
        let program: any ServiceProgramming
        switch backend {
        case .none: return NoKernelProgramming()
        case .nftables: program = try NFTablesProgram(forwarding: ForwardAcceptance(logger: logger))
        case .iptables(let variant): program = IPTablesProgram(variant: variant)
        }
        let report = await Leftovers(bridgeAddress: bridgeAddress).removeStale(adoptedBy: backend)
        for line in report.found {
            logger.notice("removed what an earlier agent left", metadata: ["leftover": "\(line)"])
        }
        for line in report.kept { logger.notice("\(line)") }
        for line in report.failures {
            logger.warning("leftovers of an earlier agent stay", metadata: ["error": "\(line)"])
        }
        logger.info("service rules", metadata: ["backend": "\(backend)"])
        return program
    }

    /// For so many the kernel walks its table of flows anew for each. One listing costs about as much as some dozens of walks.
    private static let maximumFilters = 32

    /// Deletes the flows that the kernel would go on sending where nobody takes them.
    private static func clear(_ stale: [StaleFlows]) throws {
        let conntrack = try Conntrack()
        let filters = stale.compactMap(\.filters)
        if filters.count == stale.count, case let all = filters.flatMap({ $0 }), all.count <= Self.maximumFilters,
            try all.allSatisfy({ try conntrack.deleteFlows(matching: $0) })
        {
            return
        }
        for (transport, stale) in Dictionary(grouping: stale, by: \.frontend.transport) {
            let byPort = Dictionary(grouping: stale) { $0.frontend.port }
            for family in Set(stale.map(\.frontend.family)) {
                try conntrack.deleteFlows(family, transport) { flow in
                    (byPort[flow.destination.port] ?? []).contains { $0.contains(flow) }
                }
            }
        }
    }
}

/// One conntrack socket for the lookups of all loops: a lookup is a system call or two, made once per UDP session.
private final class FlowLookups: Sendable {
    private struct State: ~Copyable {
        var conntrack: Conntrack?
    }

    private let state = Mutex(State(conntrack: nil))

    func udp(client: TransportAddress, listener: TransportAddress) -> TransportAddress? {
        self.state.withLock { state in
            do {
                if state.conntrack == nil { state.conntrack = try Conntrack() }
                return try state.conntrack?.originalDestination(transport: .udp, client: client, proxy: listener)
            } catch {
                // A socket that failed is opened anew for the next session.
                state.conntrack = nil
                return nil
            }
        }
    }
}
