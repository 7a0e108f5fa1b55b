import Glibc
public import MeshCore
import Synchronization

/// What goes wrong in the world.
///
/// A node's clock can stand still and jump (`pauseAgent`, `resumeAgent`), as when a machine sleeps. Its wall clock alone cannot be set:
/// Linux has one for all of a machine, in every namespace.
extension World {
    // MARK: Links

    /// The link of a LAN is its line to the internet, that of a node its cable to the LAN.
    public func link(_ name: String) throws(LabError) -> LinkConditions {
        let (host, interface) = try self.cable(name)
        return self.lab.link(of: host, interface: interface) ?? LinkConditions()
    }

    public func setLink(_ name: String, to conditions: LinkConditions) async throws {
        let (host, interface) = try self.cable(name)
        try await self.lab.setLink(of: host, interface: interface, to: conditions)
    }

    /// Changes a link as a shell has it: `down`, `up`, `clear`, `delay=50ms`, `loss=1%`.
    ///
    /// - Returns: How the link is then.
    @discardableResult
    public func changeLink(_ name: String, _ changes: [String]) async throws -> LinkConditions {
        var conditions = try self.link(name)
        for change in changes { try conditions.apply(change) }
        try await self.setLink(name, to: conditions)
        return conditions
    }

    private func cable(_ name: String) throws(LabError) -> (host: String, interface: String) {
        if let site = self.sites[name] { return (Internet.core, site.uplink) }
        guard self.state.withLock({ $0.nodes[name] }) != nil else {
            let names = self.scenario.lans.map(\.name) + self.scenario.nodes.map(\.name)
            throw LabError(.usage, "there is no link '\(name)'; there are: \(names.joined(separator: ", "))")
        }
        return (name, "eth0")
    }

    // MARK: Agents

    /// SIGKILL. Its rules stay in the kernel, as after a crash.
    public func killAgent(of node: String) async throws {
        let agent = try self.requireAgent(of: node)
        try await agent.kill()
    }

    /// SIGTERM.
    @discardableResult
    public func stopAgent(of node: String) async throws -> ExitStatus {
        try await self.requireAgent(of: node).stop(grace: .seconds(10))
    }

    /// Lets the agent of a node stand still: peers see a node that is silent but not gone.
    public func pauseAgent(of node: String) throws(LabError) {
        try self.requireAgent(of: node).signal(SIGSTOP)
        self.state.withLock { _ = $0.paused.insert(node) }
    }

    /// Lets it go on. To it the clock has jumped.
    public func resumeAgent(of node: String) throws(LabError) {
        try self.requireAgent(of: node).signal(SIGCONT)
        self.state.withLock { _ = $0.paused.remove(node) }
    }

    private func requireAgent(of node: String) throws(LabError) -> LabProcess {
        guard let agent = try self.agent(of: node) else {
            throw LabError(.usage, "the agent of '\(node)' does not run")
        }
        return agent
    }

    // MARK: Addresses

    /// Gives a node the next address of its LAN, as a DHCP server may. The old one is gone at once.
    ///
    /// - Parameter isPublished: Whether the cluster's own record of the node follows.
    @discardableResult
    public func renumber(_ node: String, isPublished: Bool = true) async throws -> IPAddress {
        try await self.move(node, to: self.node(node).lan, isPublished: isPublished)
    }

    /// Plugs a node into another LAN, where it gets an address: from one Wi-Fi to another.
    @discardableResult
    public func move(_ node: String, to lan: String, isPublished: Bool = true) async throws -> IPAddress {
        var node = try self.node(node)
        guard let site = self.sites[lan] else {
            let names = self.scenario.lans.map(\.name).joined(separator: ", ")
            throw LabError(.usage, "there is no LAN '\(lan)'; there are: \(names)")
        }
        let index = self.state.withLock { state in
            state.nextIndex[lan, default: 0] += 1
            return state.nextIndex[lan, default: 0] - 1
        }
        let addresses = try site.addresses(of: index)
        guard index < 200, let address = addresses.first?.address else {
            throw LabError(.usage, "LAN '\(lan)' has no address left")
        }
        if node.lan != lan { try await self.lab.attach(node.name, to: site.lan) }
        // Routes by way of an address go with it.
        try await self.lab.configure(
            node.name,
            ["addr flush dev eth0 scope global"]
                + addresses.map { LabScript.addressCommand($0, on: "eth0") }
                + site.routes.map { "route replace \($0.destination) via \($0.gateway)" }
        )
        node.lan = lan
        node.index = index
        node.address = address
        let moved = node
        self.state.withLock { $0.nodes[moved.name] = moved }
        if isPublished { try self.apply(WorldManifests.nodeFile(node.name), WorldManifests.node(node)) }
        return address
    }
}
