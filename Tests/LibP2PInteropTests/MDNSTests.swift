import ByteStreams
import Glibc
import LibP2P
import LibP2PDiscovery
import LinuxNetwork
import MeshCore
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import NetLab
import PeerIdentity
import PeerTesting
import Testing

/// mDNS with python-zeroconf, by py-libp2p and plainly: each side announces and browses. The two are in network namespaces with
/// a cable between them.
@Suite(.serialized) struct MDNSTests {
    private static let ours = "10.98.0.1"
    private static let theirs = "10.98.0.2"

    private func withLab(_ body: (Lab) async throws -> Void) async throws {
        try #require(geteuid() == 0, "network namespaces need root")
        var plan = LabPlan(name: "mdns\(getpid())")
        plan.addLAN("lan")
        for (name, address) in [("ours", Self.ours), ("theirs", Self.theirs)] {
            plan.addHost(name, on: "lan", address: .init(try #require(IPv4Address(address)), prefixLength: 24))
        }
        let lab = try await Lab.create(plan)
        do {
            try await body(lab)
        } catch {
            try? lab.remove()
            throw error
        }
        try lab.remove()
    }

    private func start(in lab: Lab, _ command: [String], environment: [String: String] = [:]) throws -> PeerProcess {
        let enter = ["ip", "netns", "exec", lab.plan.namespace(of: "theirs")]
        return try PeerProcess(enter + command, environment: environment, limit: Peers.lifetime)
    }

    private func startPython(in lab: Lab, _ script: String, _ arguments: [String]) throws -> PeerProcess {
        try Peers.require(Peers.python)
        return try self.start(in: lab, [Peers.python, Peers.file(script)] + arguments)
    }

    /// A host of ours in the lab, which announces itself and looks for others.
    private func withHost(
        _ wanted: TestHost = TestHost(listen: ["/ip4/\(Self.ours)/tcp/0"]),
        in lab: Lab,
        _ service: String,
        _ body: (Host, MDNSService) async throws -> Void
    ) async throws {
        // Threads that are started in a namespace stay there.
        let group = try NetworkNamespace(named: lab.plan.namespace(of: "ours")).run {
            MultiThreadedEventLoopGroup(numberOfThreads: 1)
        }
        let started = await Task(executorPreference: LoopTaskExecutor(group.next())) {
            try await wanted.start(on: group)
        }.result
        do {
            let host = try started.get()
            let mdns = MDNSService(host: host, configuration: MDNSConfiguration(serviceName: service))
            do {
                try await mdns.start()
                try await body(host, mdns)
            } catch {
                await mdns.stop()
                await host.shutdown(deadline: .now())
                throw error
            }
            await mdns.stop()
            await host.shutdown(deadline: .now() + .seconds(1))
        } catch {
            try await group.shutdownGracefully()
            throw error
        }
        try await group.shutdownGracefully()
    }

    @Test func pythonPeersAreFoundAndFindUs() async throws {
        try await self.withLab { lab in
            let python = try self.startPython(
                in: lab,
                "peer.py",
                ["-listen", "/ip4/\(Self.theirs)/tcp/0", "-mdns", "_p2p._udp"]
            )
            let address = try await python.address()
            let peer = try #require(address.peerID)
            try await self.withHost(in: lab, "_p2p._udp") { host, _ in
                try await eventually("we find the peer", within: .seconds(60)) {
                    host.peers.addresses(of: peer) == [address.withoutPeerID]
                }
                let found = try await python.line("discovered \(host.peerID) ", within: 60)
                #expect(found.split(separator: " ").last == "\(host.listenAddresses[0])")
                // By what mDNS has told alone.
                let connection: Connection = try await host.connect(to: peer)
                #expect(connection.remotePeer == peer)
                try await host.testEcho(peer, bytes: 100_000)
            }
        }
    }

    /// The service as v1.17 names it, which is none by RFC 6763.
    @Test func plainZeroconfReadsUsAndIsRead() async throws {
        let service = "EDGEMESH_PLAYGOUND"
        try await self.withLab { lab in
            let peer = KeyPair.generate().peerID
            let address = try Multiaddr("/ip4/\(Self.theirs)/tcp/20006")
            let zeroconf = try self.startPython(
                in: lab,
                "mdns.py",
                [service, Self.theirs, "\(address.appending(.p2p(peer)))"]
            )
            _ = try await zeroconf.line("ready")
            try await self.withHost(in: lab, service) { host, mdns in
                try await eventually("we find the announcement", within: .seconds(60)) {
                    host.peers.addresses(of: peer) == [address]
                }
                let added = try await zeroconf.line("added ", within: 60)
                #expect(added.hasSuffix(" dnsaddr=\(host.listenAddresses[0].appending(.p2p(host.peerID)))"), "\(added)")
                // Its goodbye.
                await mdns.stop()
                _ = try await zeroconf.line("removed ", within: 60)
            }
        }
    }

    /// Its announcement is what it is, and it dials us for ours.
    @Test(.enabled(if: Peers.original != nil, "EDGEMESH_ORIGINAL_AGENT names no program"))
    func theOriginalFindsUsAndIsFound()
        async throws
    {
        let program = try #require(Peers.original)
        let secret = "a secret of the test"
        try await self.withLab { lab in
            for (name, text) in [
                ("psk", secret),
                (
                    "agent.yaml",
                    """
                    kubeAPIConfig: {master: "http://127.0.0.1:1", contentType: application/json}
                    modules:
                      edgeDNS: {enable: false}
                      edgeProxy: {enable: false}
                      edgeTunnel: {enable: true, psk: {enable: true, path: \(lab.directory)/psk}}
                    """
                ),
            ] {
                let file = try #require(fopen("\(lab.directory)/\(name)", "w"))
                fputs(text, file)
                fclose(file)
            }
            let agent = try self.start(
                in: lab,
                [program, "--config-file", "\(lab.directory)/agent.yaml"],
                environment: ["NODE_NAME": "ke-theirs", "NAMESPACE": "kubeedge"]
            )
            let peer = try KeyPair.derived(nodeName: "ke-theirs").peerID
            var ours = TestHost(listen: ["/ip4/\(Self.ours)/tcp/20006"], psk: Array(secret.utf8))
            ours.nodeName = "ke-ours"
            try await self.withHost(ours, in: lab, "EDGEMESH_PLAYGOUND") { host, _ in
                try await eventually("we find the agent", within: .seconds(60)) {
                    host.peers.addresses(of: peer).contains(try Multiaddr("/ip4/\(Self.theirs)/tcp/20006"))
                }
                // It tells those whom it finds which node it is.
                try await eventually("the agent finds us:\n\(agent.output)", within: .seconds(60)) {
                    host.connections(to: peer).contains { $0.direction == .inbound }
                }
                let connection: Connection = try await host.connect(to: peer)
                #expect(try await connection.ping().get() > .zero)
                let known = try await host.identification(of: connection)
                #expect(known.protocols.contains("/libp2p/tunnel-discovery/1.0.0"), "\(known)")
            }
        }
    }
}
