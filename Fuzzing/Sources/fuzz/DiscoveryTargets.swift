import DNSWire
import MeshCore
import Multiformats
import NIOCore
import PeerIdentity

@testable import LibP2PDiscovery

extension FuzzTarget {
    /// Messages of the DHT. What is read is written and read again as the same.
    static let kademlia = FuzzTarget(name: "kademlia") { data, count in
        let buffer = ByteBuffer(bytes: UnsafeRawBufferPointer(start: data, count: count))
        guard let message = try? KademliaMessage(parsing: buffer) else { return 0 }
        guard (try? KademliaMessage(parsing: message.encoded())) == message else {
            fatalError("\(message) does not read back")
        }
        return 0
    }

    /// What a link of multicast DNS hears: datagrams, each behind a byte for its source and the time before it, and one for its
    /// length in units of eight. Its tables and its talk stay bounded, and time goes on.
    static let mdns = FuzzTarget(name: "mdns") { data, count in
        var bytes = UnsafeRawBufferPointer(start: data, count: count)[...]
        var now = NIODeadline.uptimeNanoseconds(1_000_000_000_000)
        guard var link = LinkFixture.link(now: now) else { fatalError("no link") }
        _ = link.update(LinkFixture.interface, advertised: LinkFixture.advertised, now: now)
        while let head = bytes.popFirst(), let length = bytes.popFirst() {
            let datagram = ByteBuffer(bytes: bytes.prefix(Int(length) * 8))
            bytes = bytes.dropFirst(Int(length) * 8)
            now = now + .milliseconds(1 << Int64(head >> 4))
            runTimers(of: &link, until: now)
            guard let message = try? Message(parsing: datagram) else { continue }
            let result = link.received(message, from: LinkFixture.sources[Int(head & 3)], now: now)
            check(result.outputs)
            precondition(result.findings.allSatisfy { $0.addresses.count <= 16 }, "too many addresses of a peer")
            precondition(link.querier.count <= LinkFixture.configuration.maximumInstances)
        }
        return 0
    }
}

private func runTimers(of link: inout MDNSLink, until now: NIODeadline) {
    var rounds = 0
    while link.deadline <= now {
        check(link.advance(now: max(link.deadline, now)))
        rounds += 1
        precondition(rounds < 1000, "time stands still at \(link.deadline)")
    }
}

private func check(_ outputs: [MDNSOutput]) {
    precondition(outputs.count <= 64, "\(outputs.count) messages at once")
    for output in outputs {
        let message =
            switch output {
            case .multicast(let message): message
            case .unicast(let message, _): message
            }
        let written = message.encoded(limit: MulticastDNS.maximumSent)
        precondition(written.readableBytes <= MulticastDNS.maximumSent)
        guard (try? Message(parsing: written)) != nil else { fatalError("\(message) does not read back") }
    }
}

private enum LinkFixture {
    static let configuration: MDNSConfiguration = {
        var configuration = MDNSConfiguration(serviceName: "S")
        configuration.maximumInstances = 8
        return configuration
    }()
    static let interface = MulticastInterface(
        name: "eth0",
        index: 2,
        addresses: [.v4(IPv4Address(10, 0, 0, 1)), .v6(IPv6Address(high: 0xFE80 << 48, low: 1))]
    )
    static let advertised = [Multiaddr([.ip4(IPv4Address(10, 0, 0, 1)), .tcp(20006)])]
    /// Itself, another node, a plain resolver, a node by its link-local address.
    static let sources = [
        TransportAddress(.v4(IPv4Address(10, 0, 0, 1)), 5353), TransportAddress(.v4(IPv4Address(10, 0, 0, 2)), 5353),
        TransportAddress(.v4(IPv4Address(10, 0, 0, 3)), 40000),
        TransportAddress(.v6(IPv6Address(high: 0xFE80 << 48, low: 2)), 5353),
    ]
    private static let peer: PeerID = {
        guard let key = try? KeyPair(ed25519Seed: 0..<32) else { fatalError("no key") }
        return key.peerID
    }()

    static func link(now: NIODeadline) -> MDNSLink? {
        guard let names = try? MDNSNames(serviceName: Self.configuration.serviceName) else { return nil }
        return MDNSLink(
            interface: Self.interface,
            peer: Self.peer,
            names: names,
            configuration: Self.configuration,
            generator: HostGenerator { 7 },
            now: now
        )
    }
}
