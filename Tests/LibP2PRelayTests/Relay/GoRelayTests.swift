import Glibc
import LibP2P
import LibP2PSecurity
import MeshTesting
import Multiformats
import NIOCore
import PeerIdentity
import Testing

@testable import LibP2PRelay

extension SocketTests {
    /// Relays, targets and sources of go-libp2p against ours. They need an executable peer, which the environment names:
    /// EDGEMESH_GO_PEER, with the flags -relay, -reserve, -dial, -op, -psk, and EDGEMESH_GO_PSK, a file for the last of these.
    @Suite(
        .enabled(if: ChildPeer.path != nil, "EDGEMESH_GO_PEER names no go-libp2p peer to test against")
    )
    struct GoRelayTests {
        struct Network: Sendable, CustomTestStringConvertible {
            let security: String
            let isPrivate: Bool
            var testDescription: String { "\(self.security)\(self.isPrivate ? " private" : "")" }

            var arguments: [String] {
                ["-security", self.security] + (self.isPrivate ? ["-psk", ChildPeer.preSharedKeyPath ?? ""] : [])
            }

            func configure(_ configuration: inout HostConfiguration) throws {
                guard self.isPrivate else { return }
                let file = try #require(ChildPeer.preSharedKeyPath, "EDGEMESH_GO_PSK names no file")
                configuration.preSharedKey = PreSharedKey(originalFileBytes: try ChildPeer.contents(of: file))
            }
        }

        static let networks = [
            Network(security: "noise", isPrivate: false), Network(security: "tls", isPrivate: false),
            Network(security: "noise,tls", isPrivate: true),
        ]

        private func host(_ hosts: Hosts, _ network: Network, listens: Bool) async throws -> Host {
            var configured = HostConfiguration()
            try network.configure(&configured)
            let key = configured.preSharedKey
            return try await hosts.make(listens: listens) { $0.preSharedKey = key }
        }

        @Test(arguments: networks) func weReserveWithGoAndAreDialledThroughIt(_ network: Network) async throws {
            try await Hosts.with { hosts in
                let go = try await ChildPeer.run(network.arguments + ["-relay"])
                defer { go.stop() }
                let relay = try go.addresses()
                let target = try await self.host(hosts, network, listens: false)
                target.echo("/test/echo/1.0.0")
                let client = hosts.client(of: target)
                client.setCandidates([RelayCandidate(peer: try #require(relay[0].peerID), addresses: relay)])
                try await client.holds(1)
                #expect(client.reservations[0].limit == nil)
                #expect(target.advertisedAddresses == [relay[0].appending(.circuit)])

                // By ours.
                let source = try await self.host(hosts, network, listens: false)
                hosts.client(of: source)
                _ = try await source.connect(to: target.peerID, addresses: target.advertisedAddresses) as Connection
                let stream = try await source.openStream(to: target.peerID, protocols: ["/test/echo/1.0.0"])
                #expect(try await stream.exchange(.pattern(300_000)) == .pattern(300_000))

                // And by Go.
                let circuit = relay[0].appending(.circuit).appending(.p2p(target.peerID))
                let dialler = try await ChildPeer.run(
                    network.arguments + ["-dial", "\(circuit)", "-op", "echo", "-bytes", "300000", "-streams", "5"]
                )
                defer { dialler.stop() }
                try await dialler.says("echo ok")
            }
        }

        @Test(arguments: networks) func goReservesWithUsAndGoDialsThroughUs(_ network: Network) async throws {
            try await Hosts.with { hosts in
                let relay = try await self.host(hosts, network, listens: true)
                let service = relay.serve { $0.acceptsUnreserved = false }
                let target = try await ChildPeer.run(network.arguments + ["-reserve", "\(relay.addresses[0])"])
                defer { target.stop() }
                try await target.says("reserved until")
                #expect(target.output.contains("voucher true"))
                let peer = try #require(try target.addresses().first?.peerID)

                let source = try await self.host(hosts, network, listens: false)
                hosts.client(of: source)
                let circuit = relay.addresses[0].appending(.circuit)
                let connection = try await source.connect(to: peer, addresses: [circuit]) as Connection
                #expect(connection.path == .relayed(nil))
                let stream = try await source.openStream(to: peer, protocols: ["/test/echo/1.0.0"])
                #expect(try await stream.exchange(.pattern(300_000)) == .pattern(300_000))

                for operation in ["echo", "source", "discard"] {
                    let dialler = try await ChildPeer.run(
                        network.arguments + [
                            "-dial", "\(circuit.appending(.p2p(peer)))", "-op", operation, "-bytes", "1000000",
                            "-streams",
                            "8",
                        ]
                    )
                    defer { dialler.stop() }
                    try await dialler.says("\(operation) ok")
                    #expect(dialler.output.contains("transient false"))
                }
                #expect(await service.metrics().openReservations == 1)
                try await eventually("the circuits of Go are over") { await service.metrics().openCircuits == 1 }
            }
        }

        @Test func goWithoutAReservationIsReachedThroughUs() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve()
                let target = try await ChildPeer.run([])
                defer { target.stop() }
                let address = try #require(try target.addresses().first)
                let peer = try #require(address.peerID)
                _ = try await relay.connect(to: peer, addresses: [address]) as Connection
                let circuit = relay.addresses[0].appending(.circuit)
                let source = try await hosts.make(listens: false)
                hosts.client(of: source)
                _ = try await source.connect(to: peer, addresses: [circuit]) as Connection
                #expect(await service.metrics().openReservations == 0)
                #expect(await service.metrics().circuitsOpened == 1)
            }
        }

        @Test func goTellsALimitAsALimit() async throws {
            try await Hosts.with { hosts in
                let relay = try await hosts.make()
                let service = relay.serve { $0.limit = ConnectionLimit(seconds: 60, bytes: 1 << 20) }
                let target = try await hosts.make(listens: false)
                target.echo("/test/echo/1.0.0", options: HandlerOptions(allowLimitedConnection: true))
                let client = hosts.client(of: target, relay)
                try await client.holds(1)
                let circuit = relay.circuit(to: target)[0]
                let dialler = try await ChildPeer.run(["-dial", "\(circuit)", "-op", "echo", "-bytes", "10000"])
                defer { dialler.stop() }
                try await dialler.says("echo ok")
                #expect(dialler.output.contains("transient true"))
                withExtendedLifetime(service) {}
            }
        }
    }
}
