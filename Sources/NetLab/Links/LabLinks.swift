import CLinux
import Glibc
import MeshCore
import NIOPosix
import Synchronization

/// The cables of a lab that end on its LANs. A cable that delays or loses frames has a forwarder between its end and the
/// LAN; without, the kernel carries them.
final class LabLinks: Sendable {
    struct Key: Hashable {
        var host: String
        var interface: String
    }

    private struct Link {
        let cable: LabPlan.Cable
        /// The bridge it is plugged into now.
        var bridge: String
        var conditions = LinkConditions()
        var forwarder: LinkForwarder?

        /// Between the forwarder and the bridge.
        var innerPort: String { self.cable.port + "i" }
        var outerPort: String { self.cable.port + "o" }
    }

    private let plan: LabPlan
    private let links: Mutex<[Key: Link]>

    init(_ plan: LabPlan) {
        self.plan = plan
        let links = plan.cables.filter { $0.farNamespace == plan.switchNamespace }.map { cable in
            (Key(host: cable.host, interface: cable.interface.name), Link(cable: cable, bridge: cable.bridge))
        }
        self.links = Mutex(Dictionary(links) { first, _ in first })
    }

    func conditions(of key: Key) -> LinkConditions? { self.links.withLock { $0[key]?.conditions } }
    func counters(of key: Key) -> LinkForwarder.Counters? { self.links.withLock { $0[key]?.forwarder?.counters } }

    func stop() {
        self.links.withLock { links in
            for link in links.values { link.forwarder?.stop() }
        }
    }

    /// Blocks for some milliseconds, and others who change a link of this lab as long.
    func change(_ key: Key, in lab: Lab, to conditions: LinkConditions) throws(LabError) {
        try self.withLink(key) { link throws(LabError) in
            if conditions.isShaped, let forwarder = link.forwarder {
                forwarder.change(conditions)
            } else if conditions.isShaped {
                try self.insertForwarder(into: &link, in: lab, conditions)
            } else if link.forwarder != nil {
                try self.removeForwarder(from: &link, in: lab)
            }
            if conditions.isUp != link.conditions.isUp {
                try self.run(["link set dev \(link.cable.port) \(conditions.isUp ? "up" : "down")"])
            }
            link.conditions = conditions
        }
    }

    /// Plugs a cable into another LAN.
    func attach(_ key: Key, to lan: String) throws(LabError) {
        guard self.plan.lans.contains(lan) else {
            throw LabError(.usage, "there is no LAN '\(lan)'; there are: \(self.plan.lans.joined(separator: ", "))")
        }
        let bridge = self.plan.bridge(ofLAN: lan)
        try self.withLink(key) { link throws(LabError) in
            let port = link.forwarder == nil ? link.cable.port : link.outerPort
            try self.run(["link set dev \(port) master \(bridge)"])
            link.bridge = bridge
        }
    }

    private func withLink(_ key: Key, _ body: (inout Link) throws(LabError) -> Void) throws(LabError) {
        try self.links.withLock { links throws(LabError) in
            guard var link = links[key] else {
                throw LabError(.usage, "'\(key.host)' has no interface '\(key.interface)' on a LAN")
            }
            defer { links[key] = link }
            try body(&link)
        }
    }

    private func run(_ commands: [String]) throws(LabError) {
        try Command.runIP(in: self.plan.switchNamespace, commands)
    }

    private func insertForwarder(
        into link: inout Link,
        in lab: Lab,
        _ conditions: LinkConditions
    ) throws(LabError) {
        let mtu = link.cable.interface.mtu.map { "mtu \($0) " } ?? ""
        try self.run([
            "link set dev \(link.cable.port) nomaster",
            "link add name \(link.innerPort) \(mtu)type veth peer name \(link.outerPort) \(mtu)",
            "link set dev \(link.outerPort) master \(link.bridge) up", "link set dev \(link.innerPort) up",
        ])
        let (inner, outer) = (link.innerPort, link.outerPort)
        let (cable, interface) = (link.cable.port, link.cable.interface.name)
        try lab.withNetwork(of: link.cable.host) { () throws(LabError) in try Self.setOffloads(interface, false) }
        let seed = UInt64.random(in: 0...UInt64.max)
        let namespace = try NamespaceHandle(named: self.plan.switchNamespace)
        link.forwarder = try namespace.perform { () throws(LabError) in
            try Self.setOffloads(outer, false)
            return try LinkForwarder(between: cable, and: inner, conditions, seed: seed)
        }
    }

    private func removeForwarder(from link: inout Link, in lab: Lab) throws(LabError) {
        link.forwarder?.stop()
        link.forwarder = nil
        let interface = link.cable.interface.name
        try lab.withNetwork(of: link.cable.host) { () throws(LabError) in try Self.setOffloads(interface, true) }
        try self.run(
            ["link del dev \(link.innerPort)"] + LabScript.plugIn(link.cable.port, to: link.bridge)
                + (link.conditions.isUp ? [] : ["link set dev \(link.cable.port) down"])
        )
    }

    /// A frame that a forwarder sees is one that a wire could carry: with its checksum, and no longer than the MTU.
    private static func setOffloads(_ interface: String, _ isOn: Bool) throws(LabError) {
        guard clinux_interface_set_offloads(interface, isOn ? 1 : 0) == 0 else {
            throw LabError(.notPermitted, "cannot set the offloads of \(interface)", cause: describe(errno: errno))
        }
    }
}

extension Lab {
    /// Changes the link between a host and its LAN; holds when it returns.
    public func setLink(
        of host: String,
        interface: String = "eth0",
        to conditions: LinkConditions
    ) async throws {
        let key = LabLinks.Key(host: host, interface: interface)
        try await NIOThreadPool.singleton.runIfActive { try self.links.change(key, in: self, to: conditions) }
    }

    /// How the link is; nil if the host has no such interface on a LAN.
    public func link(of host: String, interface: String = "eth0") -> LinkConditions? {
        self.links.conditions(of: LabLinks.Key(host: host, interface: interface))
    }

    /// Plugs a host into another LAN. Its addresses are its own business.
    public func attach(_ host: String, interface: String = "eth0", to lan: String) async throws {
        let key = LabLinks.Key(host: host, interface: interface)
        try await NIOThreadPool.singleton.runIfActive { try self.links.attach(key, to: lan) }
    }

    /// Runs commands of `ip` in a host, in one go.
    func configure(_ host: String, _ commands: [String]) async throws {
        let namespace = self.plan.namespace(of: host)
        try await NIOThreadPool.singleton.runIfActive { try Command.runIP(in: namespace, commands) }
    }
}
