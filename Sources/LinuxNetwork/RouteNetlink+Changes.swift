import Glibc

extension RouteNetlink {
    private static let newRoute: UInt16 = 24
    private static let getRoute: UInt16 = 26

    /// The names of the devices that carry a default route of the main table, of either family.
    public static func defaultRouteDevices() throws -> Set<String> {
        let names = Dictionary(try self.links().map { ($0.index, $0.name) }, uniquingKeysWith: { first, _ in first })
        let socket = try NetlinkSocket(.route)
        let routes = try socket.list(type: self.getRoute, what: "listing routes") {
            // rtmsg: any family, and nothing that selects.
            $0.bytes([UInt8](repeating: 0, count: 12))
        }
        var devices: Set<String> = []
        for message in routes where message.type == self.newRoute && message.payload.count >= 12 {
            let head = message.payload.prefix(12).map { $0 }
            // Destination of no bits; RT_TABLE_MAIN; RTN_UNICAST.
            guard head[1] == 0, head[4] == 254, head[7] == 1 else { continue }
            let attributes = try NetlinkAttributes(message.payload.dropFirst(12))
            // RTA_OIF, or the next hops of RTA_MULTIPATH, each a rtnexthop of eight bytes with attributes behind it.
            var indices = [attributes.native(4, Int32.self)].compactMap { $0 }
            var hops = attributes[9] ?? []
            while hops.count >= 8, case let length = Int(hops.native(UInt16.self, at: 0)), length >= 8 {
                indices.append(hops.native(Int32.self, at: 4))
                hops = hops.dropFirst((length + 3) & ~3)
            }
            devices.formUnion(indices.compactMap { names[$0] })
        }
        return devices
    }

    /// A socket that becomes readable when devices, addresses or routes of this network namespace change; what it reads is of
    /// no other use. It does not block, and belongs to the caller. A read may fail with ENOBUFS, which means a change too.
    public static func changesDescriptor() throws(LinuxNetworkError) -> Int32 {
        let descriptor = socket(
            16,
            Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue),
            0
        )
        guard descriptor >= 0 else { throw systemError("cannot open a netlink socket for changes") }
        // RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE.
        let groups: UInt32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
        var address: (UInt16, UInt16, UInt32, UInt32) = (16, 0, 0, groups)
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, 12) }
        }
        guard bound == 0 else {
            let error = systemError("cannot listen for changes of the network")
            close(descriptor)
            throw error
        }
        return descriptor
    }
}
