import MeshCore
public import NIOCore

/// A stateful firewall, which lets in what belongs to something from inside. Sans I/O.
public struct FirewallTable: Sendable {
    public let filtering: Dependence
    /// Ports that are open to everyone.
    public let openPorts: Set<UInt16>
    /// Refused connections are told so by an RST, refused datagrams by ICMP (RFC 1812 section 5.2.7.1).
    public let rejects: Bool
    private var flows: FlowTable

    public init(
        filtering: Dependence = .addressAndPortDependent,
        openPorts: Set<UInt16> = [],
        rejects: Bool = false,
        timeouts: FlowTimeouts = FlowTimeouts()
    ) {
        self.filtering = filtering
        self.openPorts = openPorts
        self.rejects = rejects
        self.flows = FlowTable(timeouts: timeouts, inboundRefresh: true)
    }

    public mutating func outbound(_ packet: Packet, at now: NIODeadline) -> Verdict {
        if let transport = packet.transport {
            let inside = FlowTable.Inside(transport: transport, endpoint: packet.source)
            self.flows.note(inside, packet.destination, packet, isOutbound: true, at: now)
        }
        return .forward(packet)
    }

    public mutating func inbound(_ packet: Packet, at now: NIODeadline) -> Verdict {
        if case .unreachable(let about) = packet.payload {
            let inside = FlowTable.Inside(transport: about.transport, endpoint: about.source)
            let isKnown = self.flows.isLive(inside, about.destination, at: now)
            return isKnown ? .forward(packet) : .drop(.filtered)
        }
        guard let transport = packet.transport else { return .drop(.filtered) }
        let inside = FlowTable.Inside(transport: transport, endpoint: packet.destination)
        let isKnown = self.flows.isLive(inside, packet.source, at: now)
        let isWelcome =
            packet.opensFlow
            && (self.openPorts.contains(packet.destination.port)
                || self.flows.permits(self.filtering, inside, from: packet.source, at: now))
        guard isKnown || isWelcome else {
            guard self.rejects, packet.opensFlow, let refusal = packet.refusal else { return .drop(.filtered) }
            return .reply(refusal)
        }
        self.flows.note(inside, packet.source, packet, isOutbound: false, at: now)
        return .forward(packet)
    }

    /// Forgets all flows, as a restart does.
    public mutating func reset() {
        self.flows = FlowTable(timeouts: self.flows.timeouts, inboundRefresh: true)
    }
}

extension Packet {
    /// A datagram, or a SYN: what can be the first packet of a flow.
    var opensFlow: Bool {
        switch self.payload {
        case .tcp(let segment): segment.flags == .syn
        case .udp: true
        case .unreachable: false
        }
    }

    /// What a box or a machine answers that does not take the packet.
    var refusal: Packet? {
        if case .tcp(let segment) = self.payload {
            guard let reset = segment.refusal else { return nil }
            return Packet(from: self.destination, to: self.source, .tcp(reset))
        }
        return self.unreachable(.port, from: self.destination.address)
    }
}
