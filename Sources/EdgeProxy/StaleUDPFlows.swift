public import LinuxNetwork
public import MeshCore

/// UDP flows whose backend may be gone: conntrack would keep sending them there.
public struct StaleUDPFlows: Sendable, Hashable {
    public var frontend: KernelFrontend
    /// Flows to these go on: backends, or the proxy's listeners. Empty if nothing serves the frontend any more.
    public var remainingBackends: Set<TransportAddress>
    /// Where flows went until now: backends, the proxy's listeners, or nowhere. Nil if that is not known.
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
    func merged(with later: StaleUDPFlows) -> StaleUDPFlows {
        var merged = later
        if let former = self.formerBackends {
            merged.formerBackends?.formUnion(former)
        } else {
            merged.formerBackends = nil
        }
        return merged
    }

    /// What names these flows to the kernel; nil if only a look at each flow tells.
    public var filters: [UDPFlowFilter]? {
        guard let former = self.formerBackends else { return nil }
        var address: IPAddress?
        if case .address(let known) = self.frontend.match { address = known }
        var filter = UDPFlowFilter(family: self.frontend.family, destination: address, port: self.frontend.port)
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
}
