public import Multiformats
public import NIOCore
import Synchronization

/// What is known of other peers: addresses with an end of life, and what they said of themselves.
///
/// Bounded: beyond `maximumPeers` the peer that was touched longest ago and is not connected is forgotten; what others say of
/// peers never drives out those with a permanent address.
public final class PeerStore: Sendable {
    public struct Configuration: Sendable, Hashable {
        public var maximumPeers = 4096
        public var maximumAddressesPerPeer = 64
        public var maximumProtocolsPerPeer = 256

        public init() {}
    }

    /// How long an address is believed.
    public enum Lifetime: Sendable, Hashable {
        case permanent
        case limited(TimeAmount)

        /// What a peer says of itself.
        public static let identified = Lifetime.limited(.hours(1))
        /// What others say of a peer, and what was found.
        public static let found = Lifetime.limited(.minutes(15))
        /// For one attempt.
        public static let temporary = Lifetime.limited(.minutes(2))
    }

    private struct Entry {
        var addresses: [Multiaddr: NIODeadline] = [:]
        var order: [Multiaddr] = []
        var identification: Identification?
        var recordSequence: UInt64?
        var connections = 0
        var touched: NIODeadline

        var mayBeForgotten: Bool { self.connections == 0 && !self.addresses.values.contains(.distantFuture) }
    }

    private let configuration: Configuration
    private let now: @Sendable () -> NIODeadline
    private let entries = Mutex<[PeerID: Entry]>([:])

    /// - Parameter now: the clock of the event loops that the host runs on.
    public init(configuration: Configuration = Configuration(), now: @escaping @Sendable () -> NIODeadline) {
        self.configuration = configuration
        self.now = now
    }

    public var count: Int { self.entries.withLock { $0.count } }

    public var peers: [PeerID] { self.entries.withLock { Array($0.keys) } }

    /// Adds addresses or prolongs their life; a trailing `/p2p/PEER` is dropped, and with that of another peer the address.
    public func add(_ addresses: [Multiaddr], to peer: PeerID, lifetime: Lifetime) {
        let now = self.now()
        let end: NIODeadline =
            switch lifetime {
            case .permanent: .distantFuture
            case .limited(let amount): now + amount
            }
        self.withEntry(of: peer, now: now) { entry in
            Self.prune(&entry, now: now)
            for address in addresses {
                if let named = address.peerID, named != peer { continue }
                let address = address.withoutPeerID
                if let known = entry.addresses[address] {
                    entry.addresses[address] = max(known, end)
                } else {
                    if entry.order.count >= self.configuration.maximumAddressesPerPeer {
                        guard let victim = entry.order.firstIndex(where: { entry.addresses[$0] != .distantFuture })
                        else { continue }
                        entry.addresses[entry.order.remove(at: victim)] = nil
                    }
                    entry.addresses[address] = end
                    entry.order.append(address)
                }
            }
        }
    }

    /// Replaces what a peer has said of its addresses before; permanent ones stay.
    public func replace(_ addresses: [Multiaddr], of peer: PeerID, lifetime: Lifetime) {
        self.entries.withLock { entries in
            guard var entry = entries[peer] else { return }
            entry.order.removeAll { entry.addresses[$0] != .distantFuture }
            entry.addresses = entry.addresses.filter { $0.value == .distantFuture }
            entries[peer] = entry
        }
        self.add(addresses, to: peer, lifetime: lifetime)
    }

    /// In the order in which they became known, without `/p2p/PEER`.
    public func addresses(of peer: PeerID) -> [Multiaddr] {
        let now = self.now()
        return self.entries.withLock { entries in
            guard var entry = entries[peer] else { return [] }
            Self.prune(&entry, now: now)
            entries[peer] = entry
            return entry.order
        }
    }

    public func removeAddresses(of peer: PeerID) {
        self.entries.withLock { entries in
            entries[peer]?.addresses = [:]
            entries[peer]?.order = []
        }
    }

    /// What the peer has told by identify, as long as it is connected.
    public func identification(of peer: PeerID) -> Identification? {
        self.entries.withLock { $0[peer]?.identification }
    }

    public func protocols(of peer: PeerID) -> Set<ProtocolID> {
        self.identification(of: peer)?.protocols ?? []
    }

    /// Keeps what a peer has told. A signed record older than one that is known is ignored: false.
    @discardableResult
    func record(_ identification: Identification, of peer: PeerID, recordSequence: UInt64?) -> Bool {
        var identification = identification
        if identification.protocols.count > self.configuration.maximumProtocolsPerPeer {
            identification.protocols = Set(
                identification.protocols.sorted().prefix(self.configuration.maximumProtocolsPerPeer)
            )
        }
        return self.withEntry(of: peer, now: self.now()) { entry in
            if let recordSequence {
                if let known = entry.recordSequence, known > recordSequence { return false }
                entry.recordSequence = recordSequence
            }
            entry.identification = identification
            return true
        } ?? false
    }

    /// A connection to the peer has come (1) or gone (-1): connected peers are not forgotten. With the last connection goes
    /// what the peer told of itself but its addresses: it would weigh too much for all who ever came, and a peer that
    /// returns tells it anew, with a lower sequence number if its clock was set back.
    func countConnection(_ difference: Int, of peer: PeerID) {
        self.withEntry(of: peer, now: self.now()) { entry in
            entry.connections = max(0, entry.connections + difference)
            guard entry.connections == 0 else { return }
            entry.identification = nil
            entry.recordSequence = nil
        }
    }

    @discardableResult
    private func withEntry<Result>(of peer: PeerID, now: NIODeadline, _ body: (inout Entry) -> Result) -> Result? {
        self.entries.withLock { entries in
            if entries[peer] == nil, entries.count >= self.configuration.maximumPeers {
                let victim = entries.lazy.filter(\.value.mayBeForgotten)
                    .min { $0.value.touched < $1.value.touched }
                guard let victim else { return nil }
                entries[victim.key] = nil
            }
            var entry = entries[peer] ?? Entry(touched: now)
            entry.touched = now
            let result = body(&entry)
            entries[peer] = entry
            return result
        }
    }

    private static func prune(_ entry: inout Entry, now: NIODeadline) {
        guard entry.addresses.contains(where: { $0.value <= now }) else { return }
        entry.addresses = entry.addresses.filter { $0.value > now }
        let left = entry.addresses
        entry.order.removeAll { left[$0] == nil }
    }
}
