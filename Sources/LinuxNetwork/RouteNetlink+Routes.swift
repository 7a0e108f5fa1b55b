public import MeshCore

/// A route of the main table over a device.
public struct DeviceRoute: Hashable, Sendable {
    public var block: CIDR
    public var linkIndex: Int32
    /// Of several routes to one block the lowest counts.
    public var metric: UInt32
    /// Who made it (`rtm_protocol`): a number of one's own finds them again.
    public var origin: UInt8
    /// Which address of this host its own packets have there; nil leaves it to the kernel.
    public var source: IPAddress?

    public init(block: CIDR, linkIndex: Int32, metric: UInt32, origin: UInt8, source: IPAddress? = nil) {
        self.block = block
        self.linkIndex = linkIndex
        self.metric = metric
        self.origin = origin
        self.source = source
    }
}

extension RouteNetlink {
    private static let newLink: UInt16 = 16
    private static let newRoute: UInt16 = 24
    private static let deleteRoute: UInt16 = 25
    private static let getRoute: UInt16 = 26
    private static let mainTable: UInt8 = 254

    /// Sets a layer-3 device up, with an MTU and without addresses that the kernel makes up.
    static func setUp(_ link: NetworkLink, mtu: Int) throws(LinuxNetworkError) {
        let socket = try NetlinkSocket(.route)
        // IN6_ADDR_GEN_MODE_NONE, before it is up. Where IPv6 is switched off there is nothing to keep from it.
        _ = try? socket.request(type: self.newLink, flags: .ack, what: "keeping \(link.name) without addresses") {
            $0.linkHeader(link, up: 0)
            $0.nested(26) { $0.nested(10) { $0.attribute(8, [1]) } }
        }
        try socket.request(type: self.newLink, flags: .ack, what: "setting \(link.name) up with an MTU of \(mtu)") {
            $0.linkHeader(link, up: 1)
            $0.attribute(4, native: UInt32(clamping: mtu))
        }
    }

    /// Makes sure that a route is there; one that is the same stays.
    public static func ensureRoute(_ route: DeviceRoute) throws(LinuxNetworkError) {
        try self.change(
            route,
            type: self.newRoute,
            flags: [.create, .replace, .ack],
            "adding the route to \(route.block)"
        )
    }

    /// Removes a route; one that is not there is fine.
    public static func removeRoute(_ route: DeviceRoute) throws(LinuxNetworkError) {
        do {
            try self.change(route, type: self.deleteRoute, flags: .ack, "removing the route to \(route.block)")
        } catch {
            // ESRCH, ENODEV: the route is gone, or it went with its device.
            guard error.errno == 3 || error.errno == 19 else { throw error }
        }
    }

    /// The routes of the main table, of both families, that have one device.
    public static func deviceRoutes() throws -> [DeviceRoute] {
        let socket = try NetlinkSocket(.route)
        return try socket.list(type: self.getRoute, what: "listing routes") {
            $0.bytes([UInt8](repeating: 0, count: 12))
        }.compactMap { message in
            guard message.type == self.newRoute, message.payload.count >= 12 else { return nil }
            let head = message.payload.prefix(12).map { $0 }
            // RTN_UNICAST alone: no local addresses, no broadcasts.
            guard head[4] == self.mainTable, head[7] == 1, head[0] == 2 || head[0] == 10 else { return nil }
            let attributes = try NetlinkAttributes(message.payload.dropFirst(12))
            guard let index = attributes.native(4, Int32.self) else { return nil }
            let none = [UInt8](repeating: 0, count: head[0] == 2 ? 4 : 16)
            guard let address = IPAddress(networkBytes: attributes[1].map { Array($0) } ?? none),
                let block = CIDR(address, prefixLength: Int(head[1]))
            else { return nil }
            return DeviceRoute(
                block: block,
                linkIndex: index,
                metric: attributes.native(6, UInt32.self) ?? 0,
                origin: head[5],
                source: attributes[7].flatMap { IPAddress(networkBytes: Array($0)) }
            )
        }
    }

    private static func change(
        _ route: DeviceRoute,
        type: UInt16,
        flags: NetlinkWriter.Flags,
        _ what: String
    ) throws(LinuxNetworkError) {
        let socket = try NetlinkSocket(.route)
        try socket.request(type: type, flags: flags, what: what) {
            // rtmsg: family, lengths of destination and source, TOS, table, origin, scope of a link, unicast; flags.
            $0.bytes([
                route.block.address.family == .v4 ? 2 : 10, route.block.prefixLength, 0, 0, self.mainTable,
                route.origin,
                route.block.address.family == .v4 ? 253 : 0, 1,
            ])
            $0.native(UInt32(0))
            $0.attribute(1, route.block.address.networkBytes)
            $0.attribute(4, native: route.linkIndex)
            $0.attribute(6, native: route.metric)
            if let source = route.source { $0.attribute(7, source.networkBytes) }
        }
    }
}

extension NetlinkWriter {
    /// ifinfomsg: family, type, index, then IFF_UP and whether it is to change.
    fileprivate mutating func linkHeader(_ link: NetworkLink, up: UInt32) {
        self.bytes([0, 0, 0, 0])
        self.native(link.index)
        self.native(up)
        self.native(up)
    }
}
