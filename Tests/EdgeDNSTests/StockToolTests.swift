import DNSWire
import Documents
import Glibc
import HashTreeCollections
import MeshCore
import ServiceCatalog
import Testing

@testable import EdgeDNS

/// The server against the tools and resolvers that its users have. Port 53 and mount namespaces need root.
@Suite(.timeLimit(.minutes(2)), .serialized) struct StockToolTests {
    private static let snapshot = CatalogSnapshot(
        services: Array(ZoneFixtures.snapshot.services.values) + [ServerTests.manyAddresses]
    )

    static let questions: [(String, String)] = [
        ("web.default.svc.cluster.local A", "10.96.0.10"),
        ("+tcp web.default.svc.cluster.local A", "10.96.0.10"),
        ("+noedns web.default.svc.cluster.local A", "10.96.0.10"),
        ("+dnssec +bufsize=4096 web.default.svc.cluster.local A", "10.96.0.10"),
        ("WEB.default.SVC.cluster.local A", "10.96.0.10"),
        ("dual.default.svc.cluster.local AAAA", "fd00::11"),
        ("_http._tcp.web.default.svc.cluster.local SRV", "0 100 80 web.default.svc.cluster.local."),
        ("-x 10.96.0.10", "web.default.svc.cluster.local."),
        ("dns-version.cluster.local TXT", "\"1.1.0\""),
        ("inside.default.svc.cluster.local A", "web.default.svc.cluster.local.\n10.96.0.10"),
    ]

    @Test func dig() async throws {
        try await withServer(StockToolTests.snapshot) { server in
            let dig = "dig @127.0.0.1 -p \(server.address.port) +tries=1 +time=3"
            for (question, expected) in StockToolTests.questions {
                let (output, status) = try await Sockets.shell("\(dig) +short \(question)")
                #expect(status == 0, "\(question): \(output)")
                #expect(output == expected + "\n", "\(question)")
            }
            let mixed = try await Sockets.shell("\(dig) WeB.default.svc.CLUSTER.local A").output
            #expect(mixed.contains("WeB.default.svc.CLUSTER.local. 30 IN\tA\t10.96.0.10"), "\(mixed)")
            #expect(mixed.contains("flags: qr aa rd;"), "\(mixed)")
            #expect(!mixed.contains("WARNING: Message"), "\(mixed)")
            let cut = try await Sockets.shell("\(dig) +ignore +bufsize=512 many.default.svc.cluster.local A").output
            #expect(cut.contains("flags: qr aa tc rd;"), "\(cut)")
            let whole = try await Sockets.shell("\(dig) +bufsize=512 +short many.default.svc.cluster.local A | wc -l")
                .output
            #expect(whole.contains("100"), "\(whole)")
            let missing = try await Sockets.shell("\(dig) nothing.default.svc.cluster.local A").output
            #expect(missing.contains("status: NXDOMAIN") && missing.contains("SOA"), "\(missing)")
            let empty = try await Sockets.shell("\(dig) web.default.svc.cluster.local AAAA").output
            #expect(
                empty.contains("status: NOERROR") && empty.contains("ANSWER: 0") && empty.contains("SOA"),
                "\(empty)"
            )
            let version = try await Sockets.shell("\(dig) +edns=1 +noednsnegotiation web.default.svc.cluster.local A")
                .output
            #expect(version.contains("status: BADVERS"), "\(version)")
            let chaos = try await Sockets.shell("\(dig) version.bind CH TXT").output
            #expect(chaos.contains("status: REFUSED"), "\(chaos)")
        }
    }

    /// dig takes a reply only from the address that it asked.
    @Test(arguments: [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1")])
    func repliesFromTheAddressAsked(host: String, asked: String) async throws {
        try await withServer(StockToolTests.snapshot, host: host) { server in
            for transport in ["+notcp", "+tcp"] {
                let dig = "dig @\(asked) -p \(server.address.port) +tries=1 +time=3 +short \(transport)"
                let reply = try await Sockets.shell("\(dig) web.default.svc.cluster.local A")
                #expect(reply.output == "10.96.0.10\n", "\(transport)")
            }
        }
    }

    /// Runs a command that sees a resolver configuration with search list and ndots as pods have.
    private func withResolver(_ command: String) async throws -> (output: String, status: CInt) {
        guard getuid() == 0 else { throw TestFailure("this test needs root: it makes a mount namespace") }
        let file = "/tmp/edgemesh-dns-test-\(getpid()).conf"
        let text =
            "nameserver 127.53.0.16\\nsearch default.svc.cluster.local svc.cluster.local cluster.local\\noptions ndots:5\\n"
        return try await Sockets.shell(
            "printf '\(text)' > \(file); unshare -m --propagation private sh -c "
                + "'mount --bind \(file) /etc/resolv.conf && \(command)'; code=$?; rm -f \(file); exit $code"
        )
    }

    @Test func resolversOfGlibcAndBusybox() async throws {
        try await withServer(StockToolTests.snapshot, host: "127.53.0.16", port: 53) { server in
            let glibc = try await self.withResolver("getent ahosts web")
            #expect(glibc.status == 0 && glibc.output.contains("10.96.0.10"), "\(glibc)")
            let v6 = try await self.withResolver("getent ahostsv6 dual.default")
            #expect(v6.output.contains("fd00::11"), "\(v6)")
            let many = try await self.withResolver("getent ahostsv4 many.default.svc.cluster.local | grep -c STREAM")
            #expect(many.output.contains("100"), "\(many)")
            let reverse = try await self.withResolver("getent hosts 10.96.0.10")
            #expect(reverse.output.contains("web.default.svc.cluster.local"), "\(reverse)")
            let missing = try await self.withResolver("getent ahosts nothing.default.svc.cluster.local")
            #expect(missing.status == 2, "\(missing)")
            let busybox = try await self.withResolver("busybox nslookup web.default.svc.cluster.local")
            #expect(busybox.status == 0 && busybox.output.contains("10.96.0.10"), "\(busybox)")
            let asked = await server.status("queries", "byType", "AAAA")?.integer ?? 0
            #expect(asked > 0)
        }
    }
}
