/// What stands between a host and the internet.
public struct NATKind: Sendable, Hashable {
    public enum Box: Sendable, Hashable {
        /// Nothing: the host has a public address.
        case none
        /// A stateful firewall before public addresses.
        case firewall
        case nat(NATBehavior)
        /// A NAT behind another one, of the provider.
        case nested(NATBehavior, carrier: NATBehavior)
    }

    /// Short, for the head of a column.
    public let name: String
    public let summary: String
    public let box: Box

    public init(_ name: String, _ summary: String, _ box: Box) {
        self.name = name
        self.summary = summary
        self.box = box
    }

    /// Every combination of mapping and filtering, with ports at random, and what is common besides.
    public static let all: [NATKind] = {
        var kinds = [
            NATKind("open", "public address", .none),
            NATKind("firewall", "public address behind a stateful firewall", .firewall),
        ]
        for mapping in Dependence.allCases {
            for filtering in Dependence.allCases {
                let behavior = NATBehavior(mapping: mapping, filtering: filtering, ports: .random)
                kinds.append(
                    NATKind(
                        "\(mapping.initials)/\(filtering.initials)",
                        "\(mapping) mapping, \(filtering) filtering, random ports",
                        .nat(behavior)
                    )
                )
            }
        }
        var resets = NATBehavior(ports: .random)
        resets.unsolicitedSYN = .reset
        kinds.append(NATKind("EI/AP+rst", "as EI/AP, and answers unsolicited SYNs by RST", .nat(resets)))
        kinds.append(
            NATKind("linux", "Linux masquerade: AP/AP that preserves ports", .nat(.linuxMasquerade))
        )
        kinds.append(
            NATKind(
                "cgn-EI",
                "EI/AP behind a carrier's EI/EI",
                .nested(NATBehavior(ports: .random), carrier: .fullCone)
            )
        )
        kinds.append(
            NATKind(
                "cgn-AP",
                "EI/AP behind a carrier's AP/AP",
                .nested(NATBehavior(ports: .random), carrier: .symmetric)
            )
        )
        return kinds
    }()
}

extension Dependence {
    public var initials: String {
        switch self {
        case .endpointIndependent: "EI"
        case .addressDependent: "AD"
        case .addressAndPortDependent: "AP"
        }
    }
}

// MARK: Theory

/// How two hosts come to talk that know each other through a relay.
public enum Path: String, Sendable, Hashable, CaseIterable {
    /// One of them can be dialled.
    case direct
    /// Both dial at once.
    case punched
    /// Only through the relay.
    case relayed
}

extension NATKind {
    /// Whether packets to new remotes come from the port that the relay has seen.
    var keepsItsPort: Bool {
        self.layers.allSatisfy { $0.mapping == .endpointIndependent || $0.ports == .preserving }
    }

    /// Whether a SYN gets in, at the port that the relay has seen, that comes from an address that this side dials; and from the
    /// port, too, if the remote keeps its port.
    func letsIn(_ remote: NATKind) -> Bool {
        let filters = self.box == .firewall ? [.addressAndPortDependent] : self.layers.map(\.filtering)
        return filters.allSatisfy { $0 != .addressAndPortDependent || remote.keepsItsPort }
    }

    private var layers: [NATBehavior] {
        switch self.box {
        case .none, .firewall: []
        case .nat(let behavior): [behavior]
        case .nested(let behavior, let carrier): [behavior, carrier]
        }
    }

    /// Whether a SYN of `remote` comes in at the port that the relay has seen, and its answer gets back.
    private func isReached(by remote: NATKind) -> Bool {
        // Both dial: if this side's SYNs have left by another port, to where the remote's come from, they are in the way.
        self.letsIn(remote) && (self.keepsItsPort || !remote.keepsItsPort)
    }

    /// Whether TCP gets through between two such boxes if both sides dial: one SYN that reaches the other host is enough
    /// (RFC 5128 section 3.4).
    func canConnect(with other: NATKind) -> Bool {
        self.isReached(by: other) || other.isReached(by: self)
    }

    /// How this side, which dials through a relay, gets to talk with `other`: it does not matter who dials whom, nor which of the
    /// two SYNs gets through, nor whether it meets the other's socket or its listener.
    public func expectedPath(to other: NATKind) -> Path {
        if self.box == .none || other.box == .none { return .direct }
        return self.canConnect(with: other) ? .punched : .relayed
    }
}
