public import NIOCore

/// What a translation or a filter depends on (RFC 4787 sections 4.1 and 5, RFC 5382 section 4).
public enum Dependence: String, Sendable, Hashable, CaseIterable {
    /// On the inside address and port alone.
    case endpointIndependent
    /// On the remote address, too.
    case addressDependent
    /// On the remote address and port, too.
    case addressAndPortDependent
}

/// How a NAT behaves, in the terms of RFC 4787 (UDP) and RFC 5382 (TCP).
public struct NATBehavior: Sendable, Hashable {
    public enum PortAssignment: String, Sendable, Hashable, CaseIterable {
        /// The inside port, unless it is taken; then the next free one (RFC 4787 section 4.2.1).
        case preserving
        case sequential
        case random
    }

    /// Where an inbound SYN ends up that is not let in (RFC 5382 section 4.3).
    public enum UnsolicitedSYN: String, Sendable, Hashable, CaseIterable {
        case drop
        /// An RST is sent, which spoils a simultaneous open.
        case reset
    }

    public var mapping: Dependence
    public var filtering: Dependence
    public var ports: PortAssignment
    /// Packets from inside to an outside address of the NAT come back in (RFC 4787 section 6).
    public var hairpinning: Bool
    public var unsolicitedSYN: UnsolicitedSYN
    public var timeouts: FlowTimeouts
    /// What comes from outside keeps a UDP mapping alive, too (RFC 4787 section 4.3, "NAT inbound refresh behavior").
    public var inboundRefresh: Bool
    /// Mappings at most; packets that would need more are dropped.
    public var maximumMappings: Int

    public init(
        mapping: Dependence = .endpointIndependent,
        filtering: Dependence = .addressAndPortDependent,
        ports: PortAssignment = .preserving,
        hairpinning: Bool = false,
        unsolicitedSYN: UnsolicitedSYN = .drop,
        timeouts: FlowTimeouts = FlowTimeouts(),
        inboundRefresh: Bool = true,
        maximumMappings: Int = 16 * 1024
    ) {
        self.mapping = mapping
        self.filtering = filtering
        self.ports = ports
        self.hairpinning = hairpinning
        self.unsolicitedSYN = unsolicitedSYN
        self.timeouts = timeouts
        self.inboundRefresh = inboundRefresh
        self.maximumMappings = maximumMappings
    }

    // The names of RFC 3489, which people know these by.
    public static let fullCone = NATBehavior(filtering: .endpointIndependent)
    public static let restrictedCone = NATBehavior(filtering: .addressDependent)
    public static let portRestrictedCone = NATBehavior()
    public static let symmetric = NATBehavior(mapping: .addressAndPortDependent, ports: .random)
    /// Linux's masquerade: a mapping for each flow, whose port is the inside one wherever that is unambiguous.
    public static let linuxMasquerade = NATBehavior(mapping: .addressAndPortDependent, hairpinning: false)
}

/// After how long without packets a flow is forgotten.
public struct FlowTimeouts: Sendable, Hashable {
    /// At least two minutes by RFC 4787 REQ-5.
    public var udp: TimeAmount
    /// At least 2 hours and 4 minutes by RFC 5382 REQ-5.
    public var established: TimeAmount
    /// While a TCP connection opens or closes; at least 4 minutes.
    public var transitory: TimeAmount

    public init(
        udp: TimeAmount = .minutes(5),
        established: TimeAmount = .minutes(124),
        transitory: TimeAmount = .minutes(4)
    ) {
        self.udp = udp
        self.established = established
        self.transitory = transitory
    }
}

/// What a middle box does with a packet.
public enum Verdict: Sendable {
    case forward(Packet)
    /// Back to where the packet came from.
    case reply(Packet)
    case drop(DropReason)
}
