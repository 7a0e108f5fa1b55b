import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

extension EndToEnd {
    /// What happens to a gateway while it serves: other certificates, objects, addresses and settings, and what breaks.
    @Suite(.gateway, .serialized, .timeLimit(.minutes(5))) struct GatewayChangeTests {
        private let world: World

        init() throws { self.world = try GatewayWorld.world }

        /// A connection made before the change goes on with the old certificate; the next has the new one.
        @Test func aCertificateIsReplacedUnderAnOpenConnection() async throws {
            let directory = self.world.lab.directory
            let target = "\(try self.world.gatewayAddress()):443"
            // One request at once, one when the file is there; the answers go to the log.
            let client = try self.world.lab.start(
                on: WorldPlan.outside,
                [
                    "sh", "-c",
                    """
                    ask() { printf 'GET / HTTP/1.1\\r\\nHost: other.example\\r\\nConnection: %s\\r\\n\\r\\n' $1; }
                    (ask keep-alive; until [ -e \(directory)/rotated ]; do sleep 0.05; done; ask close) |
                        openssl s_client -quiet -connect \(target) -servername other.example
                    """,
                ],
                log: "rotation"
            )
            try await self.world.lab.wait(for: "the first answer", within: .seconds(60)) {
                client.log.contains("far-2-app")
            }
            let before = try await self.serial("other.example")
            let authority = try await LabAuthority(in: "\(self.world.authorityDirectory)/next")
            let certificate = try await authority.issue("other", hosts: ["other.example"])
            try self.world.apply("secret-other.yaml", try await authority.secret("other", certificate))
            try await self.world.lab.wait(for: "the new certificate", within: .seconds(60)) {
                try await self.serial("other.example") != before
            }
            try await Command.runLocal(["touch", "\(directory)/rotated"])
            _ = try await client.exit(within: .seconds(60))
            let answers = client.log.split(whereSeparator: \.isNewline).filter { $0.hasPrefix("far-2-app") }.count
            #expect(answers == 2, "\(client.log)")
        }

        private func serial(_ name: String) async throws -> String {
            let said = try await self.world.lab.run(
                on: WorldPlan.outside,
                [
                    "sh", "-c",
                    """
                    openssl s_client -connect \(self.world.gatewayAddress()):443 -servername \(name) </dev/null 2>/dev/null |
                        openssl x509 -noout -serial
                    """,
                ],
                deadline: .seconds(30)
            )
            return said.standardOutput.trimmed
        }

        @Test func objectsComeAndGoWhileOthersAreServed() async throws {
            try self.world.apply("extra.yaml", Self.site("extra", port: 9090, service: "far-2"))
            try await self.world.eventually("the new port", "http://extra.example:9090/") {
                $0.body.hasPrefix("far-2-app")
            }
            try self.world.apply("extra.yaml", Self.site("extra", port: 9090, service: "far-1"))
            try await self.world.eventually("the other service", "http://extra.example:9090/") {
                $0.body.hasPrefix("far-1-app")
            }
            try Files.write("", to: "\(self.world.manifestsDirectory)/extra.yaml")
            try await self.world.eventually("the port to be closed", "http://extra.example:9090/") {
                $0.exit == .exited(7)
            }
            let reply = try await self.world.fetch("http://shop.example/")
            #expect(reply.status == 200, "\(reply)")
        }

        @Test func aPortThatSomebodyHasIsToldAndTakenWhenItIsFree() async throws {
            let other = try self.world.lab.start(
                on: GatewayWorld.node,
                ["socat", "TCP-LISTEN:9191,fork,reuseaddr", "SYSTEM:echo somebody else"],
                log: "somebody"
            )
            try await self.world.lab.waitForListener(other, .tcp, port: 9191)
            try self.world.apply("conflict.yaml", Self.site("conflict", port: 9191, service: "far-2"))
            func problem() async throws -> String? {
                let listeners = try await self.world.gatewayStatus(of: GatewayWorld.node)["listeners"]?.array ?? []
                let taken = listeners.filter { $0["address"]?.string?.contains(":9191/") == true }
                return taken.compactMap { $0["problem"]?.string }.first
            }
            try await self.world.lab.wait(for: "the status to tell of the port", within: .seconds(60)) {
                try await problem() != nil
            }
            // Nothing else is the worse for it.
            let reply = try await self.world.fetch("http://shop.example/")
            #expect(reply.status == 200, "\(reply)")
            try await other.kill()
            try await self.world.eventually("the port to be taken", "http://conflict.example:9191/") {
                $0.body.hasPrefix("far-2-app")
            }
            #expect(try await problem() == nil)
        }

        /// The card outside gets another address, and loses it; then settings choose by name and by address.
        @Test func listenersFollowAddressesAndSettings() async throws {
            let node = GatewayWorld.node
            let inside = "\(try self.world.node(node).address)"
            let (first, second) = (try self.world.gatewayAddress(), "203.0.113.77")
            /// Whether the gateway answers on an address, as a client of that card's side asks it.
            func answers(_ address: String) async throws -> Bool {
                try await self.world.lab.run(
                    on: address == inside ? node : WorldPlan.outside,
                    ["curl", "-sS", "--max-time", "5", "--connect-to", "::\(address):", "http://shop.example/"]
                ).standardOutput.hasPrefix("far-1-app")
            }
            func wait(for addresses: Set<String>, _ settings: [String]) async throws {
                try self.world.configureGateway(of: node, settings)
                try await self.world.lab.wait(for: "\(addresses) with \(settings)", within: .seconds(60)) {
                    for address in [first, second, inside] {
                        guard try await answers(address) == addresses.contains(address) else { return false }
                    }
                    return true
                }
            }
            let card = WorldPlan.outsideInterface
            try await wait(for: [first], ["nic: \(card)"])
            try await self.world.lab.configure(node, ["addr add \(second)/24 dev \(card)"])
            try await wait(for: [first, second], ["nic: \(card)"])
            try await wait(for: [second], ["nic: \(card)", "includeIP: \(second)"])
            try await wait(for: [first], ["nic: \(card)", "excludeIP: \(second)/32"])
            try await wait(for: [inside], ["nic: eth0"])
            try await wait(for: [first, second, inside], ["nic: \"eth0,\(card)\""])
            try await self.world.lab.configure(node, ["addr del \(second)/24 dev \(card)"])
            try await wait(for: [first, inside], ["nic: \"eth0,\(card)\""])
            try await wait(for: [first, inside], [])
        }

        /// A card that comes later, as one that is plugged in.
        @Test func aCardThatComesIsServed() async throws {
            let node = GatewayWorld.node
            func answers() async throws -> Bool {
                try await self.world.lab.run(
                    on: node,
                    ["curl", "-sS", "--max-time", "5", "--connect-to", "::198.51.100.1:", "http://shop.example/"]
                ).standardOutput.hasPrefix("far-1-app")
            }
            try self.world.configureGateway(of: node, ["nic: \"\(WorldPlan.outsideInterface),usb0\""])
            try await self.world.lab.configure(
                node,
                [
                    "link add usb0 type veth peer name usb1", "addr add 198.51.100.1/24 dev usb0", "link set usb0 up",
                    "link set usb1 up",
                ]
            )
            try await self.world.lab.wait(for: "the gateway on the new card", within: .seconds(60)) {
                try await answers()
            }
            try await self.world.lab.configure(node, ["link del usb0"])
            try self.world.configureGateway(of: node)
            let reply = try await self.world.fetch("http://shop.example/")
            #expect(reply.status == 200, "\(reply)")
        }

        @Test func whenANodeIsLostItsServiceGoesOnElsewhere() async throws {
            var before: Set<String> = []
            for _ in 0..<20 { before.insert(try await self.world.fetch("http://shop.example/both").body) }
            #expect(before.count == 3, "\(before)")
            try await self.world.killAgent(of: "far-2")
            for call in 0..<6 {
                let reply = try await self.world.fetch("http://shop.example/both", maxTime: 60)
                #expect(reply.body.hasPrefix("far-1-app"), "call \(call): \(reply)")
            }
            try self.world.startAgent(of: "far-2")
            try await self.world.eventually("the node to be back", "http://shop.example/both") {
                $0.body.hasPrefix("far-2-app")
            }
        }

        private static func site(_ name: String, port: Int, service: String) -> String {
            """
            apiVersion: networking.istio.io/v1
            kind: Gateway
            metadata: {name: \(name), namespace: default}
            spec:
              servers:
              - {port: {number: \(port), name: http, protocol: HTTP}, hosts: [\(name).example]}
            ---
            apiVersion: networking.istio.io/v1
            kind: VirtualService
            metadata: {name: \(name), namespace: default}
            spec:
              gateways: [\(name)]
              hosts: [\(name).example]
              http: [{route: [{destination: {host: \(service), port: {number: 80}}}]}]

            """
        }
    }
}
