import MeshCore
import Testing

@testable import LinuxNetwork

@Suite("Counters of flows")
struct FlowCounterTests {
    @Test("are those of the traffic; for some seconds all who ask are told the same")
    func counting() async throws {
        let node = try LabNode(pods: 1)
        let program = try node.namespace.run { try NFTablesProgram() }
        let service = try frontend("10.96.0.1:80")
        let nodePort = KernelFrontend(match: .nodePort(.v4), transport: .tcp, port: 30_080)
        let rules = [service: balance(.random, 1...1), nodePort: balance(.random, 1...1)]
        try await program.install(listeners: listeners, rules: rules)
        _ = try node.call("out", 3, "10.96.0.1", 80)
        _ = try node.call("out", 2, "10.8.0.1", 30_080)
        let first = try await program.flowCounters()
        #expect(first[service]?.flows == 3 && first[nodePort]?.flows == 2)
        let (cached, fresh) = try node.namespace.run {
            (try FlowCounterReader(maximumAge: .seconds(3_600)), try FlowCounterReader(maximumAge: .zero))
        }
        _ = try await cached.recent(rules, [.ip])
        _ = try node.call("out", 4, "10.96.0.1", 80)
        #expect(try await cached.recent(rules, [.ip])[service]?.flows == 3)
        #expect(try await fresh.recent(rules, [.ip])[service]?.flows == 7)
        // A frontend that is gone from the kernel is passed over.
        try await program.update([service: nil])
        let left = try await fresh.recent(rules, [.ip])
        #expect(left[service] == nil && left[nodePort]?.flows == 2)
    }

    @Test("readers who come while one reads share its reading, and changes do not wait for it")
    func sharing() async throws {
        let namespace = try NetworkNamespace.anonymous()
        let program = try namespace.run { try NFTablesProgram() }
        var rules: [KernelFrontend: KernelRule] = [:]
        for number in 0..<UInt32(2_000) {
            let address = IPAddress.v4(IPv4Address(rawValue: 0x0A60_0000 + number))
            rules[KernelFrontend(match: .address(address), transport: .tcp, port: 80)] = balance(.random)
        }
        try await program.install(listeners: listeners, rules: rules)
        let all = Set(rules.keys)
        let service = try frontend("10.96.0.1:80")
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    // The one that is changed may be missed.
                    let read = try await program.flowCounters()
                    #expect(Set(read.keys).union([service]) == all)
                }
            }
            for round in 0..<20 { try await program.update([service: balance(.random, 1...(round % 3 + 1))]) }
            try await group.waitForAll()
        }
    }
}
