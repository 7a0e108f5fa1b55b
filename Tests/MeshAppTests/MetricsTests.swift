import Admin
import Documents
import EdgeDNS
import EdgeProxy
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import ServiceCatalog
import Testing

@testable import MeshApp

/// Reads Prometheus' text format 0.0.4 and refuses whatever its specification does not allow.
private struct MetricsPage {
    struct Violation: Error, CustomStringConvertible {
        var description: String
    }

    struct Family {
        var help = ""
        var type = ""
        var samples: [(labels: [String: String], value: Double)] = []
    }

    private(set) var families: [String: Family] = [:]

    init(parsing text: String) throws {
        guard text.hasSuffix("\n") else { throw Violation(description: "the last line has no end") }
        var finished: Set<String> = []
        var current: String?
        for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
            func check(_ holds: Bool, _ what: String) throws {
                guard holds else { throw Violation(description: "\(what): \(line)") }
            }
            let words = line.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false).map(String.init)
            if words[0] == "#" {
                try check(words.count == 4 && ["HELP", "TYPE"].contains(words[1]), "neither HELP nor TYPE")
                let name = words[2]
                try check(Self.isName(name), "bad name")
                if current != name {
                    if let current { finished.insert(current) }
                    current = name
                }
                try check(!finished.contains(name), "a family in two parts")
                var family = self.families[name] ?? Family()
                try check(family.samples.isEmpty, "a comment after samples")
                if words[1] == "HELP" {
                    try check(family.help.isEmpty && !words[3].isEmpty, "HELP twice, or empty")
                    family.help = words[3]
                } else {
                    try check(family.type.isEmpty && ["counter", "gauge"].contains(words[3]), "bad TYPE")
                    family.type = words[3]
                }
                self.families[name] = family
            } else {
                let name = String(line.prefix { $0 != "{" && $0 != " " })
                try check(name == current, "a sample outside of its family")
                var rest = line.dropFirst(name.count)
                let labels = try Self.labels(&rest)
                try check(rest.first == " ", "no blank before the value")
                guard let value = Double(rest.dropFirst()) else { throw Violation(description: "no number: \(line)") }
                let isNew = self.families[name]?.samples.contains { $0.labels == labels } == false
                try check(isNew, "a sample twice")
                self.families[name]?.samples.append((labels, value))
            }
        }
        for (name, family) in self.families where family.samples.isEmpty {
            throw Violation(description: "\(name) has no sample")
        }
    }

    private static func labels(_ rest: inout Substring) throws -> [String: String] {
        guard rest.first == "{" else { return [:] }
        rest.removeFirst()
        var labels: [String: String] = [:]
        while rest.first != "}" {
            if !labels.isEmpty {
                guard rest.popFirst() == "," else { throw Violation(description: "no comma between labels") }
            }
            let key = String(rest.prefix { $0 != "=" })
            guard self.isName(key), !key.contains(":"), labels[key] == nil else {
                throw Violation(description: "bad label \(key)")
            }
            rest.removeFirst(key.count)
            guard rest.popFirst() == "=", rest.popFirst() == "\"" else { throw Violation(description: "no quote") }
            var value = ""
            while let character = rest.popFirst(), character != "\"" {
                guard character == "\\" else {
                    value.append(character)
                    continue
                }
                switch rest.popFirst() {
                case "\\": value += "\\"
                case "\"": value += "\""
                case "n": value += "\n"
                default: throw Violation(description: "bad escape")
                }
            }
            labels[key] = value
        }
        rest.removeFirst()
        return labels
    }

    private static func isName(_ text: String) -> Bool {
        guard let first = text.utf8.first, !(0x30...0x39).contains(first) else { return false }
        return text.utf8.allSatisfy {
            (0x61...0x7A).contains($0) || (0x41...0x5A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x5F
                || $0 == 0x3A
        }
    }
}

@Suite struct MetricsTests {
    private struct NoReporter: Error {}

    /// The page of an agent whose DNS and proxy exist and have not begun.
    private func page() async throws -> String {
        let logger = Logger(label: "test")
        let catalog = ClusterCatalog()
        let group = MultiThreadedEventLoopGroup.singleton
        let listen = TransportAddress(.v4(.loopback), 0)
        let dns = EdgeDNSService(
            settings: EdgeDNSSettings(listenAddresses: [listen]),
            catalog: catalog,
            group: group,
            logger: logger
        )
        let proxy = EdgeProxyService(
            configuration: .init(planner: ServicePlanner(nodeName: "n"), tcpV4: listen, udpV4: listen),
            catalog: catalog,
            programming: NoKernelProgramming(),
            loops: [group.next()],
            udpOriginalDestination: { _, _ in nil },
            logger: logger
        )
        let endpoints = AdminEndpoints(
            catalog: catalog,
            reporters: [dns, proxy],
            agent: { [:] },
            readiness: { [] },
            reload: { [:] }
        )
        let response = await endpoints.respondToCollector(AdminRequest(method: .get, path: "/metrics"))
        #expect(response.status == 200)
        return response.body
    }

    @Test func thePageIsReadByAStrictParserAndNamesFollowTheConventions() async throws {
        let page = try MetricsPage(parsing: await self.page())
        for (name, family) in page.families {
            #expect(name.hasPrefix("edgemesh_"))
            #expect(!family.help.isEmpty, "\(name)")
            #expect(name.hasSuffix("_total") == (family.type == "counter"), "\(name) is a \(family.type)")
            #expect(family.samples.allSatisfy { family.type == "gauge" || $0.value >= 0 })
        }
        for gauge in ["proxy_connections_open", "proxy_sessions_open", "dns_connections", "dns_cache_entries"] {
            #expect(page.families["edgemesh_\(gauge)"]?.type == "gauge", "\(gauge)")
        }
        let types = page.families["edgemesh_dns_queries_total"]?.samples.compactMap { $0.labels["type"] }
        #expect(types == ["A", "AAAA", "SRV", "PTR", "other"])
        let reasons = page.families["edgemesh_dns_upstream_failures_total"]?.samples.compactMap { $0.labels["reason"] }
        #expect(reasons == ["timeout", "unreachable"])
    }

    @Test(
        "the parser refuses what the format does not allow",
        arguments: [
            "a 1", "# TYPE a counter\na 1\n# TYPE b gauge\nb 1\na{x=\"1\"} 2\n", "# TYPE a counter\na 1\na 2\n",
            "# TYPE a counter\n", "# TYPE a counter\na{x=1} 1\n", "# TYPE a counter\na one\n",
            "# TYPE 1a counter\n1a 1\n",
        ]
    )
    func strict(text: String) {
        #expect(throws: MetricsPage.Violation.self) { try MetricsPage(parsing: text) }
    }
}
