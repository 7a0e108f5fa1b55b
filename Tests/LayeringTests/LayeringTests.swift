import Foundation
import Testing

/// The rules of `scripts/layers.json`, with their reasons.
private struct LayerRules: Decodable {
    struct Layer: Decodable {
        var layer: Int
        var targets: [String]
        var why: String
        /// Edges inside one layer that are wanted.
        var inside: [String: [String]]?
    }

    struct Restriction: Decodable {
        var targets: [String]
        var why: String
    }

    var layers: [Layer]
    var testSupport: [String]
    var inside: [String: [String]]
    var forbidden: [String: String]
    var onlyIn: [String: Restriction]
    var maximumLinesPerFile: Int

    static func load() throws -> LayerRules {
        let bytes = try Data(contentsOf: Repository.root.appendingPathComponent("scripts/layers.json"))
        return try JSONDecoder().decode(LayerRules.self, from: bytes)
    }

    func layer(of target: String) -> Layer? {
        self.layers.first { $0.targets.contains(target) }
    }

    func isAllowed(_ importing: String, _ imported: String) -> Bool {
        guard let from = self.layer(of: importing), let to = self.layer(of: imported) else { return true }
        if to.layer < from.layer { return true }
        return from.inside?[importing]?.contains(imported) ?? self.inside[importing]?.contains(imported) ?? false
    }
}

private enum Repository {
    static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    static func swiftFiles(in folder: String) -> [URL] {
        let base = Self.root.appendingPathComponent(folder)
        guard let walker = FileManager.default.enumerator(at: base, includingPropertiesForKeys: nil) else { return [] }
        return walker.compactMap { $0 as? URL }.filter { $0.pathExtension == "swift" }
    }

    /// The target that a file under `Sources` or `Tests` belongs to.
    static func target(of file: URL) -> String? {
        let parts = file.pathComponents
        guard let index = parts.lastIndex(where: { $0 == "Sources" || $0 == "Tests" }), index + 1 < parts.count else {
            return nil
        }
        return parts[index + 1]
    }

    /// Modules that a source text imports.
    static func imports(in text: String) -> [String] {
        text.split(separator: "\n").compactMap { line in
            var words = line.split(separator: " ")[...]
            while let first = words.first, ["public", "package", "internal", "private", "@testable"].contains(first) {
                words.removeFirst()
            }
            guard words.first == "import", let module = words.dropFirst().last else { return nil }
            return String(module.prefix { $0 != "." })
        }
    }
}

@Suite struct LayeringTests {
    private let rules: LayerRules

    init() throws {
        self.rules = try LayerRules.load()
    }

    @Test func everyTargetHasALayer() throws {
        let sources = Repository.root.appendingPathComponent("Sources")
        let targets = try FileManager.default.contentsOfDirectory(atPath: sources.path)
        let known = Set(self.rules.layers.flatMap(\.targets) + self.rules.testSupport)
        #expect(targets.filter { !known.contains($0) }.isEmpty, "scripts/layers.json does not name these targets")
        #expect(known.subtracting(targets).isEmpty, "scripts/layers.json names targets that do not exist")
    }

    @Test func dependenciesPointDown() throws {
        var seen = 0
        for file in Repository.swiftFiles(in: "Sources") {
            guard let target = Repository.target(of: file) else { continue }
            let text = try String(contentsOf: file, encoding: .utf8)
            for imported in Repository.imports(in: text) {
                seen += 1
                if !self.rules.testSupport.contains(target) {
                    #expect(
                        !self.rules.testSupport.contains(imported),
                        "\(file.path) imports the test support \(imported)"
                    )
                }
                let why = self.rules.layer(of: target)?.why ?? "test support"
                #expect(
                    self.rules.isAllowed(target, imported),
                    "\(file.path): \(target) must not import \(imported). Its layer: \(why)"
                )
            }
        }
        #expect(seen > 100, "the scan found too few imports to be trusted")
    }

    @Test func forbiddenAndRestrictedModules() throws {
        for file in Repository.swiftFiles(in: "Sources") {
            guard let target = Repository.target(of: file) else { continue }
            for imported in Repository.imports(in: try String(contentsOf: file, encoding: .utf8)) {
                // Test support is no part of the binary.
                if !self.rules.testSupport.contains(target), let why = self.rules.forbidden[imported] {
                    Issue.record("\(file.path) imports \(imported): \(why)")
                }
                if let restriction = self.rules.onlyIn[imported], !restriction.targets.contains(target) {
                    Issue.record("\(file.path) imports \(imported): \(restriction.why)")
                }
            }
        }
    }

    @Test func filesStayReadable() throws {
        for folder in ["Sources", "Tests"] {
            for file in Repository.swiftFiles(in: folder) {
                let lines = try String(contentsOf: file, encoding: .utf8).split(
                    separator: "\n",
                    omittingEmptySubsequences: false
                ).count
                #expect(
                    lines <= self.rules.maximumLinesPerFile + 1,
                    "\(file.path) has \(lines) lines: a file over \(self.rules.maximumLinesPerFile) is two files"
                )
            }
        }
    }

    @Test func sourcesHoldNoEscapeHatchWithoutAReason() throws {
        let hatches = [
            "@unchecked Sendable", "nonisolated(unsafe)", "Task.detached", "DispatchSemaphore", "try!", "as!",
        ]
        for file in Repository.swiftFiles(in: "Sources") {
            let lines = try String(contentsOf: file, encoding: .utf8).split(
                separator: "\n",
                omittingEmptySubsequences: false
            )
            for (index, line) in lines.enumerated() {
                let code = line.prefix(while: { $0 != "/" })
                for hatch in hatches where code.contains(hatch) {
                    let around = lines[max(0, index - 6)...index]
                    #expect(
                        around.contains { $0.contains("//") },
                        "\(file.path):\(index + 1) uses \(hatch) without a comment that says why it is safe"
                    )
                }
            }
        }
    }

    @Test(arguments: [
        ("public import NIOCore", ["NIOCore"]), ("import struct NIOCore.ByteBuffer", ["NIOCore"]),
        ("@testable import Admin", ["Admin"]), ("// import Foundation", []), ("let important = 1", []),
    ])
    func importsAreRead(line: String, modules: [String]) {
        #expect(Repository.imports(in: line) == modules)
    }
}
