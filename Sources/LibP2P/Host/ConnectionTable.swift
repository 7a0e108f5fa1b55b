import Multiformats
import NIOCore
import Synchronization

/// The open connections of a host, by number and by peer.
struct ConnectionTable {
    private(set) var byID: [UInt64: Connection] = [:]
    private var byPeer: [PeerID: [Connection]] = [:]

    var count: Int { self.byID.count }
    /// In the order of their numbers, so that what is done to all is done in the same order in each simulated run.
    var all: [Connection] { self.byID.values.sorted { $0.id < $1.id } }

    mutating func insert(_ connection: Connection) {
        self.byID[connection.id] = connection
        self.byPeer[connection.remotePeer, default: []].append(connection)
    }

    /// Tells how many connections to its peer are left; nil if it was not there.
    mutating func remove(_ connection: Connection) -> Int? {
        guard self.byID.removeValue(forKey: connection.id) != nil else { return nil }
        var left = self.byPeer[connection.remotePeer] ?? []
        left.removeAll { $0 === connection }
        self.byPeer[connection.remotePeer] = left.isEmpty ? nil : left
        return left.count
    }

    func to(_ peer: PeerID) -> [Connection] { self.byPeer[peer] ?? [] }

    func isConnected(to peer: PeerID) -> Bool { self.byPeer[peer] != nil }

    /// The connection for a new stream: direct before relayed, unlimited before limited, then the nearer by its round trip where
    /// that makes a difference, then the newest.
    func best(to peer: PeerID, allowLimited: Bool, directOnly: Bool) -> Connection? {
        guard let connections = self.byPeer[peer] else { return nil }
        var best: Connection?
        for connection in connections where connection.takesStreams {
            if directOnly, connection.isRelayed { continue }
            if !allowLimited, connection.isLimited { continue }
            if let known = best, !connection.isBetter(than: known) { continue }
            best = connection
        }
        return best
    }
}

extension Connection {
    /// The lower the better.
    var rank: Int { self.isLimited ? 2 : self.isRelayed ? 1 : 0 }

    /// Round trips of one way differ from time to time; a change of ways is to be worth it.
    func isBetter(than other: Connection) -> Bool {
        guard self.rank == other.rank else { return self.rank < other.rank }
        if let own = self.roundTripTime?.nanoseconds, let others = other.roundTripTime?.nanoseconds,
            own < others / 4 * 3 || others < own / 4 * 3
        {
            return own < others
        }
        return self.id > other.id
    }
}
