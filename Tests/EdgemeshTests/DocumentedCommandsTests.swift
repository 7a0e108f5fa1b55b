import ArgumentParser
import Foundation
import Testing

@testable import edgemesh

/// Every command line that the documents show is one that the program and the Makefile take.
@Suite struct DocumentedCommandsTests {
    private static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// The commands in the fenced blocks of README and docs, without comments and environment.
    private static func commands() throws -> [String] {
        var files = [Self.root.appendingPathComponent("README.md")]
        let docs = Self.root.appendingPathComponent("docs")
        files += try FileManager.default.contentsOfDirectory(at: docs, includingPropertiesForKeys: nil)
            .filter { $0.pathExtension == "md" }
        var commands: [String] = []
        for file in files {
            var isShell = false
            for line in try String(contentsOf: file, encoding: .utf8).split(separator: "\n") {
                if line.hasPrefix("```") {
                    isShell = line == "```sh"
                } else if isShell {
                    commands.append(
                        line.split(separator: "#", omittingEmptySubsequences: false)[0].trimmingCharacters(
                            in: .whitespaces
                        )
                    )
                }
            }
        }
        return commands
    }

    @Test func everyEdgemeshCommandParses() async throws {
        var count = 0
        for command in try Self.commands() {
            var words = command.split(separator: " ").map(String.init)[...]
            while words.first?.contains("=") == true { words.removeFirst() }
            guard let program = words.popFirst(), program.hasPrefix("edgemesh") else { continue }
            count += 1
            let roles = ["agent", "gateway"]
            if roles.contains(where: { program == "edgemesh-\($0)" || words.first == $0 }) {
                #expect(throws: Never.self, "\(command)") {
                    try AgentFlags.parse(roles.contains(words.first ?? "") ? words.dropFirst() : words)
                }
            } else {
                #expect(throws: Never.self, "\(command)") { try EdgemeshCommand.parseAsRoot(Array(words)) }
            }
        }
        #expect(count >= 8, "the scan found too few commands to be trusted")
    }

    @Test func everyMakeTargetExists() throws {
        let makefile = try String(contentsOf: Self.root.appendingPathComponent("Makefile"), encoding: .utf8)
        var count = 0
        for command in try Self.commands() {
            for part in command.split(separator: ";") {
                let words = part.split(separator: " ")
                guard words.first == "make", words.count > 1 else { continue }
                count += 1
                #expect(makefile.contains("\n\(words[1]):"), "the Makefile has no target \(words[1])")
            }
        }
        #expect(count >= 3, "the scan found too few targets to be trusted")
    }

    @Test func scriptsThatTheMakefileNamesAreThere() throws {
        let makefile = try String(contentsOf: Self.root.appendingPathComponent("Makefile"), encoding: .utf8)
        let names = makefile.split(whereSeparator: { " @\t\n".contains($0) }).filter { $0.hasPrefix("scripts/") }
        for name in Set(names) {
            #expect(
                FileManager.default.isExecutableFile(atPath: Self.root.appendingPathComponent(String(name)).path),
                "\(name)"
            )
        }
    }
}
