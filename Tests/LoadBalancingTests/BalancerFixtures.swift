import LoadBalancing
import MeshCore

func address(_ index: Int, port: UInt16 = 8080) -> TransportAddress {
    TransportAddress(.v4(IPv4Address(rawValue: 0x0AF4_0000 + UInt32(index))), port)
}

func endpoints(_ range: Range<Int>) -> [BalancedEndpoint] {
    range.map { BalancedEndpoint(address($0)) }
}

func client(_ index: Int) -> IPAddress {
    .v4(IPv4Address(rawValue: 0x0A00_0000 + UInt32(index)))
}

func context(_ index: Int = 0, at seconds: UInt64 = 0, excluded: [Int] = []) -> PickContext {
    PickContext(
        client: client(index),
        now: MonotonicTime(nanoseconds: seconds * 1_000_000_000),
        excluded: excluded
    )
}

let ringPolicy = LoadBalancingPolicy.consistentHash(
    ConsistentHashPolicy(
        key: .sourceAddress,
        algorithm: .ring(
            minimumSize: ConsistentHashPolicy.defaultRingSize,
            loadFactor: ConsistentHashPolicy.defaultLoadFactor
        )
    )
)
let maglevPolicy = LoadBalancingPolicy.consistentHash(
    ConsistentHashPolicy(
        key: .sourceAddress,
        algorithm: .maglev(tableSize: ConsistentHashPolicy.defaultMaglevTableSize)
    )
)
let allPolicies: [LoadBalancingPolicy] = [.roundRobin, .random, .leastRequest, ringPolicy, maglevPolicy]

/// Pearson's statistic of observed counts against expected shares.
func chiSquare(_ counts: [Int], shares: [Double]) -> Double {
    let total = Double(counts.reduce(0, +))
    let weight = shares.reduce(0, +)
    return zip(counts, shares).reduce(0) { sum, pair in
        let expected = total * pair.1 / weight
        return sum + (Double(pair.0) - expected) * (Double(pair.0) - expected) / expected
    }
}

/// A bound that chi-square of `degrees` degrees of freedom passes once in about a million runs (Wilson-Hilferty).
func chiSquareBound(degrees: Int) -> Double {
    let n = Double(degrees)
    let base = 1 - 2 / (9 * n) + 4.9 * (2 / (9 * n)).squareRoot()
    return n * base * base * base
}

extension EndpointBalancer {
    /// Has the table that picks want, as after the first connections.
    mutating func settle(using generator: inout some RandomNumberGenerator) {
        _ = self.pick(context(), using: &generator)
        if let request = self.takeTableRequest() { self.install(request.build(), for: request) }
    }

    func addressPicked(_ slot: Int?) -> TransportAddress? {
        slot.flatMap { self.endpoint(in: $0)?.address }
    }
}
