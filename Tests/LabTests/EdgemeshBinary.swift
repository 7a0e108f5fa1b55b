import Glibc
import Testing

@testable import NetLab

/// The `edgemesh` that was built with these tests, or the one that `EDGEMESH_BINARY` names.
enum EdgemeshBinary {
    static func path() throws -> String {
        if let path = getenv("EDGEMESH_BINARY") { return String(cString: path) }
        return try Self.sibling("edgemesh")
    }

    /// Another program that was built with these tests.
    static func sibling(_ name: String) throws -> String {
        // Executables lie beside the bundle of tests, which is mapped into this process.
        let maps = try Files.readText("/proc/self/maps")
        let bundle = maps.split(separator: "\n").first { $0.hasSuffix(".xctest") }?.split(separator: " ").last
        let directory = try #require(bundle?.split(separator: "/").dropLast().joined(separator: "/"))
        let path = "/\(directory)/\(name)"
        try #require(access(path, X_OK) == 0, "\(path) is not there: run swift build")
        return path
    }

    /// Runs it outside of any lab.
    static func run(_ arguments: [String], as prefix: [String] = [], deadline: Duration) async throws -> CommandOutput {
        try await Command.run(Self.request(prefix + [Self.path()] + arguments), input: "", deadline: deadline)
    }

    static func request(_ arguments: [String]) -> SpawnRequest {
        SpawnRequest(
            arguments: arguments,
            environment: labEnvironment(lab: nil, adding: [:]),
            standardInput: 0,
            standardOutput: 1,
            standardError: 2
        )
    }
}
