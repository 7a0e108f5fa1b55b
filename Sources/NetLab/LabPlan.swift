public import MeshCore

/// What a lab consists of: hosts and routers (network namespaces) on LANs (bridges). A value; nothing exists until
/// `Lab.create` builds it.
public struct LabPlan: Sendable, Hashable {
    /// Tells labs on one machine apart; part of the names of namespaces.
    public var name: String
    public private(set) var lans: [String] = []
    public private(set) var hosts: [Host] = []

    public init(name: String) {
        self.name = name
    }

    /// Adds settings of the kernel, by their paths under `/proc/sys/net`, to all hosts that do not have their own.
    mutating func setOnAllHosts(_ sysctls: [String: String]) {
        for index in self.hosts.indices { self.hosts[index].sysctls.merge(sysctls) { own, _ in own } }
    }

    public struct Host: Sendable, Hashable {
        public var name: String
        public var interfaces: [Interface] = []
        /// Bridges inside the host, such as a node's `cni0`.
        public var bridges: [Bridge] = []
        public var routes: [Route] = []
        /// A node or a router.
        public var forwardsPackets = false
        /// Interfaces on which traffic that leaves takes the interface's address, as a NAT router does.
        public var masqueradedInterfaces: [String] = []
        /// Further tables of its packet filter, in the language of `nft -f`.
        public var nftables = ""
        /// Keys as paths under `/proc/sys/net`, such as `ipv4/conf/all/rp_filter`.
        public var sysctls: [String: String] = [:]
        /// What its processes see as `/etc/resolv.conf`.
        public var resolverConfiguration = ""
        /// Whether its processes see a `/run/edgemesh` of their own, so that each node of a lab can have its agent.
        public var hasOwnRunDirectory = false

        public init(name: String) {
            self.name = name
        }
    }

    /// A network card of a host: one end of a veth pair.
    public struct Interface: Sendable, Hashable {
        public enum Attachment: Sendable, Hashable {
            case lan(String)
            case bridge(String, on: String)
        }

        public var name: String
        public var attachment: Attachment
        public var addresses: [InterfaceAddress]
        public var mtu: Int?

        public init(name: String, attachment: Attachment, addresses: [InterfaceAddress], mtu: Int? = nil) {
            self.name = name
            self.attachment = attachment
            self.addresses = addresses
            self.mtu = mtu
        }
    }

    public struct Bridge: Sendable, Hashable {
        public var name: String
        public var addresses: [InterfaceAddress]

        public init(name: String, addresses: [InterfaceAddress]) {
            self.name = name
            self.addresses = addresses
        }
    }

    public struct Route: Sendable, Hashable {
        public var destination: CIDR
        public var gateway: IPAddress

        public init(_ destination: CIDR, via gateway: IPAddress) {
            self.destination = destination
            self.gateway = gateway
        }

        /// The default route of the gateway's address family.
        public static func defaultRoute(via gateway: IPAddress) -> Route? {
            let any: IPAddress = gateway.family == .v4 ? .v4(.any) : .v6(.any)
            return CIDR(any, prefixLength: 0).map { Route($0, via: gateway) }
        }
    }
}

/// An address together with the length of the network it lies in.
public struct InterfaceAddress: Sendable, Hashable, CustomStringConvertible {
    public var address: IPAddress
    public var prefixLength: Int

    public init(_ address: IPAddress, prefixLength: Int) {
        self.address = address
        self.prefixLength = prefixLength
    }

    public init(_ address: IPv4Address, prefixLength: Int) {
        self.init(.v4(address), prefixLength: prefixLength)
    }

    public var description: String { "\(self.address)/\(self.prefixLength)" }
}

extension LabPlan {
    public mutating func addLAN(_ name: String) {
        self.lans.append(name)
    }

    public mutating func add(_ host: Host) {
        self.hosts.append(host)
    }

    /// A host with one interface on a LAN.
    public mutating func addHost(
        _ name: String,
        on lan: String,
        address: InterfaceAddress,
        gateway: IPAddress? = nil,
        resolverConfiguration: String = ""
    ) {
        var host = Host(name: name)
        host.interfaces = [Interface(name: "eth0", attachment: .lan(lan), addresses: [address])]
        host.routes = gateway.flatMap { Route.defaultRoute(via: $0) }.map { [$0] } ?? []
        host.resolverConfiguration = resolverConfiguration
        self.add(host)
    }

    /// A node: a host on a LAN with a bridge for its pods.
    public mutating func addNode(
        _ name: String,
        on lan: String,
        address: InterfaceAddress,
        podBridge: InterfaceAddress,
        gateway: IPAddress? = nil,
        resolverConfiguration: String = ""
    ) {
        self.addHost(
            name,
            on: lan,
            address: address,
            gateway: gateway,
            resolverConfiguration: resolverConfiguration
        )
        self.hosts[self.hosts.count - 1].bridges = [Bridge(name: "cni0", addresses: [podBridge])]
        self.hosts[self.hosts.count - 1].forwardsPackets = true
    }

    /// A pod: a host whose only interface is on the pod bridge of `node`, which is its default gateway.
    public mutating func addPod(
        _ name: String,
        on node: String,
        address: InterfaceAddress,
        furtherAddresses: [InterfaceAddress] = [],
        resolverConfiguration: String = ""
    ) {
        var pod = Host(name: name)
        pod.interfaces = [
            Interface(name: "eth0", attachment: .bridge("cni0", on: node), addresses: [address] + furtherAddresses)
        ]
        let bridge = self.hosts.first { $0.name == node }?.bridges.first { $0.name == "cni0" }
        pod.routes = (bridge?.addresses ?? []).filter { $0.address.family == address.address.family }
            .compactMap { Route.defaultRoute(via: $0.address) }
        pod.resolverConfiguration = resolverConfiguration
        self.add(pod)
    }

    /// A router that hides the LAN `inside` behind its address on the LAN `outside`.
    public mutating func addNATRouter(
        _ name: String,
        inside: String,
        insideAddress: InterfaceAddress,
        outside: String,
        outsideAddress: InterfaceAddress,
        gateway: IPAddress? = nil
    ) {
        var router = Host(name: name)
        router.interfaces = [
            Interface(name: "outside", attachment: .lan(outside), addresses: [outsideAddress]),
            Interface(name: "inside", attachment: .lan(inside), addresses: [insideAddress]),
        ]
        router.routes = gateway.flatMap { Route.defaultRoute(via: $0) }.map { [$0] } ?? []
        router.forwardsPackets = true
        router.masqueradedInterfaces = ["outside"]
        self.add(router)
    }

    /// The bridge of a LAN in the switch's namespace.
    func bridge(ofLAN lan: String) -> String { "lan\(self.lans.firstIndex(of: lan) ?? 0)" }

    /// What an interface of a host is plugged into.
    struct Cable: Sendable, Hashable {
        var host: String
        var interface: Interface
        /// The name of its far end, in the namespace `farNamespace`, where it is a port of `bridge`.
        var port: String
        var farNamespace: String
        var bridge: String
    }

    var cables: [Cable] {
        let ends = self.hosts.flatMap { host in host.interfaces.map { (host.name, $0) } }
        return ends.enumerated().map { number, end in
            let (namespace, bridge) =
                switch end.1.attachment {
                case .lan(let lan): (self.switchNamespace, self.bridge(ofLAN: lan))
                case .bridge(let bridge, let node): (self.namespace(of: node), bridge)
                }
            return Cable(
                host: end.0,
                interface: end.1,
                port: "veth\(number)",
                farNamespace: namespace,
                bridge: bridge
            )
        }
    }

    /// The network namespace of a host.
    public func namespace(of host: String) -> String { "emlab-\(self.name)-\(host)" }

    /// Holds the bridges of all LANs, so that none of them touches the machine's own network.
    var switchNamespace: String { self.namespace(of: "switch") }

    var namespaces: [String] {
        (self.lans.isEmpty ? [] : [self.switchNamespace]) + self.hosts.map { self.namespace(of: $0.name) }
    }
}

extension LabPlan {
    /// Throws `.invalidPlan` naming the first contradiction.
    func validate() throws(LabError) {
        try Self.checkName(self.name, of: "lab")
        var seen: Set<String> = ["switch"]
        for host in self.hosts {
            try Self.checkName(host.name, of: "host")
            guard seen.insert(host.name).inserted else {
                throw LabError(.invalidPlan, "two hosts are named '\(host.name)' (or one is named 'switch')")
            }
            var names: Set<String> = ["lo"]
            for name in host.interfaces.map(\.name) + host.bridges.map(\.name) {
                guard names.insert(name).inserted, (1...15).contains(name.utf8.count) else {
                    throw LabError(
                        .invalidPlan,
                        "interface '\(name)' of '\(host.name)': a name is 1 to 15 bytes long and used once"
                    )
                }
            }
            for interface in host.interfaces where !self.exists(interface.attachment) {
                throw LabError(
                    .invalidPlan,
                    "'\(host.name)' is attached to \(interface.attachment), which does not exist"
                )
            }
        }
    }

    private func exists(_ attachment: Interface.Attachment) -> Bool {
        switch attachment {
        case .lan(let name): self.lans.contains(name)
        case .bridge(let bridge, let host):
            self.hosts.contains { $0.name == host && $0.bridges.contains { $0.name == bridge } }
        }
    }

    /// Names become parts of file names and of `ip` commands: letters, digits and dashes only.
    static func checkName(_ name: String, of what: String) throws(LabError) {
        let allowed = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"): true
            default: false
            }
        }
        guard allowed, (1...40).contains(name.utf8.count), name.utf8.first != UInt8(ascii: "-") else {
            throw LabError(
                .invalidPlan,
                "'\(name)' is no name of a \(what): use 1 to 40 lower-case letters, digits and dashes, no dash first"
            )
        }
    }
}
