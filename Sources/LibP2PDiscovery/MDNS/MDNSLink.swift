import DNSWire
import MeshCore
import Multiformats
import NIOCore

/// Multicast DNS on one interface: announces this peer there and browses for others. Sans-I/O.
struct MDNSLink {
    private(set) var interface: MulticastInterface
    private(set) var responder: MDNSResponder?
    private(set) var querier: MDNSQuerier
    private let peer: PeerID
    private let names: MDNSNames
    private let configuration: MDNSConfiguration
    private var generator: HostGenerator
    private var addresses: [Multiaddr] = []

    init(
        interface: MulticastInterface,
        peer: PeerID,
        names: MDNSNames,
        configuration: MDNSConfiguration,
        generator: HostGenerator,
        now: NIODeadline
    ) {
        self.interface = interface
        self.peer = peer
        self.names = names
        self.configuration = configuration
        self.generator = generator
        self.querier = MDNSQuerier(names: names, configuration: configuration, generator: generator, now: now)
    }

    var deadline: NIODeadline {
        self.responder?.deadline.map { min($0, self.querier.deadline) } ?? self.querier.deadline
    }

    /// Announces those of `advertised` that are addresses of this interface: of other interfaces, those of this machine's
    /// containers for one, other nodes may have the same. A listener of `bound` that takes every IPv6 address takes the link-local
    /// one of this interface, too, which nobody else is told.
    mutating func update(
        _ interface: MulticastInterface,
        advertised: [Multiaddr],
        bound: [Multiaddr] = [],
        now: NIODeadline
    ) -> [MDNSOutput] {
        self.interface = interface
        let ofInterface = advertised.filter { address in
            guard !address.isCircuit, let ip = address.ipAddress else { return false }
            return interface.addresses.contains(ip)
        }
        let addresses = (ofInterface + interface.linkLocal(bound)).map {
            $0.withoutPeerID.appending(.p2p(self.peer))
        }
        guard addresses != self.addresses else { return [] }
        self.addresses = addresses
        guard !addresses.isEmpty else {
            defer { self.responder = nil }
            return self.goodbye()
        }
        guard let name = self.responder?.records.instance.labels.first.map({ String(decoding: $0, as: UTF8.self) })
        else {
            self.responder = self.records(named: self.generator.peerName()).map {
                MDNSResponder(records: $0, generator: self.generator, now: now)
            }
            return []
        }
        return self.records(named: name).flatMap { self.responder?.update($0, now: now) } ?? []
    }

    /// Nil for a service whose name leaves no room for that of a peer, which starting the service refuses.
    private func records(named name: String) -> MDNSRecords? {
        try? MDNSRecords(
            names: self.names,
            peerName: name,
            addresses: self.addresses,
            configuration: self.configuration
        )
    }

    func goodbye() -> [MDNSOutput] { self.responder?.goodbye() ?? [] }

    mutating func received(
        _ message: Message,
        from source: TransportAddress,
        now: NIODeadline
    ) -> (outputs: [MDNSOutput], findings: [MDNSFinding]) {
        // Sections 18.3 and 18.11.
        guard message.flags.opcode == 0, message.responseCode == .noError else { return ([], []) }
        guard message.flags.contains(.response) else {
            self.querier.received(query: message, now: now)
            return (self.responder?.received(query: message, from: source, now: now) ?? [], [])
        }
        // Section 6: no other port answers for mDNS.
        guard source.port == MulticastDNS.port else { return ([], []) }
        let isOwn = self.interface.addresses.contains(source.address)
        if !isOwn {
            let renamed = self
            self.responder?.received(response: message, now: now) { renamed.records(named: $0.peerName()) }
        }
        let interface = self.interface
        let findings = self.querier.received(response: message, now: now) { address in
            // A zone would be one of the sender's.
            guard address.zone == nil, let ip = address.ipAddress else { return nil }
            // From another machine, the addresses of this one would lead back here.
            if !isOwn, ip.isLoopback || interface.addresses.contains(ip) { return nil }
            guard case .v6(let v6) = ip, v6.isLinkLocal else { return address }
            return Multiaddr([.ip6zone(interface.name)] + address.components)
        }
        return ([], findings.filter { $0.peer != self.peer })
    }

    mutating func advance(now: NIODeadline) -> [MDNSOutput] {
        (self.responder?.advance(now: now) ?? []) + self.querier.advance(now: now)
    }
}

extension MulticastInterface {
    /// The link-local addresses of this interface at which listeners of every IPv6 address are reached.
    fileprivate func linkLocal(_ bound: [Multiaddr]) -> [Multiaddr] {
        bound.filter { $0.ipAddress == .v6(.any) }.flatMap { listener in
            self.addresses.compactMap { address in
                guard case .v6(let v6) = address, v6.isLinkLocal else { return nil }
                return Multiaddr([.ip6(v6)] + listener.components.dropFirst())
            }
        }
    }
}

extension IPv6Address {
    /// fe80::/10 (RFC 4291 section 2.5.6).
    fileprivate var isLinkLocal: Bool { self.high >> 54 == 0xFE80 >> 6 }
}
