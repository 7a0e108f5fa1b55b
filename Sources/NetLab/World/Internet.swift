public import MeshCore

/// The plan of an internet: one router in the middle, and sites around it, each a LAN behind a NAT of some kind. What has no
/// public address is routed nowhere.
public struct Internet {
    /// The name of the router in the middle.
    public static let core = "internet"
    /// The first host of a site behind a NAT has this number in its network.
    private static let firstInside = 10

    private var plan: LabPlan
    private var core = LabPlan.Host(name: Self.core)
    public private(set) var sites: [Site] = []

    /// A LAN and what is between it and the internet.
    public struct Site: Sendable, Hashable {
        public let number: Int
        public let name: String
        public let kind: NATKind
        /// The LAN that its hosts are on.
        public let lan: String
        /// The networks of its hosts, without the hosts' part, such as `10.0.3.` and `/24`.
        private let networks: [Network]
        /// The routers of its hosts.
        public let gateways: [IPAddress]
        /// Its cable to the internet is the core's interface of this name.
        public let uplink: String

        struct Network: Sendable, Hashable {
            var family: IPFamily
            var prefix: String
            var length: Int
        }

        init(number: Int, name: String, kind: NATKind) throws(LabError) {
            self.number = number
            self.name = name
            self.kind = kind
            self.uplink = "wan\(number)"
            self.lan = kind == .open ? self.uplink : "lan\(number)"
            let isOpen = kind == .open
            self.networks = kind.families.sorted { $0.rawValue < $1.rawValue }.map { family in
                switch family {
                case .v4:
                    let prefix = isOpen ? "1.1" : kind == .firewall ? "1.2" : "10.0"
                    return Network(family: .v4, prefix: "\(prefix).\(number).", length: 24)
                case .v6: return Network(family: .v6, prefix: "2a01:\(isOpen ? 1 : 2):\(number)::", length: 64)
                }
            }
            self.gateways = try self.networks.map { network throws(LabError) in
                try Internet.address("\(network.prefix)1")
            }
        }

        /// The addresses of its host with that index. An open site's hosts begin where a router's outside would be.
        public func addresses(of host: Int) throws(LabError) -> [InterfaceAddress] {
            let number = (self.kind == .open ? 2 : Internet.firstInside) + host
            return try self.networks.map { network throws(LabError) in
                try Internet.network("\(network.prefix)\(number)/\(network.length)")
            }
        }

        /// Where anyone can dial a host with that index.
        public func reachableAddresses(of host: Int) throws(LabError) -> [IPAddress] {
            switch self.kind {
            case .open: try self.addresses(of: host).map(\.address)
            case .fullCone: host == 0 ? [try Internet.address("1.1.\(self.number).2")] : []
            default: []
            }
        }

        /// As which addresses its hosts are seen from outside, the ones of its router; empty if they are seen by their own.
        public var maskedBy: [IPAddress] {
            switch self.kind {
            case .open, .firewall, .firewall6: []
            default: IPAddress("1.1.\(self.number).2").map { [$0] } ?? []
            }
        }

        /// Its network in IPv4, or in IPv6 if it has none.
        public var network: String {
            self.networks.first.map { $0.family == .v4 ? "\($0.prefix)0/\($0.length)" : "\($0.prefix)/\($0.length)" }
                ?? ""
        }

        var routes: [LabPlan.Route] { self.gateways.compactMap { LabPlan.Route.defaultRoute(via: $0) } }
    }

    public init(name: String) {
        self.plan = LabPlan(name: name)
        self.core.forwardsPackets = true
    }

    /// The whole plan.
    public func finished() -> LabPlan {
        var plan = self.plan
        plan.add(self.core)
        return plan
    }

    /// Adds a LAN without a line to the internet.
    public mutating func addLAN(_ name: String) {
        self.plan.addLAN(name)
    }

    /// Adds a host or pod that is not one of a site's own.
    public mutating func add(_ host: LabPlan.Host) {
        self.plan.add(host)
    }

    /// Adds a host to a site. Indices count from 0; everything but its interface and routes is as in `host`.
    public mutating func add(_ host: LabPlan.Host, to site: Site, index: Int) throws(LabError) {
        var host = host
        host.interfaces.append(
            .init(name: "eth0", attachment: .lan(site.lan), addresses: try site.addresses(of: index))
        )
        host.routes += site.routes
        self.plan.add(host)
    }

    /// Adds a site with the next number.
    public mutating func addSite(_ kind: NATKind, _ name: String) throws(LabError) -> Site {
        let number = self.sites.count + 1
        guard number < 250 else { throw LabError(.invalidPlan, "an internet has at most 249 sites") }
        let site = try Site(number: number, name: name, kind: kind)
        self.plan.addLAN(site.uplink)
        self.core.interfaces.append(
            .init(
                name: site.uplink,
                attachment: .lan(site.uplink),
                addresses: [try Self.network("1.1.\(number).1/24"), try Self.network("2a01:1:\(number)::1/64")]
            )
        )
        var line = Line()
        if kind.families.contains(.v4) {
            line.addresses.append("1.1.\(number).2/24")
            line.gateways.append("1.1.\(number).1")
            if kind == .firewall {
                self.core.routes.append(try Self.route("1.2.\(number).0/24", "1.1.\(number).2"))
            }
        }
        if kind.families.contains(.v6) {
            line.addresses.append("2a01:1:\(number)::2/64")
            line.gateways.append("2a01:1:\(number)::1")
            if kind != .open {
                self.core.routes.append(try Self.route("2a01:2:\(number)::/64", "2a01:1:\(number)::2"))
            }
        }
        if kind != .open {
            self.plan.addLAN(site.lan)
            let inside = try site.gateways.map { gateway throws(LabError) in
                InterfaceAddress(gateway, prefixLength: gateway.family == .v4 ? 24 : 64)
            }
            let first = try site.addresses(of: 0).first.map { "\($0.address)" } ?? ""
            let router = "\(name)-router"
            if kind == .carrier {
                let middle = "carrier\(number)"
                self.plan.addLAN(middle)
                let carrier = [try Self.network("100.64.\(number).1/24")]
                self.plan.add(
                    try Self.router("\(name)-carrier", kind, (site.uplink, line), (middle, carrier), to: first)
                )
                let shared = Line(addresses: ["100.64.\(number).2/24"], gateways: ["100.64.\(number).1"])
                self.plan.add(try Self.router(router, kind, (middle, shared), (site.lan, inside), to: first))
            } else {
                self.plan.add(try Self.router(router, kind, (site.uplink, line), (site.lan, inside), to: first))
            }
        }
        self.sites.append(site)
        return site
    }

    // MARK: Routers

    /// What a router has on its outside.
    private struct Line {
        var addresses: [String] = []
        var gateways: [String] = []
    }

    private static func router(
        _ name: String,
        _ kind: NATKind,
        _ outside: (lan: String, line: Line),
        _ inside: (lan: String, addresses: [InterfaceAddress]),
        to host: String
    ) throws(LabError) -> LabPlan.Host {
        var router = LabPlan.Host(name: name)
        router.interfaces = [
            .init(
                name: "outside",
                attachment: .lan(outside.lan),
                addresses: try outside.line.addresses.map { text throws(LabError) in try Self.network(text) }
            ),
            .init(name: "inside", attachment: .lan(inside.lan), addresses: inside.addresses),
        ]
        router.routes = try outside.line.gateways.map { text throws(LabError) in try Self.address(text) }
            .compactMap { LabPlan.Route.defaultRoute(via: $0) }
        router.forwardsPackets = true
        router.nftables = Self.rules(kind, host: host)
        return router
    }

    /// No connection comes in that was not begun inside; most routers at home do not answer it. A SYN that meets the remains of a
    /// refused connection is invalid to connection tracking, not new; it must not reach the router's own stack, which
    /// would refuse it.
    private static func rules(_ kind: NATKind, host: String) -> String {
        let masquerade =
            switch kind {
            case .open, .firewall, .firewall6: ""
            case .fullCone, .cone, .masquerade, .refusing, .carrier: "oifname \"outside\" masquerade"
            case .random: "oifname \"outside\" masquerade random"
            case .fullyRandom, .dualStack: "oifname \"outside\" meta nfproto ipv4 masquerade fully-random"
            }
        let forwarded =
            kind.letsAnyoneIn ? "iifname \"outside\" meta l4proto { tcp, udp } dnat ip to \(host)" : ""
        let verdict = kind == .refusing ? "reject with tcp reset" : "drop"
        return """
            table inet site {
                chain prerouting {
                    type nat hook prerouting priority dstnat; policy accept;
                    \(forwarded)
                }
                chain postrouting {
                    type nat hook postrouting priority srcnat; policy accept;
                    \(masquerade)
                }
                chain forward {
                    type filter hook forward priority filter; policy accept;
                    iifname "outside" meta l4proto tcp ct state invalid \(verdict)
                    iifname "outside" meta l4proto tcp ct state new ct status & dnat == 0 \(verdict)
                    iifname "outside" meta l4proto udp ct state new ct status & dnat == 0 drop
                }
                chain input {
                    type filter hook input priority filter; policy accept;
                    iifname "outside" meta l4proto tcp ct state { new, invalid } \(verdict)
                    iifname "outside" meta l4proto udp ct state new drop
                }
            }

            """
    }

    // MARK: Addresses

    private static func address(_ text: String) throws(LabError) -> IPAddress {
        guard let address = IPAddress(text) else { throw LabError(.invalidPlan, "\(text) is no address") }
        return address
    }

    private static func network(_ text: String) throws(LabError) -> InterfaceAddress {
        guard let block = CIDR(text), let address = IPAddress(text.prefix { $0 != "/" }) else {
            throw LabError(.invalidPlan, "\(text) is no network")
        }
        return InterfaceAddress(address, prefixLength: Int(block.prefixLength))
    }

    private static func route(_ block: String, _ gateway: String) throws(LabError) -> LabPlan.Route {
        guard let block = CIDR(block) else { throw LabError(.invalidPlan, "\(block) is no network") }
        return LabPlan.Route(block, via: try Self.address(gateway))
    }
}
