import MeshCore

extension ConsistentHashPolicy {
    /// The ring sizes that a rule may ask for, as Envoy bounds them.
    public static let ringSizes = 1...8_388_608
    public static let defaultRingSize = 1_024
    /// How far above its share of connections a ring endpoint may go.
    public static let defaultLoadFactor = 1.25
    /// Connections that a ring endpoint may have whatever its share is.
    public static let unboundedConnections = 8
    /// The Maglev table sizes that a rule may ask for, primes only, as Envoy bounds them.
    public static let maglevTableSizes = 2...5_000_011
    public static let defaultMaglevTableSize = 65_537

    /// Whether a number is prime; meant for table sizes.
    public static func isPrime(_ number: Int) -> Bool {
        guard number > 3 else { return number > 1 }
        guard number % 2 != 0 else { return false }
        var divisor = 3
        while divisor <= number / divisor {
            if number % divisor == 0 { return false }
            divisor += 2
        }
        return true
    }
}

/// From a hash to the order in which endpoints may serve it. Immutable; equal on every node for an equal list.
///
/// Endpoints are named by their positions in the list that the table was made of.
public struct ConsistentHashTable: Sendable {
    /// Fewer points per endpoint than this make a lopsided ring, however small its minimum size.
    static let minimumPointsPerEndpoint = 16

    /// The points of a ring in ascending order; empty for Maglev, whose entries are looked up by remainder.
    private let points: [UInt64]
    /// The position at each point or entry.
    private let owners: [UInt32]

    /// Takes 10 to 20 ms for 5,000 endpoints, a tenth of a second for half a million points: not for an event loop.
    /// - Parameter endpoints: in ascending order of address, each once, none with a weight of zero.
    public init(_ algorithm: ConsistentHashPolicy.Algorithm, _ endpoints: [BalancedEndpoint]) {
        switch algorithm {
        case .ring(let minimumSize, _):
            (self.points, self.owners) = Self.ring(endpoints, minimumSize: minimumSize)
        case .maglev(let tableSize):
            (self.points, self.owners) = ([], Self.maglev(endpoints, tableSize: tableSize))
        }
    }

    /// How many points or entries the table of so many endpoints has, at least.
    static func size(_ algorithm: ConsistentHashPolicy.Algorithm, endpoints: Int) -> Int {
        switch algorithm {
        case .ring(let minimumSize, _): max(minimumSize, endpoints * self.minimumPointsPerEndpoint)
        case .maglev(let tableSize): tableSize
        }
    }

    /// The first position at or after the place of `hash` that is acceptable; nil if none is.
    func first(from hash: UInt64, where isAcceptable: (Int) -> Bool) -> Int? {
        let count = self.owners.count
        guard count > 0 else { return nil }
        var place = self.points.isEmpty ? Int(hash % UInt64(count)) : self.points.firstPosition { $0 >= hash }
        var previous: UInt32?
        for _ in 0..<count {
            if place >= count { place = 0 }
            let owner = self.owners[place]
            if owner != previous, isAcceptable(Int(owner)) { return Int(owner) }
            previous = owner
            place += 1
        }
        return nil
    }

    private static func ring(
        _ endpoints: [BalancedEndpoint],
        minimumSize: Int
    ) -> ([UInt64], [UInt32]) {
        let bounds = ConsistentHashPolicy.ringSizes
        let size = min(
            max(minimumSize, endpoints.count * self.minimumPointsPerEndpoint, bounds.lowerBound),
            bounds.upperBound
        )
        let totalWeight = endpoints.reduce(0.0) { $0 + Double($1.weight) }
        // Points per unit of weight go in steps of two: while the count of endpoints changes within a step, points only come
        // or go with their endpoint, and no key moves between endpoints that stay.
        let exact = Double(size) / totalWeight
        let raised = exact.significand == 1 ? exact : exact.binade * 2
        let density = raised * totalWeight <= Double(bounds.upperBound) ? raised : exact.binade
        var points: [(hash: UInt64, position: Int)] = []
        points.reserveCapacity(Int(density * totalWeight) + endpoints.count)
        for (position, endpoint) in endpoints.enumerated() {
            for index in 0..<UInt64(max((density * Double(endpoint.weight)).rounded(), 1)) {
                points.append((endpoint.address.stableHash(seed: index), position))
            }
        }
        // Two points on one place go by the order of addresses, which is the same on every node.
        points.sort { ($0.hash, $0.position) < ($1.hash, $1.position) }
        return (points.map { $0.hash }, points.map { UInt32($0.position) })
    }

    /// Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4, with weights:
    /// an endpoint takes its turn to fill an entry as often as its weight allows.
    private static func maglev(
        _ endpoints: [BalancedEndpoint],
        tableSize: Int
    ) -> [UInt32] {
        guard let heaviest = endpoints.map(\.weight).max() else { return [] }
        let bounds = ConsistentHashPolicy.maglevTableSizes
        var size = min(max(tableSize, bounds.lowerBound), bounds.upperBound)
        // Only a prime size makes every endpoint's sequence visit every entry.
        while !ConsistentHashPolicy.isPrime(size) { size += 1 }
        let unset = UInt32.max
        var table = [UInt32](repeating: unset, count: size)
        var places = endpoints.map { Int($0.address.stableHash(seed: 0) % UInt64(size)) }
        let skips = endpoints.map { Int($0.address.stableHash(seed: 1) % UInt64(size - 1)) + 1 }
        var turns = [UInt64](repeating: 0, count: endpoints.count)
        var filled = 0
        while true {
            for index in endpoints.indices {
                turns[index] += UInt64(endpoints[index].weight)
                guard turns[index] >= UInt64(heaviest) else { continue }
                turns[index] -= UInt64(heaviest)
                while table[places[index]] != unset { places[index] = (places[index] + skips[index]) % size }
                table[places[index]] = UInt32(index)
                filled += 1
                if filled == size { return table }
            }
        }
    }
}
