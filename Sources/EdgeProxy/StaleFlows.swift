public import LinuxNetwork
public import MeshCore

/// Flows to a frontend that conntrack would keep sending where nobody takes them: UDP flows whose backend may be gone, and TCP
/// connections that were begun while nothing served the frontend, whose SYNs go untranslated however often they are sent again.
public struct StaleFlows: Sendable, Hashable {
    public var frontend: KernelFrontend
    /// Flows to these go on: backends, or the proxy's listeners. Empty if nothing serves the frontend any more.
    public var remainingBackends: Set<TransportAddress>
    /// Where UDP flows went until now: backends, the proxy's listeners, or nowhere. Nil if that is not known.
    public var formerBackends: Set<TransportAddress>?

    public init(
        frontend: KernelFrontend,
        remainingBackends: Set<TransportAddress>,
        formerBackends: Set<TransportAddress>? = nil
    ) {
        self.frontend = frontend
        self.remainingBackends = remainingBackends
        self.formerBackends = formerBackends
    }

    /// Both, of one frontend: `later` tells what remains.
    func merged(with later: StaleFlows) -> StaleFlows {
        var merged = later
        if let former = self.formerBackends {
            merged.formerBackends?.formUnion(former)
        } else {
            merged.formerBackends = nil
        }
        return merged
    }

    /// What names these flows to the kernel; nil if only a look at each flow tells.
    public var filters: [FlowFilter]? {
        var address: IPAddress?
        if case .address(let known) = self.frontend.match { address = known }
        var filter = FlowFilter(family: self.frontend.family, destination: address, port: self.frontend.port)
        if self.frontend.transport == .tcp {
            filter.transport = .tcp
            filter.replyAddress = address
            filter.replyPort = self.frontend.port
            filter.isUnanswered = true
            return [filter]
        }
        guard let former = self.formerBackends else { return nil }
        if address != nil, self.remainingBackends.isEmpty { return [filter] }
        var filters = former.subtracting(self.remainingBackends).sorted().map { backend in
            filter.replyAddress = backend.address
            filter.replyPort = backend.port
            return filter
        }
        if former.isEmpty {
            // Nobody translated until now: who was sent to answers.
            filter.replyAddress = address
            filter.replyPort = self.frontend.port
            filters.append(filter)
        }
        return filters
    }

    /// Whether it is one of them, for kernels that take no filters.
    public func contains(_ flow: Conntrack.Flow) -> Bool {
        guard flow.transport == self.frontend.transport.rawValue, flow.destination.port == self.frontend.port else {
            return false
        }
        switch self.frontend.match {
        case .address(let address): guard address == flow.destination.address else { return false }
        case .nodePort(let family): guard family == flow.destination.address.family else { return false }
        }
        return self.frontend.transport == .tcp
            ? !flow.isAnswered && flow.replySource == flow.destination
            : !self.remainingBackends.contains(flow.replySource)
    }
}
