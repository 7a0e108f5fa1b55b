import MeshCore
import NIOCore
import Testing

@testable import NetSim

@Suite struct TablesTests {
    @Test(arguments: [
        ("10.1.2.3", "lan"), ("10.1.2.130", "half"), ("10.9.0.1", "wide"), ("8.8.8.8", "default"), ("fe80::1", nil),
    ])
    func theLongestPrefixWins(address: String, target: String?) throws {
        var table = RoutingTable<String>()
        table.add("0.0.0.0/0", "old")
        table.add("10.0.0.0/8", "wide")
        table.add("10.1.2.0/24", "lan")
        table.add("10.1.2.128/25", "half")
        table.add("0.0.0.0/0", "default")
        let ip = try #require(IPAddress(address) as IPAddress?)
        #expect(table.next(to: ip) == target)
    }

    @Test(arguments: [
        ("0.0.0.0", false, "0.0.0.0", false, false),
        ("0.0.0.0", true, "0.0.0.0", true, true),
        ("0.0.0.0", true, "10.0.0.1", false, false),
        ("10.0.0.1", false, "10.0.0.2", false, true),
        ("0.0.0.0", false, "::", false, true),
    ])
    func portsAreSharedByTheRulesOfReuse(_ first: String, _ r1: Bool, _ second: String, _ r2: Bool, works: Bool) throws
    {
        var ports = PortTable()
        let one = try #require(IPAddress(first) as IPAddress?)
        let other = try #require(IPAddress(second) as IPAddress?)
        let binding = PortTable.Binding(address: one, port: 4001, reuse: r1)
        let isFirst = ports.bind(binding)
        #expect(isFirst)
        let second = PortTable.Binding(address: other, port: 4001, reuse: r2)
        let isBound = ports.bind(second)
        #expect(isBound == works)
        if isBound { ports.unbind(second) }
        ports.unbind(binding)
        let isFree = ports.bind(second)
        #expect(isFree)
    }

    @Test func ephemeralPortsRunOut() {
        var (ports, generator) = (PortTable(), SeededGenerator(seed: 1))
        var seen: Set<UInt16> = []
        while let binding = ports.bindEphemeral("10.0.0.1", reuse: false, using: &generator) {
            seen.insert(binding.port)
        }
        #expect(seen.count == PortTable.ephemeral.count)
    }

    @Test func aBusyLinkDelaysThenDrops() throws {
        var (queue, generator) = (LinkQueue(), SeededGenerator(seed: 1))
        let link = Link(delay: .milliseconds(10), bandwidth: 8_000_000, queue: 2500)
        let now = SimulatedLoop.start
        var arrivals: [Int64] = []
        for _ in 0..<5 {
            switch queue.send(1000, longest: 1000, over: link, at: now, using: &generator) {
            case .success(let time): arrivals.append((time - now).nanoseconds / 1_000_000)
            case .failure(let drop): #expect(drop.reason == .congestion)
            }
        }
        // A millisecond for each kilobyte; when the fourth comes, 3 kB are waiting.
        #expect(arrivals == [11, 12, 13])
    }

    @Test func longPacketsVanishOnABlackHole() throws {
        var (queue, generator) = (LinkQueue(), SeededGenerator(seed: 1))
        let link = Link(mtu: 1400, dropsLongPackets: true)
        func sends(_ longest: Int) -> Bool {
            if case .success = queue.send(
                9000,
                longest: longest,
                over: link,
                at: SimulatedLoop.start,
                using: &generator
            ) {
                return true
            }
            return false
        }
        #expect(sends(1400))
        #expect(!sends(1401))
    }
}
