import MeshCore
import Testing

@testable import LinuxNetwork

@Suite("Service rules at scale", .serialized)
struct ProgramScaleTests {
    @Test("one transaction programs all, and a change costs what it changes", arguments: [500, 10_000])
    func scale(count: Int) async throws {
        let namespace = try NetworkNamespace.anonymous()
        let program = try namespace.run { try NFTablesProgram() }
        var rules: [KernelFrontend: KernelRule] = [:]
        for number in 0..<UInt32(count) {
            let address = IPAddress.v4(IPv4Address(rawValue: 0x0A60_0000 + number))
            let backends = (0..<10).map {
                TransportAddress(.v4(IPv4Address(rawValue: 0x0AF4_0000 + number * 16 + $0)), 8080)
            }
            rules[KernelFrontend(match: .address(address), transport: .tcp, port: 80)] = KernelRule(
                action: .balance(KernelBalancing(policy: .random, backends: backends))
            )
        }
        let start = MonotonicTime.now()
        try await program.install(listeners: listeners, rules: rules)
        let installed = MonotonicTime.now()
        let changed = try frontend("10.96.0.1:80")
        guard case .balance(var balancing)? = rules[changed]?.action else { throw LabError(message: "no such rule") }
        balancing.backends[0].port = 9090
        try await program.update([changed: KernelRule(action: .balance(balancing))])
        let updated = MonotonicTime.now()
        #expect(try await Set(program.counters().keys) == Set(rules.keys))
        let counted = MonotonicTime.now()
        #expect(try await program.verify())
        let verified = MonotonicTime.now()
        print(
            "\(count) services: program \(installed - start), one endpoint \(updated - installed), "
                + "counters \(counted - updated), verify \(verified - counted)"
        )
        try await program.remove()
    }

    @Test("flows are found by their reply, and stale UDP flows deleted")
    func conntrack() async throws {
        let node = try LabNode(pods: 1)
        let program = try node.namespace.run { try NFTablesProgram() }
        try await program.install(
            listeners: listeners,
            rules: [frontend("10.96.0.1:53", .udp): balance(.random, 1...1)]
        )
        #expect(try node.call("out", 1, "10.96.0.1", 53, "udp 5353") == ["p1": 1])
        try node.namespace.run {
            let conntrack = try Conntrack()
            let client = try #require(TransportAddress("10.8.0.2:5353"))
            let service = TransportAddress("10.96.0.1:53")
            let found = try conntrack.originalDestination(transport: .udp, client: client, proxy: backend(1))
            #expect(found == service)
            #expect(try conntrack.originalDestination(transport: .tcp, client: client, proxy: backend(1)) == nil)
            let before = try conntrack.count()
            #expect(try conntrack.deleteUDP(.v4) { $0.destination == service && $0.replySource == backend(1) } == 1)
            #expect(try conntrack.count() == before - 1)
            #expect(try node.call("out", 1, "10.96.0.1", 53, "udp 5353") == ["p1": 1])
            let times = try (0..<2001).map { _ in
                let start = MonotonicTime.now()
                _ = try conntrack.originalDestination(transport: .udp, client: client, proxy: backend(1))
                return MonotonicTime.now() - start
            }.sorted()
            print("a lookup of a flow's original destination: median \(times[1000]), 99 % within \(times[1980])")
        }
    }

    @Test("50,000 stale UDP flows are deleted, others stay")
    func manyFlows() async throws {
        let namespace = try NetworkNamespace.anonymous()
        let program = try namespace.run { try NFTablesProgram() }
        try await program.install(listeners: listeners, rules: [:])
        try namespace.run {
            try RouteNetlink.ensureBridge("lab0", addresses: [.v4(IPv4Address(10, 77, 0, 1))])
            // Flows from one socket to many addresses, on to which the device swallows them.
            try shell("ip link set lo up; ip route add 10.64.0.0/10 dev lo; ip route add 10.200.0.0/16 dev lo")
            try shell(
                """
                python3 -c '
                import socket
                s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
                for i in range(50000): s.sendto(b"x",("10.96.%d.%d"%(i>>8,i&255),53))
                for i in range(500): s.sendto(b"x",("10.200.%d.%d"%(i>>8,i&255),53))'
                """
            )
            let conntrack = try Conntrack()
            let before = try conntrack.count()
            #expect(before >= 50_500)
            let start = MonotonicTime.now()
            let deleted = try conntrack.deleteUDP(.v4) { $0.destination.address < .v4(IPv4Address(10, 200, 0, 0)) }
            print("deleting \(deleted) of \(before) UDP flows: \(MonotonicTime.now() - start)")
            #expect(deleted == 50_000)
            var left = 0
            try conntrack.forEachFlow(.v4, .udp) { _ in left += 1 }
            #expect(left >= 500 && left < 600)
        }
    }
}
