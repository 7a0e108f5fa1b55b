import LoadBalancing
import MeshCore
import Testing

@Suite("Consistent hash")
struct ConsistentHashTests {
    private func owners(
        _ policy: LoadBalancingPolicy,
        _ list: [BalancedEndpoint],
        keys: Int
    ) -> [TransportAddress?] {
        var generator = SeededGenerator(seed: 0)
        var balancer = EndpointBalancer(policy: policy, endpoints: list, using: &generator)
        balancer.settle(using: &generator)
        return (0..<keys).map { balancer.addressPicked(balancer.pick(context($0), using: &generator)) }
    }

    @Test("equal keys reach equal endpoints on every node", arguments: [ringPolicy, maglevPolicy])
    func stability(policy: LoadBalancingPolicy) {
        let list = endpoints(0..<10)
        var generator = SeededGenerator(seed: 99)
        // Another node has got the list in another order, and endpoints before that are gone now.
        var other = EndpointBalancer(policy: policy, endpoints: endpoints(5..<30), using: &generator)
        other.update(endpoints: list.shuffled(using: &generator), using: &generator)
        other.settle(using: &generator)
        let expected = self.owners(policy, list, keys: 500)
        let actual = (0..<500).map { other.addressPicked(other.pick(context($0), using: &generator)) }
        #expect(actual == expected)
    }

    @Test(
        "an endpoint that goes moves its own keys and few others",
        arguments: [ringPolicy, maglevPolicy],
        [3, 10, 101]
    )
    func disruption(policy: LoadBalancingPolicy, count: Int) {
        let keys = 5_000
        let before = self.owners(policy, endpoints(0..<count), keys: keys)
        let after = self.owners(policy, endpoints(0..<count - 1), keys: keys)
        let gone = address(count - 1)
        let orphaned = before.count { $0 == gone }
        let moved = zip(before, after).count { $0 != $1 }
        #expect(!after.contains(gone))
        // Maglev shuffles a few per cent more than it must; a ring moves nothing else.
        let allowance = policy == maglevPolicy ? keys / 20 : 0
        #expect(moved >= orphaned && moved <= orphaned + allowance, "moved \(moved), orphaned \(orphaned)")
        #expect(Double(orphaned) < 2.5 * Double(keys) / Double(count))
    }

    @Test("keys are shared out", arguments: [ringPolicy, maglevPolicy])
    func distribution(policy: LoadBalancingPolicy) {
        let owners = self.owners(policy, endpoints(0..<5), keys: 10_000)
        for index in 0..<5 {
            let count = owners.count { $0 == address(index) }
            // 205 points per endpoint spread by about a fourteenth; Maglev's entries are equal.
            let tolerance = policy == maglevPolicy ? 150 : 500
            #expect(abs(count - 2_000) < tolerance, "endpoint \(index): \(count)")
        }
    }

    @Test("weights set the share of keys", arguments: [ringPolicy, maglevPolicy])
    func weights(policy: LoadBalancingPolicy) {
        let list = [BalancedEndpoint(address(0)), BalancedEndpoint(address(1), weight: 4)]
        let heavy = self.owners(policy, list, keys: 10_000).count { $0 == address(1) }
        #expect(abs(heavy - 8_000) < 500, "\(heavy)")
    }

    @Test("no ring endpoint goes above its bounded load", arguments: [2, 7, 101], [21, 22] as [UInt64])
    func boundedLoad(count: Int, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var balancer = EndpointBalancer(policy: ringPolicy, endpoints: endpoints(0..<count), using: &generator)
        var open: [Int] = []
        for step in 0..<3_000 {
            if !open.isEmpty, Int.random(in: 0..<3, using: &generator) == 0 {
                balancer.end(open.remove(at: Int.random(in: open.indices, using: &generator)))
                continue
            }
            // Few clients: the plain ring would pile nearly everything on a few endpoints.
            let key = Int.random(in: 0..<3, using: &generator)
            guard let slot = balancer.pick(context(key), using: &generator) else {
                Issue.record("no endpoint below its bound, seed \(seed) step \(step)")
                return
            }
            balancer.begin(slot)
            open.append(slot)
            let bound = Double(balancer.totalActive) * ConsistentHashPolicy.defaultLoadFactor / Double(count)
            let allowed = max(bound + 1, Double(ConsistentHashPolicy.unboundedConnections + 1))
            #expect(Double(balancer.active(in: slot)) < allowed, "seed \(seed) step \(step)")
        }
        #expect(balancer.totalActive > count * ConsistentHashPolicy.unboundedConnections || count > 7)
    }

    @Test("one key keeps its ring endpoint while few connections are open")
    func sticksWithFewConnections() {
        var generator = SeededGenerator(seed: 5)
        var balancer = EndpointBalancer(policy: ringPolicy, endpoints: endpoints(0..<3), using: &generator)
        let first = balancer.pick(context(7), using: &generator)
        for _ in 0..<ConsistentHashPolicy.unboundedConnections {
            guard let slot = balancer.pick(context(7), using: &generator) else {
                Issue.record("no endpoint")
                return
            }
            #expect(slot == first)
            balancer.begin(slot)
        }
    }

    @Test("table sizes that no rule could ask for do no harm")
    func unvalidatedSizes() {
        for size in [Int.min, 0, 1, 4, 100, 65_536] {
            let maglev = LoadBalancingPolicy.consistentHash(
                ConsistentHashPolicy(key: .sourceAddress, algorithm: .maglev(tableSize: size))
            )
            let ring = LoadBalancingPolicy.consistentHash(
                ConsistentHashPolicy(key: .sourceAddress, algorithm: .ring(minimumSize: size, loadFactor: 0))
            )
            for policy in [maglev, ring] {
                #expect(!self.owners(policy, endpoints(0..<7), keys: 50).contains(nil))
            }
        }
    }

    @Test("primes")
    func primes() {
        for prime in [2, 3, 5, 7, 251, 65_537, 5_000_011] { #expect(ConsistentHashPolicy.isPrime(prime)) }
        for composite in [-7, 0, 1, 4, 9, 65_536, 65_539 * 3, 49] { #expect(!ConsistentHashPolicy.isPrime(composite)) }
    }
}
