import ByteStreams
import Glibc
import LibP2P
import LinuxNetwork
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import Testing

@testable import LibP2PDiscovery

/// Two nodes in network namespaces, joined by a cable.
@Suite(.serialized) struct MDNSNetworkTests {
    private struct Node {
        let host: Host
        let service: MDNSService
        let group: MultiThreadedEventLoopGroup
    }

    /// Threads that are started in a namespace stay there.
    private func node(_ namespace: String, listen: [String]) async throws -> Node {
        let group = try NetworkNamespace(named: namespace).run { MultiThreadedEventLoopGroup(numberOfThreads: 1) }
        // NIO makes a listener's socket on the thread that asks for it.
        let host = try await Task(executorPreference: LoopTaskExecutor(group.next())) {
            try await makeHost(listen: listen, group: group)
        }.value
        var configuration = MDNSConfiguration(serviceName: "EDGEMESH_PLAYGOUND")
        configuration.interfaceInterval = .milliseconds(100)
        let service = MDNSService(host: host, configuration: configuration)
        try await service.start()
        return Node(host: host, service: service, group: group)
    }

    private func stop(_ nodes: [Node]) async throws {
        for node in nodes {
            await node.service.stop()
            await node.host.shutdown(deadline: .now())
            try await node.group.shutdownGracefully()
        }
    }

    /// Two namespaces, which `commands` furnish, and a node in each.
    private func withNodes(
        _ commands: (_ a: String, _ b: String) -> String,
        listen: (first: [String], second: [String]),
        _ body: (_ first: Node, _ second: Node) async throws -> Void
    ) async throws {
        try #require(geteuid() == 0, "network namespaces need root")
        let id = "\(getpid())\(UInt16.random(in: 0...999))"
        let (a, b) = ("mdnsa\(id)", "mdnsb\(id)")
        defer { _ = try? shell("ip netns del \(a); ip netns del \(b)", allowFailure: true) }
        try shell("set -e; ip netns add \(a); ip netns add \(b)\n\(commands(a, b))")
        let first = try await self.node(a, listen: listen.first)
        let second = try await self.node(b, listen: listen.second)
        do { try await body(first, second) } catch {
            try await self.stop([first, second])
            throw error
        }
        try await self.stop([first, second])
    }

    /// A cable between two machines, and nobody who gives out addresses.
    @Test func nodesWithoutAnyOtherAddressesUseTheirLinkLocalOnes() async throws {
        try await self.withNodes(
            { a, b in
                """
                # A link-local address that is still looked for as a duplicate cannot be connected from.
                for ns in \(a) \(b); do ip netns exec $ns sh -c '
                    echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'
                done
                ip link add eth0 netns \(a) type veth peer name eth7 netns \(b)
                ip -n \(a) link set eth0 up; ip -n \(b) link set eth7 up
                ip -n \(a) link set lo up; ip -n \(b) link set lo up
                """
            },
            listen: (["/ip6/::/tcp/0"], ["/ip6/::/tcp/0"]),
            Self.connectByLinkLocalAddresses
        )
    }

    private static func connectByLinkLocalAddresses(_ first: Node, _ second: Node) async throws {
        try await eventually("the second has found the first", within: .seconds(60)) {
            !second.host.peers.addresses(of: first.host.peerID).isEmpty
        }
        let addresses = second.host.peers.addresses(of: first.host.peerID)
        #expect(addresses.allSatisfy { $0.zone == "eth7" && $0.isLinkLocal }, "\(addresses)")
        let connection: Connection = try await second.host.connect(to: first.host.peerID)
        #expect(connection.remotePeer == first.host.peerID)
        #expect(connection.remoteAddress.isLinkLocal)
    }

    @Test func nodesFindEachOtherAndFollowTheirInterfaces() async throws {
        var namespace = ""
        func furnish(_ a: String, _ b: String) -> String {
            namespace = b
            return """
                ip link add eth0 netns \(a) type veth peer name eth0 netns \(b)
                ip -n \(a) addr add 10.99.0.1/24 dev eth0; ip -n \(b) addr add 10.99.0.2/24 dev eth0
                ip -n \(a) link set eth0 up; ip -n \(b) link set eth0 up
                ip -n \(a) link add docker0 type bridge; ip -n \(a) addr add 172.17.0.1/16 dev docker0
                ip -n \(a) link set docker0 up; ip -n \(a) link set lo up; ip -n \(b) link set lo up
                """
        }
        try await self.withNodes(
            furnish,
            listen: (["/ip4/10.99.0.1/tcp/0", "/ip4/172.17.0.1/tcp/0"], ["/ip4/10.99.0.2/tcp/0"])
        ) { first, second in
            try await eventually("both have found each other", within: .seconds(60)) {
                !first.host.peers.addresses(of: second.host.peerID).isEmpty
                    && !second.host.peers.addresses(of: first.host.peerID).isEmpty
            }
            #expect(
                second.host.peers.addresses(of: first.host.peerID)
                    == first.host.listenAddresses.filter { $0.description.hasPrefix("/ip4/10.99.0.1/") },
                "the container network's address is not told"
            )
            #expect(await first.service.metrics().interfaces == 1, "docker0 is left alone")
            let connection: Connection = try await second.host.connect(to: first.host.peerID)
            #expect(connection.remotePeer == first.host.peerID)

            try shell("ip -n \(namespace) link set eth0 down")
            try await eventually("the interface is left", within: .seconds(60)) {
                await second.service.metrics().interfaces == 0
            }
            try shell("ip -n \(namespace) link set eth0 up")
            try await eventually("the interface is used again", within: .seconds(60)) {
                await second.service.metrics().interfaces == 1
            }
            let heard = await second.service.metrics().messagesReceived
            try await eventually("it hears others again", within: .seconds(60)) {
                await second.service.metrics().messagesReceived > heard
            }
        }
    }
}
