import Glibc
public import MeshCore

/// One address of a network interface that is up.
public struct InterfaceAddress: Hashable, Sendable {
    public var interface: String
    public var address: IPAddress

    public init(interface: String, address: IPAddress) {
        self.interface = interface
        self.address = address
    }
}

/// Tells which addresses a wildcard listener is reached by.
public protocol InterfaceLister: Sendable {
    func addresses() -> [InterfaceAddress]
}

/// The kernel's interfaces, by getifaddrs(3). Link-local IPv6 addresses are left out: they mean nothing without a zone.
public struct SystemInterfaces: InterfaceLister {
    public init() {}

    public func addresses() -> [InterfaceAddress] {
        var head: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&head) == 0 else { return [] }
        defer { freeifaddrs(head) }
        var found: [InterfaceAddress] = []
        var next = head
        while let entry = next?.pointee {
            next = entry.ifa_next
            guard entry.ifa_flags & UInt32(IFF_UP) != 0, let raw = entry.ifa_addr,
                let address = IPAddress(raw), !Self.isLinkLocalV6(address)
            else { continue }
            found.append(InterfaceAddress(interface: String(cString: entry.ifa_name), address: address))
        }
        return found
    }

    private static func isLinkLocalV6(_ address: IPAddress) -> Bool {
        if case .v6(let v6) = address { v6.high >> 54 == 0xFE80 >> 6 } else { false }
    }
}
