import Documents
import Glibc
import Testing

@testable import NetLab

extension EndToEnd {
    @Suite(.timeLimit(.minutes(4))) struct DemoTests {
        init() throws {
            try #require(geteuid() == 0, "labs are made of network namespaces: run these tests as root")
        }

        @Test func everyStepPasses() async throws {
            let output = try await EdgemeshBinary.run(
                ["lab", "demo", "--name", "d\(getpid())", "-o", "json"],
                deadline: .seconds(200)
            )
            try self.judge(output, steps: 22)
            #expect(!Files.names(in: "/run/netns").contains { $0.hasPrefix("emlab-d\(getpid())-") })
        }

        /// The part with one node as a user without rights, where the host allows user namespaces.
        @Test func everyStepPassesWithoutRoot() async throws {
            let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            let probe = try await Command.run(
                EdgemeshBinary.request(nobody + ["unshare", "--user", "--map-root-user", "--net", "--mount", "true"]),
                input: "",
                deadline: .seconds(5)
            )
            // The build directory may be closed to others.
            let copy = "/tmp/edgemesh-demo-\(getpid())"
            try await Command.runLocal(["cp", EdgemeshBinary.path(), copy])
            defer { unlink(copy) }
            let output = try await Command.run(
                EdgemeshBinary.request(nobody + [copy, "lab", "demo", "--part", "node", "-o", "json"]),
                input: "",
                deadline: .seconds(100)
            )
            if probe.status.isSuccess {
                try self.judge(output, steps: 12)
            } else {
                #expect(output.status == .exited(1))
                #expect(output.standardError.contains("a lab needs root"))
            }
        }

        private func judge(_ output: CommandOutput, steps count: Int) throws {
            let report = try Document.parseJSON(Array(output.standardOutput.utf8), limits: .default)
            let steps = try #require(report["steps"]?.array)
            for step in steps {
                let failures = step["failures"]?.array?.compactMap(\.string) ?? []
                #expect(failures == [], "step '\(step["title"]?.string ?? "?")'")
            }
            #expect(steps.count == count)
            #expect(output.status == .exited(0), "\(output.standardError)")
        }
    }
}
