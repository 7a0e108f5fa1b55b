import MeshCore
import NetLab

/// The plan of an internet: one router in the middle, and sites around it, each with a NAT of some kind and one host behind it.
/// What has no public address is routed nowhere.
struct Internet {
    private(set) var plan: LabPlan
    private(set) var sites: [Site] = []
    private var core = LabPlan.Host(name: "internet")

    static let port = 4001

    struct Site: Sendable {
        let number: Int
        let kind: NATKind
        /// The host that peers run on.
        let host: String
        let addresses: [IPAddress]

        /// What its peer listens on.
        var listen: [String] {
            (self.kind.families.contains(.v4) ? ["/ip4/0.0.0.0/tcp/\(Internet.port)"] : [])
                + (self.kind.families.contains(.v6) ? ["/ip6/::/tcp/\(Internet.port)"] : [])
        }

        /// Where anyone can dial it.
        var reachableAt: [String] {
            guard self.kind.isReachable else { return [] }
            return self.kind == .open
                ? self.addresses.map(Self.text) : ["/ip4/1.1.\(self.number).2/tcp/\(Internet.port)"]
        }

        private static func text(_ address: IPAddress) -> String {
            "/ip\(address.family == .v4 ? 4 : 6)/\(address)/tcp/\(Internet.port)"
        }
    }

    init(name: String) {
        self.plan = LabPlan(name: name)
        self.core.forwardsPackets = true
    }

    /// The whole plan.
    func finished() -> LabPlan {
        var plan = self.plan
        plan.add(self.core)
        return plan
    }

    /// Adds a site with the next number.
    mutating func addSite(_ kind: NATKind, _ name: String) throws -> Site {
        let number = self.sites.count + 1
        let wan = "wan\(number)"
        let lan = "lan\(number)"
        self.plan.addLAN(wan)
        self.core.interfaces.append(
            .init(
                name: wan,
                attachment: .lan(wan),
                addresses: [try Self.network("1.1.\(number).1/24"), try Self.network("2a01:1:\(number)::1/64")]
            )
        )
        var host = LabPlan.Host(name: name)
        var outside: (addresses: [String], gateways: [String]) = ([], [])
        var inside: [(address: String, gateway: String)] = []
        if kind.families.contains(.v4) {
            outside.addresses.append("1.1.\(number).2/24")
            outside.gateways.append("1.1.\(number).1")
            if kind == .firewall {
                inside.append(("1.2.\(number).10/24", "1.2.\(number).1"))
                self.core.routes.append(try Self.route("1.2.\(number).0/24", "1.1.\(number).2"))
            } else {
                inside.append(("10.0.\(number).10/24", "10.0.\(number).1"))
            }
        }
        if kind.families.contains(.v6) {
            outside.addresses.append("2a01:1:\(number)::2/64")
            outside.gateways.append("2a01:1:\(number)::1")
            inside.append(("2a01:2:\(number)::10/64", "2a01:2:\(number)::1"))
            self.core.routes.append(try Self.route("2a01:2:\(number)::/64", "2a01:1:\(number)::2"))
        }
        if kind == .open {
            host.interfaces = [
                .init(name: "eth0", attachment: .lan(wan), addresses: try outside.addresses.map(Self.network))
            ]
            host.routes = try outside.gateways.map(Self.defaultRoute)
        } else {
            self.plan.addLAN(lan)
            let home = (
                addresses: inside.map { "\($0.gateway)/\($0.address.split(separator: "/")[1])" }, lan: lan
            )
            if kind == .carrier {
                let middle = "carrier\(number)"
                self.plan.addLAN(middle)
                self.plan.add(
                    try Self.router(
                        "\(name)-carrier",
                        kind,
                        wan,
                        outside,
                        (["100.64.\(number).1/24"], middle),
                        host: ""
                    )
                )
                let line = (addresses: ["100.64.\(number).2/24"], gateways: ["100.64.\(number).1"])
                self.plan.add(try Self.router("\(name)-router", kind, middle, line, home, host: ""))
            } else {
                let address = inside.first?.address.prefix { $0 != "/" } ?? ""
                self.plan.add(try Self.router("\(name)-router", kind, wan, outside, home, host: String(address)))
            }
            host.interfaces = [
                .init(
                    name: "eth0",
                    attachment: .lan(lan),
                    addresses: try inside.map { try Self.network($0.address) }
                )
            ]
            host.routes = try inside.map { try Self.defaultRoute($0.gateway) }
        }
        self.plan.add(host)
        let site = Site(
            number: number,
            kind: kind,
            host: name,
            addresses: host.interfaces.flatMap { $0.addresses.map(\.address) }
        )
        self.sites.append(site)
        return site
    }

    // MARK: Routers

    private static func router(
        _ name: String,
        _ kind: NATKind,
        _ wan: String,
        _ outside: (addresses: [String], gateways: [String]),
        _ inside: (addresses: [String], lan: String),
        host: String
    ) throws -> LabPlan.Host {
        var router = LabPlan.Host(name: name)
        router.interfaces = [
            .init(name: "outside", attachment: .lan(wan), addresses: try outside.addresses.map(Self.network)),
            .init(
                name: "inside",
                attachment: .lan(inside.lan),
                addresses: try inside.addresses.map(Self.network)
            ),
        ]
        router.routes = try outside.gateways.map(Self.defaultRoute)
        router.forwardsPackets = true
        router.nftables = Self.rules(kind, host: host)
        return router
    }

    /// No connection comes in that was not begun inside; most routers at home do not answer it.
    private static func rules(_ kind: NATKind, host: String) -> String {
        let masquerade =
            switch kind {
            case .open, .firewall, .firewall6: ""
            case .fullCone, .cone, .masquerade, .refusing, .carrier: "oifname \"outside\" masquerade"
            case .random: "oifname \"outside\" masquerade random"
            case .fullyRandom, .dualStack: "oifname \"outside\" meta nfproto ipv4 masquerade fully-random"
            }
        let forwarded =
            kind.letsAnyoneIn ? "iifname \"outside\" meta l4proto tcp dnat ip to \(host)" : ""
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
                    iifname "outside" meta l4proto tcp ct state new ct status & dnat == 0 \(verdict)
                }
                chain input {
                    type filter hook input priority filter; policy accept;
                    iifname "outside" meta l4proto tcp ct state new \(verdict)
                }
            }

            """
    }

    // MARK: Addresses

    private static func network(_ text: String) throws -> InterfaceAddress {
        guard let block = CIDR(text), let address = IPAddress(text.prefix { $0 != "/" }) else {
            throw GridError("\(text) is no network")
        }
        return InterfaceAddress(address, prefixLength: Int(block.prefixLength))
    }

    private static func route(_ block: String, _ gateway: String) throws -> LabPlan.Route {
        guard let block = CIDR(block), let gateway = IPAddress(gateway) else {
            throw GridError("\(block) is no network")
        }
        return LabPlan.Route(block, via: gateway)
    }

    private static func defaultRoute(_ gateway: String) throws -> LabPlan.Route {
        guard let address = IPAddress(gateway), let route = LabPlan.Route.defaultRoute(via: address) else {
            throw GridError("\(gateway) is no address")
        }
        return route
    }
}

struct GridError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}
