import EdgeCNI
import Glibc
import MeshCore
import MeshTesting
import Testing

@testable import LinuxNetwork

/// TUN devices of the kernel, in namespaces that the test makes.
@Suite
struct TunDeviceTests {
    private static let blocks: [[CIDR]] = [
        ["10.71.0.0/16", "fd07:1::/32"].compactMap { CIDR($0) },
        ["10.70.0.0/16", "fd07:0::/32"].compactMap { CIDR($0) },
    ]

    private func connected() throws -> TunLab {
        let lab = try TunLab()
        for side in 0...1 {
            try lab.run(on: side) { try CaptureRoutes.set(Self.blocks[side], over: lab.devices[side]) }
        }
        return lab
    }

    @Test(arguments: TunLab.Form.allCases)
    func bytesArriveAsTheyWereSent(form: TunLab.Form) async throws {
        let lab = try self.connected()
        // Both on threads of their own: neither waits for one of the few that run tests.
        async let carried: Void = besides { lab.carry(form) }
        async let answered = besides { Result { try Self.exchange(lab) } }
        let answer = try await answered
        lab.stop()
        try await carried
        let sums = try answer.get()
        #expect(sums.count == 3)
        #expect(Set(sums).count == 1, "\(sums)")
        let counts = lab.counts
        #expect(counts.refused == [])
        // Sixteen megabytes of TCP do not leave in packets of 1,400 bytes if the device takes larger ones.
        #expect(counts.large > 0)
        #expect(counts.longest > 1400)
    }

    /// Eight megabytes over TCP of each family, and pings in parts; the sums of what was sent and what came.
    private static func exchange(_ lab: TunLab) throws -> [String] {
        let folder = try shell("mktemp -d").split(separator: "\n").map(String.init)[0]
        defer { _ = try? shell("rm -rf '\(folder)'") }
        let (here, there) = ("ip netns exec \(lab.name)0", "ip netns exec \(lab.name)1")
        try shell("head -c 8388608 /dev/urandom > '\(folder)/sent'")
        for (family, address) in [("4", "10.71.0.1"), ("6", "[fd07:1::1]")] {
            try shell(
                """
                set -e
                \(there) timeout -s KILL 60 socat -u TCP\(family)-LISTEN:9000,reuseaddr OPEN:'\(folder)/got\(family)',creat &
                for i in $(seq 600); do \(there) ss -Htln 'sport = :9000' | grep -q 9000 && break; sleep 0.1; done
                \(here) timeout -s KILL 60 socat -u OPEN:'\(folder)/sent' TCP\(family):\(address):9000
                wait $!
                """
            )
        }
        // 3,000 bytes go in three parts. One ping each: its clock is a signal, which this thread's children have blocked.
        for address in ["10.71.0.1", "fd07:1::1"] {
            try shell("\(here) timeout -s KILL 60 busybox ping -c 1 -s 3000 \(address)")
        }
        return try shell("cd '\(folder)' && sha256sum sent got4 got6 | cut -d' ' -f1")
            .split(separator: "\n").map(String.init)
    }

    @Test
    func routesAreSetAndGoWithTheDevice() throws {
        let lab = try self.connected()
        let side = "ip -n \(lab.name)0"
        #expect(try shell("\(side) route show dev edge_tun0").contains("10.71.0.0/16"))
        #expect(try shell("\(side) route show dev edge_tun0").contains("metric 4096"))
        #expect(try shell("\(side) -6 route show dev edge_tun0").contains("fd07:1::/32"))
        #expect(try shell("\(side) link show edge_tun0").contains("mtu 1400"))
        #expect(try shell("\(side) addr show edge_tun0").contains("inet") == false)

        // Another block: the old ones go, those of others stay.
        try shell("\(side) route add 10.80.0.0/16 dev edge_tun0")
        let other = ["10.72.0.0/16"].compactMap { CIDR($0) }
        for _ in 0..<2 { try lab.run(on: 0) { try CaptureRoutes.set(other, over: lab.devices[0]) } }
        let routes = try shell("\(side) route show dev edge_tun0")
        #expect(routes.contains("10.72.0.0/16"))
        #expect(!routes.contains("10.71.0.0/16"))
        #expect(routes.contains("10.80.0.0/16"))
        #expect(try shell("\(side) -6 route show dev edge_tun0").contains("fd07:1::/32") == false)
    }

    @Test
    func networksOfOthersComeFirst() throws {
        let lab = try self.connected()
        let side = "ip -n \(lab.name)0"
        // A smaller block, as flannel has it, and the same block with the metric that everybody uses.
        try shell("\(side) link add flannel.1 type veth peer name other0 && \(side) link set flannel.1 up")
        try shell("\(side) route add 10.71.3.0/24 dev flannel.1")
        #expect(try shell("\(side) route get 10.71.3.9").contains("dev flannel.1"))
        #expect(try shell("\(side) route get 10.71.4.9").contains("dev edge_tun0"))
        try shell("\(side) route add 10.71.0.0/16 dev flannel.1")
        #expect(try shell("\(side) route get 10.71.4.9").contains("dev flannel.1"))
    }

    @Test
    func aDeviceThatIsThereIsNotShared() throws {
        let lab = try TunLab()
        #expect(throws: LinuxNetworkError.self) {
            try lab.run(on: 0) { _ = try TunDevice(name: "edge_tun0", queues: 1, mtu: 1400) }
        }
        // It goes with its last descriptor, and everything over it.
        try lab.run(on: 0) {
            let device = try TunDevice(name: "edge_tun1", queues: 8, mtu: 1280)
            try CaptureRoutes.set(["10.90.0.0/16"].compactMap { CIDR($0) }, over: device)
        }
        // Not before the programs that other tests are starting at this moment, and that inherit all descriptors, have begun.
        try shell(
            "for i in $(seq 600); do ip -n \(lab.name)0 link show edge_tun1 || exit 0; sleep 0.1; done; exit 1"
        )
        #expect(try shell("ip -n \(lab.name)0 route show table all").contains("10.90.0.0") == false)
    }

    @Test(arguments: [("", 1), ("a-name-that-is-long", 1), ("edge_tun2", 0), ("edge_tun2", 9)])
    func whatMakesNoSenseIsRefused(name: String, queues: Int) {
        #expect(throws: LinuxNetworkError.self) { _ = try TunDevice(name: name, queues: queues, mtu: 1400) }
    }
}
