/// How an endpoint is chosen for a new connection or UDP session.
public enum LoadBalancingPolicy: Hashable, Sendable {
    case roundRobin
    case random
    /// The fewer open connections of two endpoints picked at random, weighted.
    case leastRequest
    case consistentHash(ConsistentHashPolicy)
}

/// A key of the traffic is hashed, so that equal keys reach the same endpoint while the set of endpoints is stable.
public struct ConsistentHashPolicy: Hashable, Sendable {
    public enum Key: Hashable, Sendable {
        /// The client's address, without its port.
        case sourceAddress
        case httpHeader(String)
        case httpCookie(name: String, path: String?, timeToLive: Duration?)
        case httpQueryParameter(String)
    }

    public enum Algorithm: Hashable, Sendable {
        /// A hash ring whose endpoints take at most `loadFactor` times the average of connections.
        case ring(minimumSize: Int, loadFactor: Double)
        /// Google's Maglev table; `tableSize` is prime.
        case maglev(tableSize: Int)
    }

    public var key: Key
    public var algorithm: Algorithm

    public init(key: Key, algorithm: Algorithm) {
        self.key = key
        self.algorithm = algorithm
    }

    /// Whether choosing needs the first bytes of an HTTP request.
    public var needsHTTP: Bool { self.key != .sourceAddress }
}
