import MeshCore
import NIOCore
import Testing

@testable import PacketDatagrams

@Suite struct DatagramLinkTests {
    /// With the headers of UDP and IPv4 what Ethernet carries.
    private static let ethernet = 1472 - DatagramSession.overhead
    private static let base = 1200 - DatagramSession.overhead

    private static let worlds: [(name: String, nats: [LinkNetwork.NAT?])] = [
        ("both open", [nil, nil]), ("one behind a NAT", [LinkNetwork.nat(1), nil]),
        ("the other behind a NAT", [nil, LinkNetwork.nat(2)]),
        ("both behind NATs", [LinkNetwork.nat(1), LinkNetwork.nat(2)]),
        ("a NAT with a port for each way", [LinkNetwork.nat(1, isSymmetric: true), nil]),
        ("the other with a port for each way", [nil, LinkNetwork.nat(2, isSymmetric: true)]),
    ]

    @Test("a way is found within a second, and its length", arguments: worlds)
    func ways(_ name: String, _ nats: [LinkNetwork.NAT?]) {
        let network = LinkNetwork(seed: 1, nats: nats)
        #expect(!network.send([1, 2, 3], from: 0))
        #expect(network.run(for: .seconds(1)) { $0.carries(Self.ethernet) }, "\(name)")
        for side in 0...1 {
            let packet = (0..<Self.ethernet).map { UInt8(truncatingIfNeeded: $0 + side) }
            #expect(network.send(packet, from: side))
            network.run(for: .milliseconds(20))
            #expect(network.sides[1 - side].received == [packet])
            #expect(network.sides[side].link.counters.refused == 0)
        }
    }

    @Test("where no way leads nothing is sent, and it is tried again, more and more seldom")
    func noWay() {
        let network = LinkNetwork(
            seed: 2,
            nats: [LinkNetwork.nat(1, isSymmetric: true), LinkNetwork.nat(2, isSymmetric: true)]
        )
        network.run(for: .seconds(3600))
        #expect(!network.send([1], from: 0) && network.sides[0].link.maximumPacket == nil)
        // Two messages for each try, of which there is one in 30 to 60 s in the long run.
        let hellos = network.sides[0].hellos
        #expect((50...130).contains(hellos), "\(hellos)")
        // Eight short probes for two addresses, from both sides.
        #expect(network.datagrams <= hellos * 2 * 2 * 9, "\(network.datagrams)")
    }

    @Test("probes and packets that are lost or overtake each other", arguments: [1, 2, 3, 4, 5] as [UInt64])
    func bad(seed: UInt64) {
        let network = LinkNetwork(seed: seed, nats: [LinkNetwork.nat(1), LinkNetwork.nat(2)])
        network.loss = 0.2
        network.jitter = .milliseconds(30)
        #expect(network.run(for: .seconds(60)) { $0.carries(Self.base) })
        var sent = 0
        for number in 0..<2000 {
            if network.send([UInt8(number >> 8), UInt8(number & 0xFF)], from: 0) { sent += 1 }
            network.run(for: .milliseconds(1))
        }
        network.run(for: .milliseconds(100))
        let received = network.sides[1].received
        #expect(Set(received).count == received.count, "none twice")
        #expect(sent == 2000 && (1400...1800).contains(received.count), "\(received.count) of \(sent)")
        #expect(received.map { Int($0[0]) << 8 | Int($0[1]) } != received.indices.map { $0 }, "some overtook others")
    }

    @Test("the length that passes is found, and found anew when it shrinks", arguments: [1472, 1400, 1300, 1200])
    func lengths(longest: Int) {
        let network = LinkNetwork(seed: 4)
        network.longest = longest
        network.run(for: .seconds(3))
        let expected = ([1200] + DatagramPath.Configuration().lengths).filter { $0 <= longest }.max() ?? 0
        #expect(network.sides.map(\.link.maximumPacket) == [expected, expected].map { $0 - DatagramSession.overhead })
        network.longest = 1200
        network.run(for: .seconds(12))
        #expect(network.sides.map(\.link.maximumPacket) == [Self.base, Self.base])
        #expect(network.sides.map(\.link.counters.waysTaken) == [1, 1])
    }

    @Test("a link that carries less than it must carries nothing")
    func tooShort() {
        let network = LinkNetwork(seed: 5)
        network.longest = 1199
        network.run(for: .seconds(30))
        #expect(network.sides.allSatisfy { $0.link.maximumPacket == nil })
    }

    @Test("a NAT that takes another port is followed, and so is a peer that roams")
    func roaming() {
        let network = LinkNetwork(seed: 6, nats: [LinkNetwork.nat(1), nil])
        network.run(for: .seconds(3))
        for change in 0..<2 {
            if change == 0 {
                network.sides[0].nat?.forget()
            } else {
                network.sides[0].nat = LinkNetwork.nat(9)
            }
            let before = network.sides[1].link.address
            var packets = 0
            let isBack = network.run(for: .seconds(10)) { _ in false }
            #expect(!isBack)
            for _ in 0..<100 where network.send([7], from: 1) {
                packets += 1
                network.run(for: .milliseconds(10))
            }
            #expect(packets == 100 && network.sides[0].received.count == 100)
            #expect(network.sides[1].link.address != before)
            network.sides[0].received = []
        }
    }

    @Test("a way that is cut is left within seconds, and taken again once it is not")
    func outage() {
        let network = LinkNetwork(seed: 7, nats: [LinkNetwork.nat(1), LinkNetwork.nat(2)])
        network.run(for: .seconds(3))
        #expect(network.carries(Self.ethernet))
        network.isCut = true
        // Five seconds to the next probe at most, and four that are not answered.
        #expect(network.run(for: .seconds(10)) { $0.sides.allSatisfy { $0.link.maximumPacket == nil } })
        network.run(for: .seconds(300))
        network.isCut = false
        let healed = network.now
        #expect(network.run(for: .seconds(90)) { $0.carries(Self.base) })
        #expect(network.now - healed <= .seconds(61))
    }

    @Test("under load a way that is cut is left sooner")
    func outageUnderLoad() {
        let network = LinkNetwork(seed: 8)
        network.run(for: .seconds(3))
        network.isCut = true
        let cut = network.now
        while network.send([1], from: 0) { network.run(for: .milliseconds(10)) }
        #expect(network.now - cut <= .milliseconds(5200), "\((network.now - cut).inSeconds) s")
    }

    @Test("keys are renewed by time and by count without a packet lost")
    func rekeying() {
        var configuration = DatagramLink.Configuration()
        configuration.rekeyCount = 500
        configuration.rekeyInterval = .seconds(20)
        let network = LinkNetwork(seed: 9, configuration: configuration)
        network.run(for: .seconds(1))
        for number in 0..<5000 {
            #expect(network.send([UInt8(truncatingIfNeeded: number)], from: number & 1))
            network.run(for: .milliseconds(1))
        }
        network.run(for: .seconds(1))
        #expect(network.sides.map(\.received.count) == [2500, 2500])
        // 2500 packets of each side, probes besides.
        #expect(network.sides[0].link.counters.agreements >= 5)
        #expect(network.sides.map(\.link.counters.refused) == [0, 0])
        let agreements = network.sides[0].link.counters.agreements
        network.run(for: .seconds(60))
        #expect(network.sides[0].link.counters.agreements >= agreements + 2)
        network.run(for: .seconds(11))
        #expect(network.sides.allSatisfy { $0.indices.count <= 3 }, "\(network.sides.map(\.indices))")
    }

    @Test("a peer that never answers is asked more and more seldom")
    func silence() {
        let network = LinkNetwork(seed: 10)
        network.passesHellos = false
        network.run(for: .seconds(3600))
        // After 10, 20, 40, ... 640 s.
        #expect(network.datagrams == 0 && network.sides[0].indices.count == 1)
        network.passesHellos = true
        #expect(network.run(for: .seconds(641)) { $0.carries(Self.base) })
    }

    @Test(
        "the cipher is AES where both prefer it",
        arguments: [[true, true], [true, false], [false, true], [false, false]]
    )
    func ciphers(_ prefers: [Bool]) {
        let network = LinkNetwork(seed: 11, prefersAES: prefers)
        #expect(network.run(for: .seconds(1)) { $0.carries(Self.base) })
        #expect(network.sides.map(\.link.usesAES) == [prefers == [true, true], prefers == [true, true]])
    }

    @Test("an idle way costs little")
    func idle() {
        let network = LinkNetwork(seed: 12)
        network.run(for: .seconds(10))
        let before = network.datagrams
        network.run(for: .seconds(500))
        // A probe and its answer in five seconds from each side.
        #expect(network.datagrams - before <= 100 * 4 + 4, "\(network.datagrams - before)")
    }

    @Test("when the network of a machine changes the peer learns of its new address")
    func change() {
        let network = LinkNetwork(seed: 13)
        network.run(for: .seconds(3))
        network.sides[0].address = TransportAddress(.v4(IPv4Address(31, 0, 0, 77)), 20_006)
        network.sides[0].told = [network.sides[0].address]
        network.sides[0].link.networkChanged(now: network.now)
        let address = network.sides[0].address
        #expect(network.run(for: .seconds(6)) { $0.sides[1].link.address == address && $0.carries(Self.base) })
    }
}
