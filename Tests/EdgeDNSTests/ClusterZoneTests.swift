import DNSWire
import KubeModel
import MeshCore
import ServiceCatalog
import Testing

@testable import EdgeDNS

/// Questions and answers after the tables of the Kubernetes DNS specification 1.1.0. An answer is written as its records'
/// data, sorted; `NODATA`, `NXDOMAIN`, `SERVFAIL` and `outside` stand for themselves.
@Suite struct ClusterZoneTests {
    static func text(_ data: RecordData) -> String {
        switch data {
        case .a(let address): "A \(address)"
        case .aaaa(let address): "AAAA \(address)"
        case .cname(let name): "CNAME \(name)"
        case .ns(let name): "NS \(name)"
        case .ptr(let name): "PTR \(name)"
        case .srv(let priority, let weight, let port, let target): "SRV \(priority) \(weight) \(port) \(target)"
        case .txt(let strings): "TXT " + strings.map { String(decoding: $0, as: UTF8.self) }.joined(separator: " ")
        case .soa: "SOA"
        case .mx, .opaque: "other"
        }
    }

    static func summary(_ answer: ClusterZone.Answer) -> [String] {
        switch answer {
        case .outside: return ["outside"]
        case .chase(let prefix, let target): return prefix.map { self.text($0.data) } + ["chase \(target)"]
        case .complete(let sections):
            let records = sections.answers.map { self.text($0.data) }
            switch sections.responseCode {
            case .noError where records.isEmpty || sections.authorities.contains { $0.type == .soa }:
                return records + ["NODATA"]
            case .noError: return records.sorted()
            default: return records + [sections.responseCode.description]
            }
        }
    }

    static let srv = "db-0.db.default.svc.cluster.local."

    static let table: [(String, RecordType, [String])] = [
        // 2.2: schema version
        ("dns-version.cluster.local", .txt, ["TXT 1.1.0"]),
        ("dns-version.cluster.local", .a, ["NODATA"]),
        ("x.dns-version.cluster.local", .txt, ["NXDOMAIN"]),
        // 2.3.1: services with a cluster IP
        ("web.default.svc.cluster.local", .a, ["A 10.96.0.10"]),
        ("WEB.Default.SVC.cluster.LOCAL", .a, ["A 10.96.0.10"]),
        ("web.default.svc.cluster.local", .aaaa, ["NODATA"]),
        ("web.default.svc.cluster.local", .txt, ["NODATA"]),
        ("dual.default.svc.cluster.local", .a, ["A 10.96.0.11"]),
        ("dual.default.svc.cluster.local", .aaaa, ["AAAA fd00::11"]),
        ("pending.default.svc.cluster.local", .a, ["NODATA"]),
        ("gone.default.svc.cluster.local", .a, ["NXDOMAIN"]),
        ("web.other.svc.cluster.local", .a, ["NXDOMAIN"]),
        ("x.web.default.svc.cluster.local", .a, ["NXDOMAIN"]),
        ("10-244-0-9.web.default.svc.cluster.local", .a, ["A 10.244.0.9"]),
        // 2.3.2: SRV
        ("_http._tcp.web.default.svc.cluster.local", .srv, ["SRV 0 100 80 web.default.svc.cluster.local."]),
        ("_dns._udp.web.default.svc.cluster.local", .srv, ["SRV 0 100 53 web.default.svc.cluster.local."]),
        ("_http._udp.web.default.svc.cluster.local", .srv, ["NXDOMAIN"]),
        ("_http._tcp.web.default.svc.cluster.local", .a, ["NODATA"]),
        ("_tcp.web.default.svc.cluster.local", .srv, ["NODATA"]),
        ("_sctp.web.default.svc.cluster.local", .srv, ["NXDOMAIN"]),
        ("_._tcp.dual.default.svc.cluster.local", .srv, ["NXDOMAIN"]),
        (
            "web.default.svc.cluster.local", .srv,
            ["SRV 0 50 53 web.default.svc.cluster.local.", "SRV 0 50 80 web.default.svc.cluster.local."]
        ),
        // 2.3.3: PTR
        ("10.0.96.10.in-addr.arpa", .ptr, ["PTR web.default.svc.cluster.local."]),
        ("10.0.96.10.IN-ADDR.arpa", .a, ["NODATA"]),
        (
            "1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", .ptr,
            ["PTR dual.default.svc.cluster.local."]
        ),
        ("1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.+.ip6.arpa", .ptr, ["outside"]),
        ("1.1.1.1.in-addr.arpa", .ptr, ["outside"]),
        ("01.1.1.1.in-addr.arpa", .ptr, ["outside"]),
        ("in-addr.arpa", .ptr, ["outside"]),
        // 2.4.1: headless services
        ("db.default.svc.cluster.local", .a, ["A 10.244.0.1", "A 10.244.0.2"]),
        ("db.default.svc.cluster.local", .aaaa, ["AAAA fd00::1"]),
        ("db-0.db.default.svc.cluster.local", .a, ["A 10.244.0.1"]),
        ("db-0.db.default.svc.cluster.local", .aaaa, ["AAAA fd00::1"]),
        ("10-244-0-2.db.default.svc.cluster.local", .a, ["A 10.244.0.2"]),
        ("10-244-0-2.db.default.svc.cluster.local", .aaaa, ["NODATA"]),
        ("10-244-0-1.db.default.svc.cluster.local", .a, ["NXDOMAIN"]),
        ("db-2.db.default.svc.cluster.local", .a, ["NXDOMAIN"]),
        ("starting.default.svc.cluster.local", .a, ["NXDOMAIN"]),
        ("eager.default.svc.cluster.local", .a, ["A 10.244.0.5"]),
        // 2.4.2: SRV of headless services; every address of a name counts once
        (
            "_sql._tcp.db.default.svc.cluster.local", .srv,
            ["SRV 0 50 5432 10-244-0-2.db.default.svc.cluster.local.", "SRV 0 50 5432 \(srv)"]
        ),
        ("_http._tcp.db.default.svc.cluster.local", .srv, ["NXDOMAIN"]),
        // 2.4.3: PTR of headless endpoints
        ("1.0.244.10.in-addr.arpa", .ptr, ["PTR \(srv)"]),
        ("2.0.244.10.in-addr.arpa", .ptr, ["PTR 10-244-0-2.db.default.svc.cluster.local."]),
        ("3.0.244.10.in-addr.arpa", .ptr, ["outside"]),
        // 2.5: external names
        ("outside.default.svc.cluster.local", .a, ["CNAME Example.ORG.", "chase Example.ORG."]),
        ("outside.default.svc.cluster.local", .cname, ["CNAME Example.ORG."]),
        ("inside.default.svc.cluster.local", .a, ["A 10.96.0.10", "CNAME web.default.svc.cluster.local."]),
        ("inside.default.svc.cluster.local", .aaaa, ["CNAME web.default.svc.cluster.local.", "NODATA"]),
        ("nowhere.default.svc.cluster.local", .a, ["CNAME gone.default.svc.cluster.local.", "NXDOMAIN"]),
        ("loop-a.default.svc.cluster.local", .a, ["SERVFAIL"]),
        ("self.default.svc.cluster.local", .a, ["SERVFAIL"]),
        // Pod names
        ("10-1-2-3.default.pod.cluster.local", .a, ["A 10.1.2.3"]),
        ("10-1-2-3.default.pod.cluster.local", .aaaa, ["NODATA"]),
        ("fd00--7.default.pod.cluster.local", .aaaa, ["AAAA fd00::7"]),
        ("10-1-2-3.gone.pod.cluster.local", .a, ["NXDOMAIN"]),
        ("10-1-2-300.default.pod.cluster.local", .a, ["NXDOMAIN"]),
        ("x.10-1-2-3.default.pod.cluster.local", .a, ["NXDOMAIN"]),
        // Names that only have names below them
        ("svc.cluster.local", .a, ["NODATA"]),
        ("pod.cluster.local", .a, ["NODATA"]),
        ("default.svc.cluster.local", .a, ["NODATA"]),
        ("empty.svc.cluster.local", .a, ["NODATA"]),
        ("empty.pod.cluster.local", .a, ["NODATA"]),
        ("gone.svc.cluster.local", .a, ["NXDOMAIN"]),
        ("other.cluster.local", .a, ["NXDOMAIN"]),
        // The apex
        ("cluster.local", .a, ["NODATA"]),
        ("cluster.local", .soa, ["SOA"]),
        ("cluster.local", .ns, ["NS ns.dns.cluster.local."]),
        ("ns.dns.cluster.local", .a, ["A 169.254.96.16"]),
        ("dns.cluster.local", .a, ["NODATA"]),
        ("local", .a, ["outside"]),
        ("example.org", .a, ["outside"]),
    ]

    @Test(arguments: ClusterZoneTests.table)
    func answers(name: String, type: RecordType, expected: [String]) throws {
        let zone = try ZoneFixtures.zone()
        let resolution = zone.resolve(try DomainName(name), type, in: ZoneFixtures.snapshot)
        #expect(ClusterZoneTests.summary(resolution.answer) == expected)
    }

    @Test func givesTheAddressesOfSRVTargets() throws {
        let zone = try ZoneFixtures.zone()
        let name = try DomainName("_sql._tcp.db.default.svc.cluster.local")
        guard case .complete(let sections) = zone.resolve(name, .srv, in: ZoneFixtures.snapshot).answer else {
            Issue.record("no answer")
            return
        }
        #expect(
            sections.additionals.map { "\($0.name) \(ClusterZoneTests.text($0.data))" }.sorted() == [
                "10-244-0-2.db.default.svc.cluster.local. A 10.244.0.2",
                "db-0.db.default.svc.cluster.local. A 10.244.0.1",
                "db-0.db.default.svc.cluster.local. AAAA fd00::1",
            ]
        )
    }

    @Test func givesTTLsOfItsSettings() throws {
        let zone = try ZoneFixtures.zone()
        let found = zone.resolve(try DomainName("web.default.svc.cluster.local"), .a, in: ZoneFixtures.snapshot)
        let missing = zone.resolve(try DomainName("gone.default.svc.cluster.local"), .a, in: ZoneFixtures.snapshot)
        guard case .complete(let positive) = found.answer, case .complete(let negative) = missing.answer,
            case .soa(let soa) = negative.authorities.first?.data
        else {
            Issue.record("no answers")
            return
        }
        #expect(positive.answers.map(\.ttl) == [30])
        #expect(negative.authorities.map(\.ttl) == [5])
        #expect(soa.minimum == 5)
        #expect(soa.serial == 7)
    }

    @Test func servesAnotherDomain() throws {
        let zone = try ZoneFixtures.zone("k8s.corp.example")
        let name = try DomainName("web.default.svc.k8s.corp.example")
        #expect(ClusterZoneTests.summary(zone.resolve(name, .a, in: ZoneFixtures.snapshot).answer) == ["A 10.96.0.10"])
        let old = try DomainName("web.default.svc.cluster.local")
        #expect(zone.resolve(old, .a, in: ZoneFixtures.snapshot).answer == .outside)
    }

    @Test func boundsTheDepthOfAliases() throws {
        let services = (0..<40).map {
            ZoneFixtures.externalName("s\($0)", "s\($0 + 1).default.svc.cluster.local")
        }
        let snapshot = CatalogSnapshot(services: services)
        let name = try DomainName("s0.default.svc.cluster.local")
        #expect(
            ClusterZoneTests.summary(try ZoneFixtures.zone().resolve(name, .a, in: snapshot).answer) == ["SERVFAIL"]
        )
    }
}
