import ByteStreams
import Glibc
public import MeshCore
import NIOCore

/// A network interface that is up and can multicast.
public struct MulticastInterface: Hashable, Sendable {
    public var name: String
    public var index: UInt32
    /// All of them, also link-local ones.
    public var addresses: [IPAddress]

    public init(name: String, index: UInt32, addresses: [IPAddress]) {
        self.name = name
        self.index = index
        self.addresses = addresses
    }

    var families: Set<IPFamily> { Set(self.addresses.map(\.family)) }
}

public protocol MulticastInterfaceLister: Sendable {
    func interfaces() -> [MulticastInterface]
}

/// The kernel's interfaces, by getifaddrs(3), in the network namespace of the thread that calls.
public struct SystemMulticastInterfaces: MulticastInterfaceLister {
    public init() {}

    public func interfaces() -> [MulticastInterface] {
        let usable = Self.usable()
        var found: [UInt32: MulticastInterface] = [:]
        for device in (try? System.enumerateDevices()) ?? [] {
            guard usable.contains(device.name), let index = UInt32(exactly: device.interfaceIndex), index > 0,
                let address = device.address.flatMap({ TransportAddress($0) })?.address
            else { continue }
            found[index, default: MulticastInterface(name: device.name, index: index, addresses: [])]
                .addresses.append(address)
        }
        return found.values.sorted { $0.index < $1.index }
    }

    /// The names of those that are up, have a carrier, can multicast and are not the loopback.
    private static func usable() -> Set<String> {
        var head: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&head) == 0 else { return [] }
        defer { freeifaddrs(head) }
        let wanted = UInt32(IFF_UP) | UInt32(IFF_RUNNING) | UInt32(IFF_MULTICAST)
        var names: Set<String> = []
        var next = head
        while let entry = next?.pointee {
            next = entry.ifa_next
            guard entry.ifa_flags & wanted == wanted, entry.ifa_flags & UInt32(IFF_LOOPBACK) == 0 else { continue }
            names.insert(String(cString: entry.ifa_name))
        }
        return names
    }
}
