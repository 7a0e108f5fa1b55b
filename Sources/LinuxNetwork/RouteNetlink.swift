import Glibc
public import MeshCore

/// A network device.
public struct NetworkLink: Hashable, Sendable {
    public var index: Int32
    public var name: String
    public var isUp: Bool
    /// `bridge`, `veth`, …; nil for hardware.
    public var kind: String?
}

/// An address on a device.
public struct LinkAddress: Hashable, Sendable {
    public var linkIndex: Int32
    public var address: IPAddress
    public var prefixLength: UInt8
}

/// Devices and addresses over rtnetlink, in the network namespace of the thread that calls. Every call opens a socket of its
/// own and blocks for the kernel's answer, microseconds as a rule.
public enum RouteNetlink {
    // Message types of linux/rtnetlink.h.
    private static let newLink: UInt16 = 16
    private static let deleteLink: UInt16 = 17
    private static let getLink: UInt16 = 18
    private static let newAddress: UInt16 = 20
    private static let getAddress: UInt16 = 22

    public static func links() throws -> [NetworkLink] {
        let socket = try NetlinkSocket(.route)
        return try socket.list(type: self.getLink, what: "listing devices") {
            $0.bytes(linkHeader(index: 0, up: nil))
        }.compactMap { message in
            guard message.type == self.newLink, message.payload.count >= 16 else { return nil }
            let attributes = try NetlinkAttributes(message.payload.dropFirst(16))
            return NetworkLink(
                index: message.payload.native(Int32.self, at: 4),
                name: attributes.text(3) ?? "",
                isUp: message.payload.native(UInt32.self, at: 8) & 1 != 0,
                kind: try attributes.nested(18)?.text(1)
            )
        }
    }

    public static func addresses() throws -> [LinkAddress] {
        let socket = try NetlinkSocket(.route)
        return try socket.list(type: self.getAddress, what: "listing addresses") {
            $0.bytes([UInt8](repeating: 0, count: 8))
        }.compactMap { message in
            guard message.type == self.newAddress, message.payload.count >= 8 else { return nil }
            let attributes = try NetlinkAttributes(message.payload.dropFirst(8))
            // IFA_LOCAL is ours on point-to-point devices, where IFA_ADDRESS is the peer's.
            guard let bytes = attributes[2] ?? attributes[1], let address = IPAddress(networkBytes: bytes) else {
                return nil
            }
            return LinkAddress(
                linkIndex: Int32(bitPattern: message.payload.native(UInt32.self, at: 4)),
                address: address,
                prefixLength: message.payload[message.payload.startIndex + 1]
            )
        }
    }

    /// Makes sure that the bridge `name` exists, is up and has `addresses` (as host addresses). Idempotent: a device and
    /// addresses that are there stay. Throws if `name` is a device of another kind.
    public static func ensureBridge(_ name: String, addresses: [IPAddress]) throws {
        guard !name.isEmpty, name.utf8.count < 16 else {
            throw LinuxNetworkError(.unsupported, "device name \"\(name)\" must have 1 to 15 characters")
        }
        let socket = try NetlinkSocket(.route)
        do {
            try socket.request(type: self.newLink, flags: [.create, .exclusive, .ack], what: "creating bridge \(name)")
            {
                $0.bytes(linkHeader(index: 0, up: true))
                $0.attribute(3, text: name)
                $0.nested(18) { $0.attribute(1, text: "bridge") }
            }
        } catch {
            guard error.errno == EEXIST else { throw error }
        }
        guard let link = try self.links().first(where: { $0.name == name }) else {
            throw LinuxNetworkError(.system(ENODEV), "bridge \(name) vanished")
        }
        guard link.kind == "bridge" || link.kind == "dummy" else {
            throw LinuxNetworkError(.unsupported, "device \(name) exists and is no bridge; remove or rename it")
        }
        try socket.request(type: self.newLink, flags: .ack, what: "setting \(name) up") {
            $0.bytes(linkHeader(index: link.index, up: true))
        }
        for address in addresses {
            do {
                try socket.request(
                    type: self.newAddress,
                    flags: [.create, .exclusive, .ack],
                    what: "adding \(address) to \(name)"
                ) {
                    // family, prefix length, flags (IFA_F_NODAD for IPv6: usable at once), scope, index
                    $0.bytes([
                        address.family == .v4 ? 2 : 10, address.family == .v4 ? 32 : 128,
                        address.family == .v4 ? 0 : 2, 0,
                    ])
                    $0.native(link.index)
                    $0.attribute(2, address.networkBytes)
                    $0.attribute(1, address.networkBytes)
                }
            } catch {
                guard error.errno == EEXIST else { throw error }
            }
        }
    }

    /// Removes a device; one that is not there is fine.
    public static func removeLink(_ name: String) throws {
        let socket = try NetlinkSocket(.route)
        do {
            try socket.request(type: self.deleteLink, flags: .ack, what: "removing device \(name)") {
                $0.bytes(linkHeader(index: 0, up: nil))
                $0.attribute(3, text: name)
            }
        } catch {
            guard error.errno == ENODEV else { throw error }
        }
    }

    /// `ifinfomsg`; `up` nil leaves the device's state alone.
    private static func linkHeader(index: Int32, up: Bool?) -> [UInt8] {
        let flags: UInt32 = up == true ? 1 : 0
        let mask: UInt32 = up == nil ? 0 : 1
        return [0, 0, 0, 0] + hostOrder(UInt32(bitPattern: index)) + hostOrder(flags) + hostOrder(mask)
    }
}
