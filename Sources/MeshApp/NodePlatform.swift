import EdgeCNI
import EdgeProxy
import LinuxNetwork
import Logging
import MeshCore

/// What the agent asks of the machine below it, so that the whole agent runs in tests without one.
struct NodePlatform: Sendable {
    /// Makes the bridge device with its addresses, or adopts the one that is there. Idempotent.
    var ensureBridge: @Sendable (_ name: String, _ addresses: [IPAddress]) async throws -> Void
    /// Opens the kernel's service tables: `auto`, `nftables`, `iptables` or `none`. Removes the rules that agents of
    /// before left in other tables: those that lead to `bridgeAddress`.
    var makeProgramming:
        @Sendable (_ backend: String, _ bridgeAddress: IPAddress, _ logger: Logger) async throws ->
            any ServiceProgramming
    /// What the network of pods asks of the machine; its rules go to the packet filter `backend`, as those of services do.
    var makePodNetwork: @Sendable (_ backend: String, _ logger: Logger) -> PodNetworkPlatform
    var udpOriginalDestination: UDPOriginalDestination
    var clearStaleFlows: @Sendable ([StaleFlows]) async -> Void
}

/// `kernelBackend: none`: for nodes whose rules are made by other means. Nothing is redirected.
struct NoKernelProgramming: ServiceProgramming {
    let backendName = "none"

    func install(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) async throws {}
    func update(_ changes: [KernelFrontend: KernelRule?]) async throws {}
    func remove() async throws {}
}
