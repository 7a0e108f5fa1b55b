import Documents
import Glibc
import KubeModel
import Testing

@testable import Configuration

@Suite("Documentation")
struct DocumentationTests {
    /// The root of the package.
    private static let root = #filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined()

    static func read(_ path: String) -> String? {
        guard let file = fopen("\(self.root)/\(path)", "r") else { return nil }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { bytes += chunk[..<count] }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static var pages: [String] {
        var pages = ["README.md"]
        if let folder = opendir("\(self.root)/docs") {
            defer { closedir(folder) }
            while let entry = readdir(folder) {
                let name = withUnsafeBytes(of: entry.pointee.d_name) {
                    String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
                }
                if name.hasSuffix(".md") { pages.append("docs/\(name)") }
            }
        }
        return pages.sorted()
    }

    @Test("every YAML example is a configuration without problems, or objects that decode", arguments: pages)
    func examples(page: String) throws {
        guard let text = Self.read(page) else { return }
        for (index, block) in text.split(separator: "```yaml\n", omittingEmptySubsequences: false).dropFirst()
            .enumerated()
        {
            let example = Array((block.firstRange(of: "\n```").map { block[..<$0.lowerBound] } ?? block).utf8)
            let documents = try Document.parseYAML(example)
            #expect(!documents.isEmpty, "\(page), example \(index + 1)")
            for document in documents {
                let isConfiguration = ["modules", "commonConfig", "kubeAPIConfig"].contains { document[$0] != nil }
                if isConfiguration {
                    let isGateway = document["kind"]?.string == "EdgeMeshGateway"
                    let loaded = AgentConfiguration.load(
                        Array(document.yamlText().utf8),
                        environment: .edge,
                        role: isGateway ? .gateway : .agent
                    )
                    #expect(loaded.problems.isEmpty, "\(page), example \(index + 1)")
                } else {
                    for case .failure(let error) in ClusterObject.decodeEach(document)
                    where error.code != .unsupportedKind {
                        Issue.record("\(page), example \(index + 1): \(error)")
                    }
                }
            }
        }
    }

    @Test("the table of keys has exactly the keys of the schema, with their defaults and effects")
    func table() throws {
        let page = try #require(Self.read("docs/configuration.md"))
        let section = try #require(page.firstRange(of: "## Every key").map { page[$0.upperBound...] })
        let rows = Self.rows(of: section)
        let schema = AgentConfiguration.schema(of: .agent)
        #expect(rows.map { $0[0].dropFirst().dropLast() } == schema.map { $0.path[...] })
        for (row, key) in zip(rows, schema) {
            for environment in [ConfigurationEnvironment.edge, .cloud] {
                let value = key.write(AgentConfiguration.defaults(environment))
                #expect(row[1].contains(value.map { "`\($0.jsonText())`" } ?? "-"), "\(key.path)")
            }
            #expect(row[3] == "original" || row[3] == "ours")
            #expect(row[4].hasPrefix(key.effect.rawValue), "\(key.path)")
        }
    }

    /// The cells of a table whose first column is code.
    private static func rows(of section: Substring) -> [[Substring]] {
        section.split(separator: "\n").filter { $0.hasPrefix("| `") }.map { row in
            row.split(separator: " | ").map { $0.drop { $0 == "|" || $0 == " " } }
        }
    }

    @Test("the table of the gateway has exactly what differs from the agent's keys and defaults")
    func gatewayTable() throws {
        let page = try #require(Self.read("docs/configuration.md"))
        let start = try #require(page.firstRange(of: "## The gateway")).upperBound
        let end = try #require(page.firstRange(of: "## Every key")).lowerBound
        let rows = Self.rows(of: page[start..<end])
        let agent = Dictionary(
            uniqueKeysWithValues: AgentConfiguration.schema(of: .agent).map { key in
                (key.path, key.write(AgentConfiguration(role: .agent)))
            }
        )
        let own = AgentConfiguration(role: .gateway)
        let differing = AgentConfiguration.schema(of: .gateway).filter { key in
            agent[key.path] == nil || agent[key.path] != .some(key.write(own))
        }
        #expect(rows.map { $0[0].dropFirst().dropLast() } == differing.map { $0.path[...] })
        for (row, key) in zip(rows, differing) {
            #expect(row[1].contains(key.write(own).map { "`\($0.jsonText())`" } ?? "-"), "\(key.path)")
        }
    }

    @Test("no key hides another", arguments: AgentConfiguration.Role.allCases)
    func schema(role: AgentConfiguration.Role) {
        let paths = AgentConfiguration.schema(of: role).map { $0.path.lowercased() }
        #expect(Set(paths).count == paths.count)
        for path in paths { #expect(!paths.contains { $0.hasPrefix(path + ".") }, "\(path)") }
    }
}
