import LinuxNetwork
import MeshCore

extension GatewaySettings {
    /// Whether every address of the machine is meant, now and later: then one socket of each family is enough.
    var isUnconfined: Bool { self.interfaces.isEmpty && self.includedBlocks.isEmpty && self.excludedBlocks.isEmpty }

    /// The addresses to listen on: those of the interfaces that are up, of these what the blocks include, without what they exclude.
    /// IPv6 addresses of a link are left out, as nobody outside of it can name them.
    func addresses(links: [NetworkLink], addresses: [LinkAddress]) -> [IPAddress] {
        self.isUnconfined ? [.v4(.any), .v6(.any)] : self.singleAddresses(links: links, addresses: addresses)
    }

    /// The same without wildcards: each address by itself.
    func singleAddresses(links: [NetworkLink], addresses: [LinkAddress]) -> [IPAddress] {
        let chosen = Set(
            links.filter { $0.isUp && (self.interfaces.isEmpty || self.interfaces.contains($0.name)) }.map(\.index)
        )
        let usable = addresses.filter { chosen.contains($0.linkIndex) }.map(\.address).filter { address in
            (self.includedBlocks.isEmpty || self.includedBlocks.contains { $0.contains(address) })
                && !self.excludedBlocks.contains { $0.contains(address) } && !Self.isLinkLocal(address)
        }
        return Set(usable).sorted()
    }

    private static func isLinkLocal(_ address: IPAddress) -> Bool {
        guard case .v6(let v6) = address else { return false }
        return v6.high >> 54 == 0xFE80 >> 6
    }
}
