public import MeshCore

/// What the kernel matches a new flow on.
public struct KernelFrontend: Hashable, Sendable, Comparable, CustomStringConvertible {
    public enum Match: Hashable, Sendable, Comparable {
        /// A cluster IP, external IP or load-balancer address.
        case address(IPAddress)
        /// The port on every address of this node but loopback.
        case nodePort(IPFamily)
    }

    public var match: Match
    public var transport: TransportProtocol
    public var port: UInt16

    public init(match: Match, transport: TransportProtocol, port: UInt16) {
        self.match = match
        self.transport = transport
        self.port = port
    }

    public var family: IPFamily {
        switch self.match {
        case .address(let address): address.family
        case .nodePort(let family): family
        }
    }

    public var description: String {
        switch self.match {
        case .address(let address): "\(TransportAddress(address, self.port))/\(self.transport)"
        case .nodePort(let family): "nodePort(IPv\(family.rawValue)):\(self.port)/\(self.transport)"
        }
    }

    public static func < (lhs: KernelFrontend, rhs: KernelFrontend) -> Bool {
        (lhs.match, lhs.transport.rawValue, lhs.port) < (rhs.match, rhs.transport.rawValue, rhs.port)
    }
}

extension IPFamily: Comparable {
    public static func < (lhs: IPFamily, rhs: IPFamily) -> Bool { lhs.rawValue < rhs.rawValue }
}

/// What the kernel does with a flow to a frontend.
public enum KernelAction: Hashable, Sendable {
    /// Balance among backends wholly in the kernel.
    case balance(KernelBalancing)
    /// Hand the flow to the proxy of this process (its listening address of the frontend's family and transport).
    case proxy
    /// Answer with "port unreachable": the service has no usable endpoint.
    case reject
    /// Drop silently: `externalTrafficPolicy: Local` without a local endpoint.
    case drop
}

/// Balancing that the kernel can do by itself.
public struct KernelBalancing: Hashable, Sendable {
    public enum Policy: Hashable, Sendable {
        case random
        /// Strict per frontend.
        case roundRobin
        /// By the client's address.
        case sourceHash
    }

    public var policy: Policy
    /// Never empty; in a stable order.
    public var backends: [TransportAddress]
    /// ClientIP affinity in seconds; nil for none.
    public var affinitySeconds: Int?
    /// Backends on this node: flows of theirs that come back to themselves need masquerading (hairpin).
    public var localBackends: Set<IPAddress>
    /// Masquerade every flow (for traffic that enters by a node port and leaves the node).
    public var masquerade: Bool

    public init(
        policy: Policy,
        backends: [TransportAddress],
        affinitySeconds: Int? = nil,
        localBackends: Set<IPAddress> = [],
        masquerade: Bool = false
    ) {
        self.policy = policy
        self.backends = backends
        self.affinitySeconds = affinitySeconds
        self.localBackends = localBackends
        self.masquerade = masquerade
    }
}

/// A frontend's action and who may use it.
public struct KernelRule: Hashable, Sendable {
    public var action: KernelAction
    /// Empty: everyone. Otherwise only clients in these blocks; others are dropped.
    public var sourceRanges: [CIDR]

    public init(action: KernelAction, sourceRanges: [CIDR] = []) {
        self.action = action
        self.sourceRanges = sourceRanges
    }
}

/// Addresses on which the user-space proxy takes the flows whose action is `.proxy`.
public struct ProxyListeners: Hashable, Sendable {
    public var tcpV4: TransportAddress
    public var udpV4: TransportAddress
    /// Nil where the node has no IPv6.
    public var tcpV6: TransportAddress?
    public var udpV6: TransportAddress?

    public init(
        tcpV4: TransportAddress,
        udpV4: TransportAddress,
        tcpV6: TransportAddress? = nil,
        udpV6: TransportAddress? = nil
    ) {
        self.tcpV4 = tcpV4
        self.udpV4 = udpV4
        self.tcpV6 = tcpV6
        self.udpV6 = udpV6
    }
}

/// Keeps the kernel's service rules equal to what is asked. One implementation over nftables, one over iptables-restore,
/// and a recording one for tests. Calls come from one task, one after the other.
public protocol ServiceProgramming: Sendable {
    /// `nftables`, `iptables-nft`, `iptables-legacy`: as shown to people.
    var backendName: String { get }

    /// Creates our table or chains (adopting or replacing leftovers of a crashed process of ours or of the original) and
    /// programs `rules`, in one transaction per address family.
    func install(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) async throws

    /// Changes only the frontends named: a nil rule removes one. One transaction; on error nothing has changed.
    func update(_ changes: [KernelFrontend: KernelRule?]) async throws

    /// Removes all that is ours. Idempotent.
    func remove() async throws

    /// Returns when rules that were installed are gone or changed by someone else, as a restart of a firewall does; `install`
    /// brings them back. Told once per `install`. Throws when it cannot look, and when its task is cancelled.
    func waitForLoss() async throws

    /// Flows that were opened to each frontend since its rule was last changed, as of some seconds ago. Does not hold up changes
    /// of the rules. Empty for programs that do not count.
    func flowCounters() async throws -> [KernelFrontend: FlowCounter]
}

extension ServiceProgramming {
    /// For programs that cannot tell: only cancellation ends it.
    public func waitForLoss() async throws {
        while true { try await Task.sleep(for: .seconds(86_400)) }
    }

    public func flowCounters() async throws -> [KernelFrontend: FlowCounter] { [:] }
}
