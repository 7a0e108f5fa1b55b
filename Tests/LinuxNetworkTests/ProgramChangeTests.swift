import Glibc
import MeshCore
import MeshTesting
import Testing

@testable import LinuxNetwork

@Suite("Service rules while they change", .serialized)
struct ProgramChangeTests {
    @Test("affinity ends after its time, is renewed by use, and leaves a removed backend")
    func affinity() async throws {
        let node = try LabNode()
        let program = try node.namespace.run { try NFTablesProgram() }
        let sticky = try frontend("10.96.0.4:80")
        try await program.install(listeners: listeners, rules: [sticky: balance(.roundRobin, affinity: 1)])
        func next() throws -> String { try #require(node.call("out", 1, "10.96.0.4", 80).keys.first) }
        /// What is left to the client's entry, in the kernel's own time; nil: it has none.
        func left() throws -> Duration? {
            try node.namespace.run {
                var left: Duration?
                try NetlinkSocket(.netfilter).readElements(.ip, .affinity(.tcp, nodePort: false)) { element in
                    left = element.network(5, UInt64.self).map { .milliseconds($0) }
                }
                return left
            }
        }
        let first = try next()
        while try left() != nil { try await Task.sleep(for: .milliseconds(100)) }
        let second = try next()
        #expect(second != first, "round robin goes on after the entry expired")

        // Use renews: never, if what is left only falls.
        let renewed = try frontend("10.96.0.4:80")
        try await program.update([renewed: nil])
        while try left() != nil { try await Task.sleep(for: .milliseconds(100)) }
        try await program.update([renewed: balance(.roundRobin, affinity: 3_600)])
        let kept = try next()
        try await Task.sleep(for: .milliseconds(500))
        let before = try #require(try left())
        repeat { #expect(try next() == kept) } while try #require(try left()) <= before

        let number = try #require(Int(kept.dropFirst()))
        try await program.update([frontend("10.96.0.5:80"): balance(.random)])
        #expect(try next() == kept, "the entry outlives a change of others")
        let rule = KernelRule(
            action: .balance(
                KernelBalancing(
                    policy: .roundRobin,
                    backends: (1...3).filter { $0 != number }.map(backend),
                    affinitySeconds: 3_600
                )
            )
        )
        try await program.update([sticky: rule])
        let third = try next()
        #expect(third != kept)
        for _ in 0..<5 { #expect(try next() == third) }
        try await program.update([sticky: nil])
    }

    @Test("a full affinity map balances new clients without affinity")
    func fullMap() async throws {
        let node = try LabNode()
        let program = try node.namespace.run { try NFTablesProgram(maximumAffinityEntries: 1) }
        try await program.install(
            listeners: listeners,
            rules: [frontend("10.96.0.4:80"): balance(.roundRobin, affinity: 3_600)]
        )
        #expect(try node.call("out", 6, "10.96.0.4", 80).count == 1)
        #expect(try node.call("p1", 9, "10.96.0.4", 80).count == 3)
        #expect(try node.call("out", 6, "10.96.0.4", 80).count == 1)
    }

    @Test("endpoints that replace one another 100 times under load: no failure, none removed is used")
    func swaps() async throws {
        let node = try LabNode()
        let program = try node.namespace.run { try NFTablesProgram() }
        let service = try frontend("10.96.0.1:80")
        try await program.install(listeners: listeners, rules: [service: balance(.random, 1...1)])
        let path = "/tmp/edgemesh-test-swaps-\(node.name)"
        // Each connection from a port of its own: conntrack may still know a used one with the backend it had.
        let client = """
            import socket,time,os
            port=10000
            while not os.path.exists("\(path).stop"):
                port=10000+(port-9999)%50000; t=time.monotonic_ns(); a="?"
                try:
                    s=socket.create_connection(("10.96.0.1",80),3,("",port)); a=s.recv(9).decode()[:2]; s.close()
                except OSError as e: a="failed:"+str(e).replace(" ","_")
                print(t,time.monotonic_ns(),a,flush=True)
            """
        try shell("cat >\(path).py <<'E'\n\(client)\nE\n")
        try node.run("out", "sh -c 'setsid python3 \(path).py >\(path) 2>&1 & sleep 0.5'")
        // What may answer: a range of backends from the start of an update to the end of the next.
        var phases: [(from: UInt64, to: UInt64, backends: ClosedRange<Int>)] = []
        var current = 1...1
        var committed = nanoseconds()
        for round in 0..<100 {
            let next = [1...3, 2...2, 1...2, 3...3, 1...1][round % 5]
            let started = nanoseconds()
            phases.append((committed, started, current))
            try await program.update([service: balance(round % 2 == 0 ? .random : .roundRobin, next)])
            committed = nanoseconds()
            current = next
            try await Task.sleep(for: .milliseconds(20))
        }
        phases.append((committed, nanoseconds(), current))
        try shell("touch \(path).stop; sleep 0.5")
        let lines = try shell("cat \(path); rm \(path) \(path).py \(path).stop").split(separator: "\n")
        var calm = 0
        for line in lines {
            let words = line.split(separator: " ")
            #expect(words.count == 3 && words.last?.hasPrefix("p") == true, "\(line)")
            guard words.count == 3, let from = UInt64(words[0]), let to = UInt64(words[1]),
                let phase = phases.first(where: { $0.from <= from && to <= $0.to }),
                let number = Int(words[2].dropFirst())
            else { continue }
            calm += 1
            #expect(phase.backends.contains(number), "\(line) in \(phase.backends)")
        }
        print("\(lines.count) connections during 100 swaps, \(calm) of them within one phase")
        #expect(calm > 20)
    }

    @Test("a flush, an emptied table and a stale copy are noticed once; an install brings the rules back")
    func loss() async throws {
        let node = try LabNode(pods: 1)
        let program = try node.namespace.run { try NFTablesProgram() }
        let rules = try [frontend("10.96.0.1:80"): balance(.random, 1...1)]
        try await program.install(listeners: listeners, rules: rules)
        try await program.update([frontend("10.96.0.2:80"): balance(.random, 1...1)])
        #expect(try await program.verify())
        let damages = [
            "nft flush ruleset", "nft flush table ip edgemesh", "nft 'delete table ip edgemesh; add table ip edgemesh'",
            "nft delete table ip edgemesh",
        ]
        for damage in damages {
            let healer = Task {
                try await program.waitForLoss()
                try await program.install(listeners: listeners, rules: rules)
            }
            try await Task.sleep(for: .milliseconds(600))
            // Others' changes are none of ours.
            try node.run("", "nft add table ip other")
            #expect(try await program.verify())
            try node.run("", damage)
            #expect(try await program.verify() == false, "\(damage)")
            let start = MonotonicTime.now()
            try await healer.value
            print("healed \(damage) after \(MonotonicTime.now() - start)")
            #expect(try node.call("out", 1, "10.96.0.1", 80) == ["p1": 1])
        }
    }

    @Test("node ports that others translate keep their source")
    func foreignNodePort() async throws {
        let node = try LabNode(pods: 2)
        let program = try node.namespace.run { try NFTablesProgram() }
        let nodePort = KernelFrontend(match: .nodePort(.v4), transport: .tcp, port: 30080)
        try await program.install(listeners: listeners, rules: [nodePort: balance(.random, 1...1, masquerade: true)])
        try node.run(
            "",
            "nft 'add table ip other; add chain ip other pre { type nat hook prerouting priority -120; }; add rule ip other pre ip daddr 10.77.0.1 tcp dport 30080 dnat to 10.9.0.12:8080'"
        )
        #expect(try node.run("out", "python3 /tmp/edgemesh-test-client.py 1 10.77.0.1 30080").contains("p2 10.8.0.2"))
        #expect(try node.run("out", "python3 /tmp/edgemesh-test-client.py 1 10.8.0.1 30080").contains("p1 10.9.0.1"))
    }

    @Test("source ranges are replaced in place")
    func sourceRanges() async throws {
        let node = try LabNode(pods: 1)
        let program = try node.namespace.run { try NFTablesProgram() }
        let service = try frontend("10.96.0.1:80")
        var rule = balance(.random, 1...1)
        try await program.install(listeners: listeners, rules: [service: rule])
        for (range, answer) in [("10.8.0.0/24", "p1"), ("10.7.0.0/24", "TIMEOUT"), ("10.8.0.0/16", "p1")] {
            rule.sourceRanges = [try #require(CIDR(range))]
            try await program.update([service: rule])
            #expect(try node.call("out", 1, "10.96.0.1", 80) == [answer: 1], "\(range)")
        }
        rule.sourceRanges = []
        try await program.update([service: rule])
        #expect(!(try node.run("", "nft list ruleset")).contains("sources-"))
    }

    @Test("a bridge has its IPv4 and IPv6 addresses at once, and goes")
    func bridge() throws {
        let namespace = try NetworkNamespace.anonymous()
        try namespace.run {
            let addresses = [IPAddress("169.254.96.16"), IPAddress("fd00:96::10")].compactMap { $0 }
            try RouteNetlink.ensureBridge("edgemesh0", addresses: addresses)
            try RouteNetlink.ensureBridge("edgemesh0", addresses: addresses)
            let index = try #require(try RouteNetlink.links().first { $0.name == "edgemesh0" }).index
            let found = try RouteNetlink.addresses().filter { $0.linkIndex == index }
            for address in addresses { #expect(found.contains { $0.address == address }, "\(found)") }
            #expect(found.first { $0.address == addresses[1] }?.prefixLength == 128)
            #expect(!(try shell("ip -6 addr show dev edgemesh0 to fd00:96::/64")).contains("tentative"))
            try RouteNetlink.removeLink("edgemesh0")
            try RouteNetlink.removeLink("edgemesh0")
            #expect(try !RouteNetlink.links().contains { $0.name == "edgemesh0" })
        }
    }
}

/// The clock of Python's `time.monotonic_ns`.
private func nanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
