import Glibc
import MeshCore
import Testing

@testable import NetLab

/// The files that users begin with, applied as they are; the pods behind them are on the far LAN.
extension EndToEnd.GatewayTests {
    private static let port = 23_333

    @Test(arguments: ["http", "host-and-path", "mutual-tls", "gateway-api"])
    func everyExampleOfOursIsServed(name: String) async throws {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let text = try Files.readText("/\(root)/examples/gateway/\(name).yaml")
        try await self.apply(text, labels: "app: hostname, version: next") { world in
            let isSecure = name == "mutual-tls"
            let url = "\(isSecure ? "https" : "http")://hostname.example:\(Self.port)/who"
            try await Self.expectPods(world, url, isSecure ? Self.certificate(world) : [])
            let elsewhere = try await world.fetch("http://elsewhere.example:\(Self.port)/who")
            #expect(elsewhere.status == (name == "http" ? 200 : isSecure ? 0 : 404), "\(elsewhere)")
            if isSecure {
                let stranger = try await world.fetch(url)
                #expect(stranger.status == 0 && !stranger.exit.isSuccess, "\(stranger)")
            }
        }
    }

    private static var originals: String? { getenv("EDGEMESH_ORIGINAL_EXAMPLES").map { String(cString: $0) } }

    /// Those that v1.17 ships, where `EDGEMESH_ORIGINAL_EXAMPLES` names the folder. What their authors meant is asked for.
    @Test(
        .enabled(if: Self.originals != nil),
        arguments: [
            ("hostname-lb-random-gateway", "http://a.example", "/"),
            ("hostname-lb-random-gateway", "http://203.0.113.2", "/any/path"),
            ("hostname-lb-random-gateway-route", "http://hostname.org", "/who"),
            ("hostname-lb-random-gateway-tls", "https://a.example", "/"),
        ]
    )
    func everyExampleOfTheOriginalIsServed(name: String, site: String, path: String) async throws {
        let text = try Files.readText("\(Self.originals ?? "")/\(name).yaml")
        try await self.apply(text, labels: "app: hostname-lb-edge") { world in
            // Their Secret has no `ca.crt`, and curl is told not to look at the certificate.
            try await Self.expectPods(
                world,
                "\(site):\(Self.port)\(path)",
                name.hasSuffix("tls") ? ["-k", "--tls-max", "1.2"] + Self.certificate(world) : []
            )
        }
    }

    private static func certificate(_ world: World) -> [String] {
        ["--cert", "\(world.authorityDirectory)/client.crt", "--key", "\(world.authorityDirectory)/client.key"]
    }

    /// Three pods stand behind the service, and each has its share: one that is not seen in 60 calls by chance alone, one call in
    /// three being its own, is a matter of one time in 10^10.
    private static func expectPods(_ world: World, _ url: String, _ options: [String]) async throws {
        try await world.eventually("the example", url, options) { $0.status == 200 }
        var seen: Set<String> = []
        for _ in 0..<60 where seen.count < 3 {
            let reply = try await world.fetch(url, options)
            #expect(reply.status == 200, "\(reply)")
            seen.insert(reply.body)
        }
        #expect(seen == ["far-1-app", "far-1-app-2", "far-2-app"])
    }

    /// Applies a file with pods and Secrets for it, and takes all away again.
    private func apply(_ text: String, labels: String, _ body: (World) async throws -> Void) async throws {
        let world = try GatewayWorld.world
        let pods = try ["far-1", "far-2"].flatMap { node in
            try world.node(node).apps.map { pod in
                """
                apiVersion: v1
                kind: Pod
                metadata: {name: \(pod.name), namespace: default, labels: {\(labels)}}
                spec: {nodeName: \(node), containers: [{name: app, image: lab, ports: [{containerPort: 9376}]}]}
                status:
                  phase: Running
                  podIP: \(pod.address)
                  podIPs: [{ip: \(pod.address)}]
                  conditions: [{type: Ready, status: "True"}]

                """
            }
        }
        let authority = LabAuthority(existingIn: world.authorityDirectory)
        let certificate = try await authority.issue("hostname", hosts: ["hostname.example"])
        let secrets = [
            try await authority.secret("gateway-tls", certificate, verifiesClients: true),
            try await authority.secret("gw-secret", certificate),
        ]
        try world.apply("example.yaml", (pods + secrets + [text]).joined(separator: "---\n"))
        try await body(world)
        try world.apply("example.yaml", "")
        try await world.eventually("the example's port to be closed", "http://any.example:\(Self.port)/") {
            $0.exit == .exited(7)
        }
    }
}
