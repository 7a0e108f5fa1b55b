import Glibc
public import MeshCore

/// Flows that were opened to one destination and are answered from one place.
public struct FlowFilter: Hashable, Sendable {
    public var family: IPFamily
    public var transport = TransportProtocol.udp
    /// Only those that no packet has come back for.
    public var isUnanswered = false
    /// Where clients sent to; nil: any address, for a node port.
    public var destination: IPAddress?
    public var port: UInt16
    /// Where replies come from; nil: anywhere.
    public var replyAddress: IPAddress?
    public var replyPort: UInt16?

    public init(
        family: IPFamily,
        destination: IPAddress?,
        port: UInt16,
        replyAddress: IPAddress? = nil,
        replyPort: UInt16? = nil
    ) {
        self.family = family
        self.destination = destination
        self.port = port
        self.replyAddress = replyAddress
        self.replyPort = replyPort
    }
}

extension Conntrack {
    /// Bits of `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`: the parts of a tuple that must match.
    private struct Parts: OptionSet {
        var rawValue: UInt32
        static let source = Parts(rawValue: 1 << 0)
        static let destination = Parts(rawValue: 1 << 1)
        static let transport = Parts(rawValue: 1 << 3)
        static let sourcePort = Parts(rawValue: 1 << 4)
        static let destinationPort = Parts(rawValue: 1 << 5)
    }

    /// `IPS_SEEN_REPLY` of the flows' status.
    static let seenReply: UInt32 = 1 << 1

    /// Deletes the flows that the filter names: the kernel walks its table once, and nothing is listed. False, and nothing is
    /// deleted, if this kernel cannot (before Linux 6.12, and with a part about replies those that read it by the flags of the
    /// other direction).
    ///
    /// A kernel that ignored the filter would delete every flow of the host. None can: the request has an original tuple, and
    /// with one a kernel without this filter deletes exactly the flow that the tuple names. Ours has no source address, so it
    /// names none, and is refused (EINVAL) before anything is looked up. That holds since ctnetlink exists, so that it needs no
    /// probe and no look at the kernel's version, which vendors' backports make meaningless.
    public func deleteFlows(matching filter: FlowFilter) throws -> Bool {
        var original: Parts = [.transport, .destinationPort]
        var reply: Parts = []
        if filter.destination != nil { original.insert(.destination) }
        if filter.replyAddress != nil { reply.formUnion([.transport, .source]) }
        if filter.replyPort != nil { reply.formUnion([.transport, .sourcePort]) }
        let isV4 = filter.family == .v4
        do {
            try self.socket.request(type: Self.delete, flags: .ack, what: "deleting flows by a filter") { writer in
                writer.netfilterHeader(family: filter.family.number)
                writer.nested(1) { tuple in
                    if let address = filter.destination {
                        tuple.nested(1) { $0.attribute(isV4 ? 2 : 4, address.networkBytes) }
                    }
                    tuple.nested(2) {
                        $0.attribute(1, native: filter.transport.rawValue)
                        $0.attribute(3, network: filter.port)
                    }
                }
                if !reply.isEmpty {
                    writer.nested(2) { tuple in
                        if let address = filter.replyAddress {
                            tuple.nested(1) { $0.attribute(isV4 ? 1 : 3, address.networkBytes) }
                        }
                        tuple.nested(2) {
                            $0.attribute(1, native: filter.transport.rawValue)
                            if let port = filter.replyPort { $0.attribute(2, network: port) }
                        }
                    }
                }
                if filter.isUnanswered {
                    writer.attribute(3, network: UInt32(0))
                    writer.attribute(26, network: Self.seenReply)
                }
                writer.nested(25) {
                    $0.attribute(1, native: original.rawValue)
                    $0.attribute(2, native: reply.rawValue)
                }
            }
            return true
        } catch {
            guard error.errno == EINVAL || error.errno == EOPNOTSUPP else { throw error }
            return false
        }
    }
}
