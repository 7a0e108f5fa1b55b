import HashTreeCollections
import KubeModel
import MeshCore
import MeshInterfaces
import ServiceCatalog

/// A target with its transport, as an index holds it.
struct FlowTarget: Hashable, Sendable {
    var address: TransportAddress
    var transport: TransportProtocol
}

/// Why a target is not dialled.
enum TargetRefusal: String, Sendable, Hashable, CaseIterable {
    /// The state of the cluster is not known yet.
    case noCatalog
    /// No endpoint of a service on this node.
    case notAnEndpoint
    /// A SOCKS5 client asks for an address that is not this node's.
    case notThisNode
    case loopback
    case wrongNode

    var explanation: String {
        switch self {
        case .noCatalog: "this agent does not know the state of the cluster yet"
        case .notAnEndpoint: "it is no endpoint of a service on this node, nor allowed by tunnel settings"
        case .notThisNode: "it is no address of this node, and SOCKS5 clients are let to no other"
        case .loopback: "loopback addresses are not dialled for other nodes"
        case .wrongNode: "the request is meant for another node"
        }
    }
}

/// What this node dials for the agents of others: a value made of one state of the cluster. A look-up takes constant time.
struct TargetPolicy: Sendable {
    let nodeName: String
    let settings: TargetAccessSettings
    let hasCatalog: Bool
    /// Endpoints of services that are on this node, or in blocks that it routes to.
    let endpoints: Set<FlowTarget>
    /// Addresses of the node itself; loopback and link-local ones are left out.
    let ownAddresses: Set<IPAddress>
    let nodes: TreeDictionary<String, NodeObject>

    /// The address that is meant: an IPv4 address may come within an IPv6 one.
    static func normalized(_ target: TransportAddress) -> TransportAddress {
        guard case .v6(let address) = target.address, let mapped = address.mappedIPv4 else { return target }
        return TransportAddress(.v4(mapped), target.port)
    }

    /// - Parameters:
    ///   - target: as `normalized` gives it.
    ///   - purpose: nil if the requester cannot tell.
    /// - Returns: nil if it is dialled.
    func refusal(
        of target: TransportAddress,
        _ transport: TransportProtocol,
        purpose: TunnelTarget.Purpose?
    ) -> TargetRefusal? {
        if self.settings.mode == .any { return nil }
        // Linux takes an unspecified address for its loopback.
        if target.address.isLoopback || target.address.isUnspecified, !self.settings.allowsLoopback { return .loopback }
        if self.settings.allowed.contains(where: { $0.contains(target) }) { return nil }
        let isOwn = transport == .tcp && self.ownAddresses.contains(target.address)
        switch purpose {
        case .socks: return isOwn ? nil : .notThisNode
        case nil where isOwn && self.settings.treatsOriginalsAsSOCKS: return nil
        case .service, nil: break
        }
        if self.endpoints.contains(FlowTarget(address: target, transport: transport)) { return nil }
        return self.hasCatalog ? .notAnEndpoint : .noCatalog
    }

    /// Whether a request for `node` reached the wrong one.
    /// - Parameter isLenient: v1.17 has its own ideas of names; only that of another node that exists is wrong then.
    func isWrong(node: String, isLenient: Bool) -> Bool {
        if node == self.nodeName { return false }
        return isLenient ? self.nodes[node] != nil : true
    }
}

/// Keeps the index of a `TargetPolicy` up to date with the catalog. A value without I/O; for use off the data loops.
struct TargetIndex {
    private let nodeName: String
    private var snapshot = CatalogSnapshot()
    private var settings: TargetAccessSettings
    private var interfaces: [IPAddress] = []
    /// Of services that have any.
    private var targets: [ObjectName: [FlowTarget]] = [:]

    init(nodeName: String, settings: TargetAccessSettings) {
        self.nodeName = nodeName
        self.settings = settings
    }

    var policy: TargetPolicy {
        let own = (self.snapshot.nodes[self.nodeName]?.internalIPs ?? []) + self.interfaces
        return TargetPolicy(
            nodeName: self.nodeName,
            settings: self.settings,
            hasCatalog: self.snapshot.version > 0,
            endpoints: self.targets.values.reduce(into: []) { $0.formUnion($1) },
            ownAddresses: Set(own.filter { !$0.isLoopback && !$0.isUnspecified && !Self.isLinkLocal($0) }),
            nodes: self.snapshot.nodes
        )
    }

    mutating func apply(_ update: CatalogUpdate) {
        let before = self.localBlocks
        let isFirst = self.snapshot.version == 0
        self.snapshot = update.snapshot
        if isFirst || self.localBlocks != before {
            self.rebuild()
        } else {
            for name in update.changedServices { self.index(name) }
        }
    }

    mutating func apply(_ settings: TargetAccessSettings) {
        self.settings = settings
        self.rebuild()
    }

    mutating func apply(interfaces: [IPAddress]) {
        self.interfaces = interfaces
    }

    /// Blocks whose endpoints count as this node's.
    private var localBlocks: [CIDR] {
        self.settings.routableCIDRs + (self.snapshot.nodes[self.nodeName]?.podCIDRs ?? [])
    }

    private mutating func rebuild() {
        self.targets = [:]
        let blocks = self.localBlocks
        for (name, service) in self.snapshot.services { self.index(name, service, blocks) }
    }

    private mutating func index(_ name: ObjectName) {
        self.targets[name] = nil
        if let service = self.snapshot.services[name] { self.index(name, service, self.localBlocks) }
    }

    private mutating func index(_ name: ObjectName, _ service: Service, _ blocks: [CIDR]) {
        var found: [FlowTarget] = []
        for group in service.groups {
            for endpoint in group.endpoints {
                guard endpoint.nodeName == self.nodeName || blocks.contains(where: { $0.contains(endpoint.address) })
                else { continue }
                for port in group.ports {
                    let address = TransportAddress(endpoint.address, port.port)
                    found.append(FlowTarget(address: address, transport: port.transport))
                }
            }
        }
        if !found.isEmpty { self.targets[name] = found }
    }

    private static func isLinkLocal(_ address: IPAddress) -> Bool {
        switch address {
        case .v4(let v4): v4.rawValue >> 16 == 0xA9FE
        case .v6(let v6): v6.high >> 54 == 0xFE80 >> 6
        }
    }
}
