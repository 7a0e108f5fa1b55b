import LinuxNetwork
import MeshCore

/// The addresses of this node, as far as the routes of pods depend on them.
struct HostNetworks: Sendable, Hashable {
    /// The networks of its devices, without loopback, link-local ones and the tunnel's.
    var blocks: [CIDR] = []
    /// Its addresses in these.
    var addresses: [LinkAddress] = []

    init() {}

    /// - Parameter device: of the tunnel.
    init(links: [NetworkLink], addresses: [LinkAddress], besides device: String) {
        let ignored = Set(links.filter { $0.name == device || $0.name == "lo" }.map(\.index))
        for address in addresses where !ignored.contains(address.linkIndex) && !address.address.isLinkLocal {
            self.addresses.append(address)
            if let block = CIDR(address.address, prefixLength: Int(address.prefixLength)) { self.blocks.append(block) }
        }
    }

    /// Asks the kernel. Blocks for its answer.
    static func read(besides device: String) throws -> HostNetworks {
        HostNetworks(
            links: try RouteNetlink.links(),
            addresses: try RouteNetlink.addresses(),
            besides: device
        )
    }

    /// By which of its addresses the node itself takes part, for each family that has one: an address in a block of its pods, as a
    /// bridge has it. Other nodes take packets from no other address of it.
    func sources(in own: [CIDR]) -> [IPAddress] {
        IPFamily.allCases.compactMap { family in
            self.addresses.filter { address in
                address.address.family == family && own.contains { $0.contains(address.address) }
            }.min { ($0.prefixLength, $0.address) < ($1.prefixLength, $1.address) }?.address
        }
    }
}

extension IPAddress {
    fileprivate var isLinkLocal: Bool {
        switch self {
        case .v4(let address): address.rawValue >> 16 == 0xA9FE
        case .v6(let address): address.high >> 54 == 0x3FA
        }
    }
}
