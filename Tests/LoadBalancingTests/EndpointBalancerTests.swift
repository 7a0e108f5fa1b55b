import LoadBalancing
import MeshCore
import Testing

@Suite("Endpoint balancer")
struct EndpointBalancerTests {
    @Test("every policy works with any number of endpoints", arguments: allPolicies, [0, 1, 2, 101, 10_000])
    func anyCount(policy: LoadBalancingPolicy, count: Int) {
        var generator = SeededGenerator(seed: 1)
        var balancer = EndpointBalancer(policy: policy, endpoints: endpoints(0..<count), using: &generator)
        var seen: Set<TransportAddress> = []
        for index in 0..<200 {
            let slot = balancer.pick(context(index), using: &generator)
            #expect((slot == nil) == (count == 0))
            guard let slot else { continue }
            balancer.begin(slot)
            balancer.addressPicked(slot).map { _ = seen.insert($0) }
        }
        #expect(seen.count <= min(count, 200))
        if count == 2 { #expect(seen.count == 2) }
        if count >= 101 { #expect(seen.count > 50) }
        #expect(balancer.totalActive == (count == 0 ? 0 : 200))
    }

    @Test("excluded endpoints are never picked, and all excluded is none", arguments: allPolicies)
    func exclusion(policy: LoadBalancingPolicy) {
        var generator = SeededGenerator(seed: 2)
        var balancer = EndpointBalancer(policy: policy, endpoints: endpoints(0..<5), using: &generator)
        for index in 0..<100 {
            var tried: [Int] = []
            for _ in 0..<5 {
                guard let slot = balancer.pick(context(index, excluded: tried), using: &generator) else {
                    Issue.record("no endpoint though \(5 - tried.count) are left")
                    break
                }
                #expect(!tried.contains(slot))
                tried.append(slot)
            }
            #expect(balancer.pick(context(index, excluded: tried), using: &generator) == nil)
        }
    }

    @Test(
        "random and least request share alike",
        arguments: [LoadBalancingPolicy.random, .leastRequest],
        [1, 3, 7] as [UInt64]
    )
    func evenDistribution(policy: LoadBalancingPolicy, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var balancer = EndpointBalancer(policy: policy, endpoints: endpoints(0..<11), using: &generator)
        var counts = [Int](repeating: 0, count: 11)
        for _ in 0..<22_000 {
            if let slot = balancer.pick(context(), using: &generator) { counts[slot] += 1 }
        }
        let statistic = chiSquare(counts, shares: [Double](repeating: 1, count: 11))
        #expect(statistic < chiSquareBound(degrees: 10), "seed \(seed): \(counts)")
    }

    @Test("weights are kept", arguments: [LoadBalancingPolicy.roundRobin, .random], [5, 6] as [UInt64])
    func weights(policy: LoadBalancingPolicy, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let weighted = (1...5).map { BalancedEndpoint(address($0), weight: UInt32($0)) }
        var balancer = EndpointBalancer(policy: policy, endpoints: weighted, using: &generator)
        var counts = [Int](repeating: 0, count: 5)
        for _ in 0..<15_000 {
            if let slot = balancer.pick(context(), using: &generator) { counts[slot] += 1 }
        }
        let statistic = chiSquare(counts, shares: [1, 2, 3, 4, 5])
        #expect(statistic < chiSquareBound(degrees: 4), "seed \(seed): \(counts)")
        if policy == .roundRobin {
            for (index, count) in counts.enumerated() { #expect(abs(count - 1_000 * (index + 1)) <= 1) }
        }
    }

    @Test("least request: idle endpoints are drawn by weight, busy ones avoided")
    func leastRequest() {
        var generator = SeededGenerator(seed: 8)
        let weighted = [
            BalancedEndpoint(address(1)), BalancedEndpoint(address(2), weight: 3), BalancedEndpoint(address(3)),
        ]
        var balancer = EndpointBalancer(policy: .leastRequest, endpoints: weighted, using: &generator)
        var open: [Int] = []
        for _ in 0..<5_000 {
            guard let slot = balancer.pick(context(), using: &generator) else { continue }
            balancer.begin(slot)
            open.append(slot)
        }
        let counts = (0..<3).map { balancer.active(in: $0) }
        // Connections that stay settle at the ratio of the weights, closer than chance would.
        #expect(abs(counts[0] - 1_000) < 60 && abs(counts[1] - 3_000) < 90 && abs(counts[2] - 1_000) < 60, "\(counts)")
        for slot in open { balancer.end(slot) }
        #expect(balancer.totalActive == 0)
        // All load on two of three: the third always wins when it is drawn.
        for _ in 0..<50 {
            balancer.begin(0)
            balancer.begin(1)
        }
        let picks = (0..<1_000).compactMap { _ in balancer.pick(context(), using: &generator) }
        #expect(picks.count { $0 == 2 } > 300)
    }

    @Test("round robin starts somewhere and then takes turns")
    func roundRobinTurns() {
        var starts: Set<TransportAddress> = []
        for seed in 0..<40 as Range<UInt64> {
            var generator = SeededGenerator(seed: seed)
            var balancer = EndpointBalancer(policy: .roundRobin, endpoints: endpoints(0..<4), using: &generator)
            let picks = (0..<8).compactMap { _ in balancer.addressPicked(balancer.pick(context(), using: &generator)) }
            starts.formUnion(picks.prefix(1))
            #expect(Set(picks.prefix(4)).count == 4)
            #expect(Array(picks.prefix(4)) == Array(picks.suffix(4)))
        }
        #expect(starts.count == 4)
    }

    @Test("round robin goes on with the next in turn when the list changes", arguments: 0..<20 as Range<UInt64>)
    func roundRobinSurvivesChange(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var balancer = EndpointBalancer(policy: .roundRobin, endpoints: endpoints(0..<6), using: &generator)
        var counts: [TransportAddress: Int] = [:]
        // An endpoint comes or goes after every pick; the six that stay must still take equal turns.
        for round in 0..<600 {
            if let picked = balancer.addressPicked(balancer.pick(context(), using: &generator)) {
                counts[picked, default: 0] += 1
            }
            let list = round % 2 == 0 ? endpoints(0..<7) : endpoints(0..<6)
            balancer.update(endpoints: list.shuffled(using: &generator), using: &generator)
        }
        let staying = (0..<6).map { counts[address($0)] ?? 0 }
        #expect((staying.max() ?? 0) - (staying.min() ?? 0) <= 1, "seed \(seed): \(staying)")
    }

    @Test("slots stay with their endpoint while it is listed or busy, and are reused after")
    func slots() throws {
        var generator = SeededGenerator(seed: 3)
        var balancer = EndpointBalancer(policy: .random, endpoints: endpoints(0..<3), using: &generator)
        let busy = try #require((0..<3).first { balancer.endpoint(in: $0)?.address == address(1) })
        balancer.begin(busy)
        balancer.begin(busy)
        balancer.update(endpoints: endpoints(2..<3), using: &generator)
        #expect(balancer.endpoint(in: busy)?.address == address(1))
        #expect(balancer.active(in: busy) == 2)
        #expect(balancer.totalActive == 0)
        // Back in the list, its open connections count again.
        balancer.update(endpoints: endpoints(1..<3), using: &generator)
        #expect(balancer.totalActive == 2)
        balancer.update(endpoints: endpoints(2..<3), using: &generator)
        balancer.end(busy)
        #expect(balancer.endpoint(in: busy) != nil)
        balancer.end(busy)
        #expect(balancer.endpoint(in: busy) == nil)
        balancer.end(busy)
        #expect(balancer.totalActive == 0)
        balancer.update(endpoints: endpoints(2..<5), using: &generator)
        #expect(Set((0..<3).compactMap { balancer.endpoint(in: $0)?.address }) == Set((2..<5).map { address($0) }))
        #expect(balancer.endpoint(in: 3) == nil && balancer.endpoint(in: -1) == nil)
    }

    @Test("weight zero and repeated addresses do not count")
    func oddLists() {
        var generator = SeededGenerator(seed: 4)
        let list = [
            BalancedEndpoint(address(1), weight: 0), BalancedEndpoint(address(2)), BalancedEndpoint(address(2)),
        ]
        var balancer = EndpointBalancer(policy: .roundRobin, endpoints: list, using: &generator)
        #expect(balancer.count == 1)
        #expect(balancer.addressPicked(balancer.pick(context(), using: &generator)) == address(2))
        balancer.update(endpoints: [BalancedEndpoint(address(1), weight: 0)], using: &generator)
        #expect(balancer.pick(context(), using: &generator) == nil)
    }

    @Test("changes during use: counts and picks stay sound", arguments: allPolicies, [11, 12] as [UInt64])
    func changesDuringUse(policy: LoadBalancingPolicy, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var list = endpoints(0..<10)
        var balancer = EndpointBalancer(policy: policy, endpoints: list, using: &generator)
        var open: [(slot: Int, address: TransportAddress)] = []
        for step in 0..<2_000 {
            switch Int.random(in: 0..<10, using: &generator) {
            case 0:
                list = endpoints(0..<40).filter { _ in Bool.random(using: &generator) }
                balancer.update(endpoints: list, using: &generator)
            case 1...4 where !open.isEmpty:
                let ended = open.remove(at: Int.random(in: open.indices, using: &generator))
                #expect(balancer.endpoint(in: ended.slot)?.address == ended.address, "seed \(seed) step \(step)")
                balancer.end(ended.slot)
            default:
                guard let slot = balancer.pick(context(step), using: &generator),
                    let picked = balancer.addressPicked(slot)
                else {
                    #expect(list.isEmpty)
                    continue
                }
                #expect(list.contains { $0.address == picked }, "seed \(seed) step \(step)")
                balancer.begin(slot)
                open.append((slot, picked))
            }
            let listedAndOpen = open.count { entry in list.contains { $0.address == entry.address } }
            #expect(balancer.totalActive == listedAndOpen, "seed \(seed) step \(step)")
        }
    }
}
