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
            let log = "/tmp/\(name).log"
            defer { unlink(log) }
            let descriptor = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
            var request = EdgemeshBinary.request([try EdgemeshBinary.path(), "lab", "up", "--name", name])
            request.standardOutput = descriptor
            request.standardError = descriptor
            let owner = LabProcess(processID: try request.start(), host: "", arguments: request.arguments, logFile: log)
            close(descriptor)
            defer { owner.signal(SIGKILL) }

            for _ in 0..<2000 where !owner.logTail().contains("try:") && owner.isRunning {
                try await Task.sleep(for: .milliseconds(10))
            }
            try #require(owner.logTail().contains("try:"), "\(owner.logTail())")

            let called = try await EdgemeshBinary.run(
                ["lab", "exec", name, "client", "curl", "-sS", "http://hostname-svc:12345/"],
                deadline: .seconds(10)
            )
            #expect(called.standardOutput.hasPrefix("backend-"), "\(called.standardError)")
            let listed = try await EdgemeshBinary.run(["lab", "list"], deadline: .seconds(5))
            #expect(listed.standardOutput.contains("\(name)  (run by process \(owner.processID))"))
            // A running lab is not cleaned.
            _ = try await EdgemeshBinary.run(["lab", "clean"], deadline: .seconds(10))
            #expect(LabState.load(name) != nil)

            try await owner.kill()
            #expect(!processes(of: name).isEmpty)
            let cleaned = try await EdgemeshBinary.run(["lab", "clean"], deadline: .seconds(10))
            #expect(cleaned.status == .exited(0))
            #expect(processes(of: name) == [])
            #expect(Files.names(in: "/run/netns").filter { $0.hasPrefix("emlab-\(name)-") } == [])
            #expect(Files.names(in: LabState.root).filter { $0.hasPrefix(name) } == [])
        }

        private func processes(of lab: String) -> [Int32] {
            Files.names(in: "/proc").compactMap { Int32($0) }.filter { process in
                ((try? Files.readText("/proc/\(process)/environ")) ?? "").contains("EDGEMESH_LAB=\(lab)\0")
            }
        }
    }
}
