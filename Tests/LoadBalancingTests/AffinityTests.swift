import LoadBalancing
import MeshCore
import Testing

@Suite("Session affinity and locality")
struct AffinityTests {
    private func time(_ seconds: UInt64) -> MonotonicTime { MonotonicTime(nanoseconds: seconds * 1_000_000_000) }

    @Test("a client stays until it was silent for the timeout; each use starts its time anew")
    func timeout() {
        var table = AffinityTable(timeout: .seconds(10))
        table.record(address(1), for: client(1), now: self.time(0))
        #expect(table.endpoint(for: client(1), now: self.time(9)) == address(1))
        #expect(table.endpoint(for: client(1), now: self.time(18)) == address(1))
        #expect(table.endpoint(for: client(2), now: self.time(18)) == nil)
        #expect(table.endpoint(for: client(1), now: self.time(28)) == nil)
        #expect(table.count == 0 && table.evictions == 0)
    }

    @Test("a full table lets the client go that was silent longest, and counts it")
    func bound() {
        var table = AffinityTable(timeout: .seconds(1_000), capacity: 3)
        for index in 1...3 { table.record(address(index), for: client(index), now: self.time(UInt64(index))) }
        #expect(table.endpoint(for: client(1), now: self.time(4)) == address(1))
        table.record(address(4), for: client(4), now: self.time(5))
        #expect(table.count == 3 && table.evictions == 1)
        #expect(table.endpoint(for: client(2), now: self.time(6)) == nil)
        #expect(table.endpoint(for: client(1), now: self.time(6)) == address(1))
        #expect(table.endpoint(for: client(3), now: self.time(6)) == address(3))
    }

    @Test("the table against a plain model", arguments: [31, 32, 33] as [UInt64])
    func model(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var table = AffinityTable(timeout: .seconds(50), capacity: 20)
        var model: [(client: IPAddress, endpoint: TransportAddress, used: UInt64)] = []
        var evictions: UInt64 = 0
        var now: UInt64 = 0
        for step in 0..<5_000 {
            now += UInt64.random(in: 0...3, using: &generator)
            model.removeAll { now - $0.used >= 50 }
            let who = client(Int.random(in: 0..<40, using: &generator))
            let known = model.firstIndex { $0.client == who }
            if Bool.random(using: &generator) {
                let expected = known.map { model[$0].endpoint }
                #expect(table.endpoint(for: who, now: self.time(now)) == expected, "seed \(seed) step \(step)")
                if let known {
                    let entry = model.remove(at: known)
                    model.append((who, entry.endpoint, now))
                }
            } else {
                let endpoint = address(Int.random(in: 0..<5, using: &generator))
                if let known { model.remove(at: known) }
                if model.count == 20 {
                    model.removeFirst()
                    evictions += 1
                }
                model.append((who, endpoint, now))
                table.record(endpoint, for: who, now: self.time(now))
            }
            #expect(table.count == model.count && table.evictions == evictions, "seed \(seed) step \(step)")
        }
    }

    @Test("affinity goes before every policy, until the endpoint is gone or just failed", arguments: allPolicies)
    func beforePolicy(policy: LoadBalancingPolicy) throws {
        var generator = SeededGenerator(seed: 5)
        var balancer = EndpointBalancer(
            policy: policy,
            endpoints: endpoints(0..<10),
            affinityTimeout: .seconds(60),
            using: &generator
        )
        let first = try #require(balancer.pick(context(1), using: &generator))
        for index in 0..<50 {
            #expect(balancer.pick(context(1, at: UInt64(index)), using: &generator) == first)
            _ = balancer.pick(context(index + 2), using: &generator)
        }
        let next = try #require(balancer.pick(context(1, at: 50, excluded: [first]), using: &generator))
        #expect(next != first)
        #expect(balancer.pick(context(1, at: 51), using: &generator) == next)
        let kept = endpoints(0..<10).filter { $0.address != balancer.addressPicked(next) }
        balancer.update(endpoints: kept, using: &generator)
        let last = balancer.addressPicked(balancer.pick(context(1, at: 52), using: &generator))
        #expect(last != nil && kept.contains { $0.address == last })
    }

    @Test("changing the policy keeps clients where they are; changing the timeout does not")
    func reconfiguration() throws {
        var generator = SeededGenerator(seed: 6)
        var balancer = EndpointBalancer(
            policy: .random,
            endpoints: endpoints(0..<50),
            affinityTimeout: .seconds(60),
            using: &generator
        )
        let first = balancer.pick(context(1), using: &generator)
        balancer.update(policy: .roundRobin, affinityTimeout: .seconds(60))
        #expect(balancer.pick(context(1), using: &generator) == first)
        balancer.update(policy: .roundRobin, affinityTimeout: .seconds(61))
        #expect(balancer.affinity?.count == 0)
        balancer.update(policy: .roundRobin, affinityTimeout: nil)
        #expect(balancer.affinity == nil)
    }
}
