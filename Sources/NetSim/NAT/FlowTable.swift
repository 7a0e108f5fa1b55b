import MeshCore
import NIOCore

/// What a stateful middle box remembers of the flows through it, seen from the inside endpoint. Sans I/O.
struct FlowTable {
    struct Inside: Hashable {
        let transport: TransportProtocol
        let endpoint: TransportAddress
    }

    private enum Phase {
        case datagrams
        /// Packets of one side only.
        case opening
        case established
        case closing
    }

    private struct Flow {
        var phase: Phase
        var expires: NIODeadline
    }

    let timeouts: FlowTimeouts
    let inboundRefresh: Bool
    private var flows: [Inside: [TransportAddress: Flow]] = [:]

    init(timeouts: FlowTimeouts, inboundRefresh: Bool) {
        self.timeouts = timeouts
        self.inboundRefresh = inboundRefresh
    }

    /// Whether packets between the two still pass.
    func isLive(_ inside: Inside, _ remote: TransportAddress, at now: NIODeadline) -> Bool {
        self.flows[inside]?[remote].map { $0.expires > now } ?? false
    }

    /// Whether the inside endpoint has a flow that, as the filter sees it, has to do with `remote`.
    func permits(
        _ filtering: Dependence,
        _ inside: Inside,
        from remote: TransportAddress,
        at now: NIODeadline
    ) -> Bool {
        guard let flows = self.flows[inside] else { return false }
        return flows.contains { other, flow in
            guard flow.expires > now else { return false }
            return switch filtering {
            case .endpointIndependent: true
            case .addressDependent: other.address == remote.address
            case .addressAndPortDependent: other == remote
            }
        }
    }

    /// The remote endpoints of the live flows.
    func remotes(of inside: Inside, at now: NIODeadline) -> some Sequence<TransportAddress> {
        (self.flows[inside] ?? [:]).lazy.filter { $0.value.expires > now }.map(\.key)
    }

    /// A packet between the two passes.
    mutating func note(
        _ inside: Inside,
        _ remote: TransportAddress,
        _ packet: Packet,
        isOutbound: Bool,
        at now: NIODeadline
    ) {
        var known = self.flows[inside]?[remote]
        if let flow = known, flow.expires <= now { known = nil }
        var flow = known ?? Flow(phase: inside.transport == .tcp ? .opening : .datagrams, expires: now)
        if case .tcp(let segment) = packet.payload {
            if !segment.flags.isDisjoint(with: [.rst, .fin]) {
                flow.phase = .closing
            } else if segment.flags == .syn {
                // A new connection of the same endpoints.
                if flow.phase == .closing { flow.phase = .opening }
            } else if flow.phase == .opening {
                flow.phase = .established
            }
        }
        let isRefreshed = known == nil || isOutbound || inside.transport == .tcp || self.inboundRefresh
        if isRefreshed { flow.expires = now + self.timeout(of: flow.phase) }
        self.flows[inside, default: [:]][remote] = flow
    }

    private func timeout(of phase: Phase) -> TimeAmount {
        switch phase {
        case .datagrams: self.timeouts.udp
        case .established: self.timeouts.established
        case .opening, .closing: self.timeouts.transitory
        }
    }

    /// Forgets what has expired.
    mutating func purge(at now: NIODeadline) {
        for (inside, flows) in self.flows {
            let live = flows.filter { $0.value.expires > now }
            self.flows[inside] = live.isEmpty ? nil : live
        }
    }
}
