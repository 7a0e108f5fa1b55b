import Glibc
import Testing

@testable import NetLab

extension EndToEnd {
    @Suite(.timeLimit(.minutes(2))) struct LabSessionTests {
        init() throws {
            try #require(geteuid() == 0, "labs are made of network namespaces: run these tests as root")
        }

        /// Builds the one-node lab in a process of its own, kills that, and lets the cleaner find what is left.
        @Test func aKilledOwnerLeavesALabThatCleanRemoves() async throws {
            let name = "k\(getpid())"
            let owner = try ShellWorld.up(name: name)
            defer { owner.signal(SIGKILL) }

            let called = try await EdgemeshBinary.run(
                ["lab", "exec", "--lab", name, "client", "curl", "-sS", "http://hostname-svc:12345/"],
                deadline: .seconds(10)
            )
            #expect(called.standardOutput.hasPrefix("backend-"), "\(called.standardError)")
            let listed = try await EdgemeshBinary.run(["lab", "list"], deadline: .seconds(5))
            #expect(listed.standardOutput.contains("\(name)  (run by process \(owner.processID))"))
            // A running lab is not cleaned.
            _ = try await EdgemeshBinary.run(["lab", "clean"], deadline: .seconds(10))
            #expect(LabState.load(name) != nil)

            try await owner.kill()
            #expect(!ShellWorld.traces(of: name).isEmpty)
            let cleaned = try await EdgemeshBinary.run(["lab", "clean"], deadline: .seconds(10))
            #expect(cleaned.status == .exited(0))
            #expect(ShellWorld.traces(of: name) == [])
        }
    }
}
