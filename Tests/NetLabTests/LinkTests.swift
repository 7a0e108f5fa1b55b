import Glibc
import MeshCore
import Testing

@testable import NetLab

/// Two hosts on a LAN, and a third LAN beside.
private func plan(_ name: String) -> LabPlan {
    var plan = LabPlan(name: "l\(getpid())-\(name)")
    plan.addLAN("lan")
    plan.addLAN("other")
    for (host, last) in [("a", UInt8(1)), ("b", 2)] {
        plan.addHost(host, on: "lan", address: InterfaceAddress(IPv4Address(10, 0, 0, last), prefixLength: 24))
    }
    return plan
}

/// A datagram socket of a host on port 9000.
private final class Datagrams {
    let descriptor: Int32

    init(on host: String, of lab: Lab) throws {
        self.descriptor = try lab.withNetwork(of: host) { socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0) }
        var size: Int32 = 32 << 20
        setsockopt(self.descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &size, socklen_t(MemoryLayout<Int32>.size))
        var address = Self.address(0)
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(self.descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(bound == 0)
    }

    deinit { close(self.descriptor) }

    func send(to last: UInt8, bytes count: Int = 100) {
        var address = Self.address(0x0A00_0000 | UInt32(last))
        let bytes = [UInt8](repeating: 0, count: count)
        withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = sendto(self.descriptor, bytes, count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }

    /// How many have come, the last of them within `patience`.
    func receive(atMost count: Int, patience: Int32) -> Int {
        var bytes = [UInt8](repeating: 0, count: 2048)
        var received = 0
        while received < count {
            var polled = pollfd(fd: self.descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&polled, 1, patience) == 1, recv(self.descriptor, &bytes, bytes.count, 0) >= 0 else { break }
            received += 1
        }
        return received
    }

    private static func address(_ host: UInt32) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(9000).bigEndian
        address.sin_addr.s_addr = host.bigEndian
        return address
    }
}

/// Links of real labs. One after the other: they measure.
@Suite(.serialized, .timeLimit(.minutes(2))) struct LinkTests {
    init() throws {
        try #require(geteuid() == 0, "labs are made of network namespaces: run these tests as root")
    }

    /// The shortest of some one-way trips from a to b.
    private func bestTrip(_ a: Datagrams, _ b: Datagrams, of count: Int = 10) throws -> Duration {
        var best = Duration.seconds(60)
        for _ in 0..<count {
            let sent = MonotonicTime.now()
            a.send(to: 2)
            try #require(b.receive(atMost: 1, patience: 10_000) == 1)
            best = min(best, MonotonicTime.now() - sent)
        }
        return best
    }

    @Test func aLinkDelaysBothWaysAndOnlyAsLongAsAsked() async throws {
        let lab = try await Lab.create(plan("delay"))
        defer { try? lab.remove() }
        let (a, b) = (try Datagrams(on: "a", of: lab), try Datagrams(on: "b", of: lab))
        #expect(try self.bestTrip(a, b) < .milliseconds(20))
        try await lab.setLink(of: "b", to: LinkConditions(delay: .milliseconds(40)))
        // The first asks for the other's hardware address, there and back.
        _ = try self.bestTrip(a, b, of: 1)
        for (from, to, last) in [(a, b, UInt8(2)), (b, a, 1)] {
            let sent = MonotonicTime.now()
            from.send(to: last)
            try #require(to.receive(atMost: 1, patience: 10_000) == 1)
            #expect(MonotonicTime.now() - sent >= .milliseconds(40))
        }
        #expect(try self.bestTrip(a, b) < .milliseconds(60))
        // Changed while frames are carried, and taken away.
        try await lab.setLink(of: "b", to: LinkConditions(delay: .milliseconds(90)))
        #expect(try self.bestTrip(a, b, of: 3) >= .milliseconds(90))
        try await lab.setLink(of: "b", to: LinkConditions())
        #expect(lab.link(of: "b") == LinkConditions())
        _ = try self.bestTrip(a, b, of: 1)
        #expect(try self.bestTrip(a, b) < .milliseconds(20))
    }

    @Test func aLinkLosesAsManyFramesAsAsked() async throws {
        let lab = try await Lab.create(plan("loss"))
        defer { try? lab.remove() }
        let (a, b) = (try Datagrams(on: "a", of: lab), try Datagrams(on: "b", of: lab))
        _ = try self.bestTrip(a, b, of: 1)
        try await lab.setLink(of: "a", to: LinkConditions(loss: 0.2))
        let count = 4000
        var received = 0
        for sent in 1...count {
            a.send(to: 2)
            if sent % 50 == 0 { received += b.receive(atMost: 50, patience: 0) }
        }
        received += b.receive(atMost: count, patience: 500)
        let lost = Double(count - received)
        // Six standard deviations.
        #expect(abs(lost - 800) <= 6 * (Double(count) * 0.2 * 0.8).squareRoot(), "\(lost) lost of \(count)")
        let counters = try #require(lab.links.counters(of: .init(host: "a", interface: "eth0")))
        #expect(counters.dropped == 0 && counters.lost >= Int(lost))
        // Nobody notices a cut.
        try await lab.setLink(of: "a", to: LinkConditions(loss: 1))
        for _ in 0..<50 { a.send(to: 2) }
        #expect(b.receive(atMost: 1, patience: 200) == 0)
        #expect(try await lab.output(on: "a", ["cat", "/sys/class/net/eth0/carrier"]) == "1\n")
    }

    @Test func aNarrowLineTakesItsTime() async throws {
        let lab = try await Lab.create(plan("bandwidth"))
        defer { try? lab.remove() }
        let (a, b) = (try Datagrams(on: "a", of: lab), try Datagrams(on: "b", of: lab))
        _ = try self.bestTrip(a, b, of: 1)
        try await lab.setLink(of: "a", to: LinkConditions(bandwidth: 8_000_000))
        let begin = MonotonicTime.now()
        // 100 frames of 1,042 bytes: a little more than a millisecond each. A queue holds 200 of them.
        for _ in 0..<100 { a.send(to: 2, bytes: 1000) }
        #expect(b.receive(atMost: 100, patience: 5000) == 100)
        #expect(MonotonicTime.now() - begin >= .milliseconds(104))
    }

    @Test(arguments: [LinkConditions(), LinkConditions(delay: .milliseconds(1))])
    func aPulledCableIsNoticedAndCanBePluggedInElsewhere(conditions: LinkConditions) async throws {
        let lab = try await Lab.create(plan("cable-\(conditions.isShaped ? "shaped" : "plain")"))
        defer { try? lab.remove() }
        let (a, b) = (try Datagrams(on: "a", of: lab), try Datagrams(on: "b", of: lab))
        try await lab.setLink(of: "b", to: conditions)
        _ = try self.bestTrip(a, b, of: 1)

        var pulled = conditions
        pulled.isUp = false
        try await lab.setLink(of: "b", to: pulled)
        #expect(try await lab.output(on: "b", ["cat", "/sys/class/net/eth0/carrier"]) == "0\n")
        a.send(to: 2)
        #expect(b.receive(atMost: 1, patience: 100) == 0)
        // A pulled cable may get another quality, too.
        try await lab.setLink(of: "b", to: LinkConditions(isUp: false))
        try await lab.setLink(of: "b", to: pulled)
        try await lab.setLink(of: "b", to: conditions)
        #expect(try await lab.output(on: "b", ["cat", "/sys/class/net/eth0/carrier"]) == "1\n")
        _ = try self.bestTrip(a, b, of: 1)

        try await lab.attach("b", to: "other")
        a.send(to: 2)
        #expect(b.receive(atMost: 1, patience: 100) == 0)
        try await lab.attach("a", to: "other")
        _ = try self.bestTrip(a, b, of: 1)
        await #expect { try await lab.attach("a", to: "nowhere") } throws: { "\($0)".contains("lan, other") }
        await #expect { try await lab.setLink(of: "c", to: pulled) } throws: {
            "\($0)".contains("'c' has no interface")
        }
    }

    /// The sockets of forwarders would keep namespaces alive.
    @Test func aRemovedLabLeavesNoNamespaceBehind() async throws {
        let lab = try await Lab.create(plan("gone"))
        try await lab.setLink(of: "a", to: LinkConditions(delay: .milliseconds(1)))
        try await lab.setLink(of: "b", to: LinkConditions(loss: 0.5))
        let before = try self.openNamespaces()
        try lab.remove()
        #expect(Files.names(in: "/run/netns").filter { $0.hasPrefix("emlab-\(lab.plan.name)-") } == [])
        #expect(try self.openNamespaces() <= before)
        try lab.remove()
    }

    private func openNamespaces() throws -> Int {
        Files.names(in: "/proc/self/fd").count { name in
            var buffer = [CChar](repeating: 0, count: 256)
            let count = readlink("/proc/self/fd/\(name)", &buffer, 255)
            return count > 0 && buffer.starts(with: "net:[".utf8.map { CChar($0) })
        }
    }
}
