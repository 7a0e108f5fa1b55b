import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

extension EndToEnd {
    /// UDP through the user-space proxy, and over the kernel's own path.
    @Suite(
        .lab([
            "echo.yaml": Manifest.service("user-echo", "10.96.2.1", port: "2702:2702/udp", endpoints: [30]),
            "user.yaml": Manifest.service("user-name", "10.96.2.2", port: "9376:9376/udp", endpoints: [31, 32, 33]),
            "kernel.yaml": Manifest.service(
                "kernel-name",
                "10.96.2.3",
                port: "9376:9376/udp",
                endpoints: [31, 32, 33],
                on: "node-a"
            ),
        ]),
        .timeLimit(.minutes(1))
    )
    struct DatagramTests {
        private let node: NodeLab

        init() throws { self.node = try RunningLab.node }

        private func socket() throws -> LabSocket { try LabSocket(self.node, on: "client", .udp) }

        @Test func pathsAreAsMeant() async throws {
            #expect(try await self.node.row("user-echo")?["path"]?.string == "user")
            #expect(try await self.node.row("user-name")?["path"]?.string == "user")
            #expect(try await self.node.row("kernel-name")?["path"]?.string == "kernel")
        }

        @Test(arguments: ["10.96.2.2", "10.96.2.3"]) func answersComeFromTheServicesAddress(address: String) throws {
            let socket = try self.socket()
            try socket.send("who".utf8, to: address, 9376)
            let (bytes, source) = try socket.receiveFrom()
            #expect(source == "\(address):9376")
            #expect(String(decoding: bytes, as: UTF8.self).hasPrefix("backend-"))
        }

        @Test(arguments: [0, 1, 1_472, 1_473, 60_000, 65_507]) func datagramsStayWhole(size: Int) throws {
            let socket = try self.socket()
            try socket.connect("10.96.2.1", 2702)
            let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 7) }
            try socket.send(bytes)
            #expect(try socket.receive() == bytes)
        }

        @Test func aSessionKeepsItsBackend() async throws {
            let socket = try self.socket()
            try socket.connect("10.96.2.2", 9376)
            let first = try socket.ask("who")
            #expect(try socket.ask("who") == first)
            try await Task.sleep(for: .seconds(2))
            #expect(try socket.ask("who") == first, "after two seconds of silence")
            // Round robin: other sessions meet others.
            let others = try (0..<3).map { _ in
                let other = try self.socket()
                try other.connect("10.96.2.2", 9376)
                return try other.ask("who")
            }
            #expect(Set(others).count == 3)
        }

        /// A client that keeps its port is moved by its next datagrams.
        @Test(arguments: [("user", "10.96.2.2"), ("kernel", "10.96.2.3")])
        func aFlowMovesWhenItsEndpointGoes(path: String, address: String) async throws {
            let socket = try self.socket()
            try socket.connect(address, 9376)
            let first = try socket.ask("who")
            let gone = try #require(["backend-1": 31, "backend-2": 32, "backend-3": 33][first])
            let node = path == "kernel" ? self.node.layout.node : nil
            func apply(_ endpoints: [Int]) throws {
                try self.node.apply(
                    "\(path).yaml",
                    Manifest.service("\(path)-name", address, port: "9376:9376/udp", endpoints: endpoints, on: node)
                )
            }
            try apply([31, 32, 33].filter { $0 != gone })
            try await self.node.waitForRow("\(path)-name", "two endpoints") { $0?["endpoints"]?.integer == 2 }
            try await self.node.lab.wait(for: "the flow to move") {
                try socket.ask("who") != first
            }
            let second = try socket.ask("who")
            #expect(try socket.ask("who") == second)
            try apply([31, 32, 33])
            try await self.node.waitForRow("\(path)-name", "three endpoints") { $0?["endpoints"]?.integer == 3 }
            #expect(try socket.ask("who") == second, "it stays where it is served")
        }
    }
}
