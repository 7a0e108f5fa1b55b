import MeshCore

/// The upstreams of one event loop and how they are doing. Time is passed in.
struct UpstreamPool {
    struct Upstream: Hashable, Sendable {
        let address: TransportAddress
        var consecutiveFailures = 0
        var isDown = false
        /// Queries sent to it come back to this server.
        var isLooping = false
        fileprivate var nextProbe = MonotonicTime(nanoseconds: 0)
        fileprivate var probes = 0

        init(_ address: TransportAddress) {
            self.address = address
        }
    }

    private(set) var upstreams: [Upstream] = []

    static let failuresUntilDown = 3
    /// Probes of an upstream that is down: the first after a second, then at doubled distance up to the cap.
    static let longestProbeInterval: Duration = .seconds(16)

    /// Keeps what is known of the addresses that stay.
    mutating func replace(with addresses: [TransportAddress]) {
        self.upstreams = addresses.map { address in
            self.upstreams.first { $0.address == address } ?? Upstream(address)
        }
    }

    /// Whom to ask, in order: those that answer before those that do not.
    var candidates: [TransportAddress] {
        let usable = self.upstreams.filter { !$0.isLooping }
        return (usable.filter { !$0.isDown } + usable.filter(\.isDown)).map(\.address)
    }

    var isEmpty: Bool { self.upstreams.allSatisfy(\.isLooping) }
    var isAnyUp: Bool { self.upstreams.contains { !$0.isLooping && !$0.isDown } }
    var isAnyDown: Bool { self.upstreams.contains(where: \.isDown) }

    /// Any answer counts, whatever its code. Returns true if the upstream was down.
    mutating func succeeded(_ address: TransportAddress) -> Bool {
        guard let index = self.index(of: address) else { return false }
        let wasDown = self.upstreams[index].isDown
        self.upstreams[index].consecutiveFailures = 0
        self.upstreams[index].isDown = false
        self.upstreams[index].probes = 0
        return wasDown
    }

    /// Returns true if the upstream is down from now on.
    mutating func failed(_ address: TransportAddress, now: MonotonicTime) -> Bool {
        guard let index = self.index(of: address) else { return false }
        self.upstreams[index].consecutiveFailures += 1
        let failures = self.upstreams[index].consecutiveFailures
        guard !self.upstreams[index].isDown, failures >= UpstreamPool.failuresUntilDown else { return false }
        self.upstreams[index].isDown = true
        self.upstreams[index].nextProbe = now + .seconds(1)
        return true
    }

    /// The upstreams to be probed now.
    mutating func takeDueProbes(now: MonotonicTime) -> [TransportAddress] {
        var due: [TransportAddress] = []
        for index in self.upstreams.indices where self.upstreams[index].isDown && self.upstreams[index].nextProbe <= now
        {
            self.upstreams[index].probes += 1
            let interval = Duration.seconds(1 << min(self.upstreams[index].probes, 10))
            self.upstreams[index].nextProbe = now + min(interval, UpstreamPool.longestProbeInterval)
            due.append(self.upstreams[index].address)
        }
        return due
    }

    mutating func setLooping(_ addresses: Set<TransportAddress>) {
        for index in self.upstreams.indices {
            self.upstreams[index].isLooping = addresses.contains(self.upstreams[index].address)
        }
    }

    private func index(of address: TransportAddress) -> Int? {
        self.upstreams.firstIndex { $0.address == address }
    }
}
