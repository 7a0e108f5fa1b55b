public import MeshCore

/// One endpoint as the balancer sees it. Its address is its identity: state is kept for it while lists come and go.
public struct BalancedEndpoint: Hashable, Sendable {
    public var address: TransportAddress
    /// Its share relative to the others; zero takes it out.
    public var weight: UInt32

    public init(_ address: TransportAddress, weight: UInt32 = 1) {
        self.address = address
        self.weight = weight
    }
}

/// What is known of the connection or session for which an endpoint is wanted.
public struct PickContext: Sendable {
    public var client: IPAddress
    public var now: MonotonicTime
    /// What a consistent hash hashes: by default the client's address without its port.
    public var keyHash: UInt64
    /// Slots that must not be chosen, because dialling them just failed.
    public var excluded: [Int]

    public init(client: IPAddress, now: MonotonicTime, keyHash: UInt64? = nil, excluded: [Int] = []) {
        self.client = client
        self.now = now
        self.keyHash = keyHash ?? client.stableHash()
        self.excluded = excluded
    }
}
