import LoadBalancing
import MeshCore
import Testing

@Suite("Hash tables built off the loop")
struct LargeTableTests {
    private let policy = LoadBalancingPolicy.consistentHash(
        ConsistentHashPolicy(key: .sourceAddress, algorithm: .ring(minimumSize: 500_000, loadFactor: 1.25))
    )

    private func expectNoRequest(_ balancer: inout EndpointBalancer) {
        let request = balancer.takeTableRequest()
        #expect(request == nil)
    }

    @Test("5,000 endpoints with 100 points each: picks build nothing, and go by the table when it is there")
    func large() throws {
        var generator = SeededGenerator(seed: 1)
        var balancer = EndpointBalancer(policy: self.policy, endpoints: endpoints(0..<5_000), using: &generator)
        expectNoRequest(&balancer)
        let early = balancer.addressPicked(balancer.pick(context(3), using: &generator))
        #expect(early != nil)
        #expect(early == balancer.addressPicked(balancer.pick(context(3), using: &generator)), "a key sticks meanwhile")
        let taken = balancer.takeTableRequest()
        let request = try #require(taken)
        expectNoRequest(&balancer)
        balancer.install(request.build(), for: request)
        let owners = (0..<100).map { balancer.addressPicked(balancer.pick(context($0), using: &generator)) }
        expectNoRequest(&balancer)

        // An endpoint goes: the outdated table serves on, without it.
        let gone = try #require(owners[0])
        let rest = endpoints(0..<5_000).filter { $0.address != gone }
        balancer.update(endpoints: rest, using: &generator)
        for key in 0..<100 {
            let owner = balancer.addressPicked(balancer.pick(context(key), using: &generator))
            #expect(owner != gone && owner != nil)
            if owners[key] != gone { #expect(owner == owners[key]) }
        }
        let takenSecond = balancer.takeTableRequest()
        let second = try #require(takenSecond)
        // Meanwhile the list changes again: a table that comes late is better than an older one, and is asked for anew.
        balancer.update(endpoints: endpoints(0..<4_000), using: &generator)
        balancer.install(second.build(), for: second)
        for key in 0..<100 {
            #expect(balancer.addressPicked(balancer.pick(context(key), using: &generator)) != nil)
        }
        let takenThird = balancer.takeTableRequest()
        let third = try #require(takenThird)
        balancer.install(third.build(), for: third)
        balancer.install(second.build(), for: second)
        _ = balancer.pick(context(1), using: &generator)
        expectNoRequest(&balancer)
    }

    @Test(
        "a pick builds a table of at most 8,192 points itself and asks for any other, whether it has one or not",
        arguments: [
            (.ring(minimumSize: 8_192, loadFactor: 1.25), 512, false),
            (.ring(minimumSize: 8_193, loadFactor: 1.25), 2, true),
            (.ring(minimumSize: 1_024, loadFactor: 1.25), 513, true),
            (.maglev(tableSize: 8_191), 5_000, false),
            (.maglev(tableSize: ConsistentHashPolicy.defaultMaglevTableSize), 2, true),
        ] as [(ConsistentHashPolicy.Algorithm, Int, Bool)]
    )
    func bound(algorithm: ConsistentHashPolicy.Algorithm, count: Int, isAskedFor: Bool) throws {
        let policy = LoadBalancingPolicy.consistentHash(.init(key: .sourceAddress, algorithm: algorithm))
        var generator = SeededGenerator(seed: 3)
        var balancer = EndpointBalancer(policy: policy, endpoints: endpoints(0..<count), using: &generator)
        for first in [0, 1] {
            balancer.update(endpoints: endpoints(first..<first + count), using: &generator)
            #expect(balancer.pick(context(1), using: &generator) != nil)
            let request = balancer.takeTableRequest()
            #expect((request != nil) == isAskedFor)
            if let request { balancer.install(request.build(), for: request) }
        }
    }

    @Test("if the whole list is new the hash alone chooses until the table is there")
    func replaced() throws {
        var generator = SeededGenerator(seed: 2)
        var balancer = EndpointBalancer(policy: self.policy, endpoints: endpoints(0..<50), using: &generator)
        _ = balancer.pick(context(1), using: &generator)
        let taken = balancer.takeTableRequest()
        let request = try #require(taken)
        balancer.install(request.build(), for: request)
        balancer.update(endpoints: endpoints(100..<150), using: &generator)
        #expect(balancer.addressPicked(balancer.pick(context(1), using: &generator)) != nil)
    }
}
