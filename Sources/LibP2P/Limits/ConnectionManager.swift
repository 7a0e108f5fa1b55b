public import Multiformats
public import NIOCore
import Synchronization

/// Decides which connections are closed when there are too many: idle ones of peers that are worth least.
///
/// Above the high water mark, idle connections older than the grace period are closed until the low one is reached. Connections
/// that have streams and peers that are protected stay.
public final class ConnectionManager: Sendable {
    public struct Configuration: Sendable, Hashable {
        public var lowWater = 100
        public var highWater = 400
        /// For how long a new connection is left alone.
        public var grace: TimeAmount = .seconds(60)
        /// How often the number of connections is looked at.
        public var interval: TimeAmount = .seconds(10)
        /// Peers that may be tagged or protected at once.
        public var maximumPeers = 8192

        public init() {}
    }

    /// What trimming needs to know of a connection.
    struct Candidate {
        let id: UInt64
        let peer: PeerID
        let opened: NIODeadline
        let streams: Int
    }

    private struct State {
        var tags: [PeerID: [String: Int]] = [:]
        var protections: [PeerID: Set<String>] = [:]
    }

    public let configuration: Configuration
    private let state = Mutex(State())

    public init(configuration: Configuration = Configuration()) {
        self.configuration = configuration
    }

    /// Gives the peer a value under a name; the sum of its values is what it is worth. Ignored beyond `maximumPeers`.
    public func tag(_ peer: PeerID, _ name: String, value: Int) {
        self.state.withLock { state in
            guard state.tags[peer] != nil || state.tags.count < self.configuration.maximumPeers else { return }
            state.tags[peer, default: [:]][name] = value
        }
    }

    public func untag(_ peer: PeerID, _ name: String) {
        self.state.withLock { state in
            state.tags[peer]?[name] = nil
            if state.tags[peer]?.isEmpty == true { state.tags[peer] = nil }
        }
    }

    public func value(of peer: PeerID) -> Int {
        self.state.withLock { Self.value(of: peer, in: $0) }
    }

    /// Keeps the peer's connections until `unprotect` is called with the same name. False beyond `maximumPeers`.
    @discardableResult
    public func protect(_ peer: PeerID, _ name: String) -> Bool {
        self.state.withLock { state in
            guard state.protections[peer] != nil || state.protections.count < self.configuration.maximumPeers else {
                return false
            }
            state.protections[peer, default: []].insert(name)
            return true
        }
    }

    /// Tells whether the peer is still protected under another name.
    @discardableResult
    public func unprotect(_ peer: PeerID, _ name: String) -> Bool {
        self.state.withLock { state in
            state.protections[peer]?.remove(name)
            if state.protections[peer]?.isEmpty == true { state.protections[peer] = nil }
            return state.protections[peer] != nil
        }
    }

    public func isProtected(_ peer: PeerID) -> Bool {
        self.state.withLock { $0.protections[peer] != nil }
    }

    /// The connections to close, worst first.
    func surplus(of connections: [Candidate], now: NIODeadline) -> [UInt64] {
        guard connections.count > self.configuration.highWater else { return [] }
        let wanted = connections.count - self.configuration.lowWater
        let valued = self.state.withLock { state in
            connections.compactMap { candidate -> (candidate: Candidate, value: Int)? in
                guard candidate.streams == 0, candidate.opened + self.configuration.grace <= now,
                    state.protections[candidate.peer] == nil
                else { return nil }
                return (candidate, Self.value(of: candidate.peer, in: state))
            }
        }
        return valued.sorted { ($0.value, $0.candidate.opened) < ($1.value, $1.candidate.opened) }
            .prefix(wanted).map(\.candidate.id)
    }

    private static func value(of peer: PeerID, in state: State) -> Int {
        state.tags[peer]?.values.reduce(0) { $0.addingReportingOverflow($1).partialValue } ?? 0
    }
}
