import Documents

/// The lab's own programs in its hosts. `program` is the `edgemesh` that has them.
extension Lab {
    /// Starts one of `LabApplications` on a host.
    func startApplication(
        _ arguments: [String],
        on host: String,
        program: String,
        log: String
    ) throws(LabError) -> LabProcess {
        try self.start(on: host, ["edgemesh", "lab", "app"] + arguments, program: program, log: log)
    }

    /// Runs the load client in a host and returns its report.
    func runClient(
        _ arguments: [String],
        on host: String,
        program: String,
        deadline: Duration
    ) async throws -> Document {
        let command = ["edgemesh", "lab", "app", "client"] + arguments + ["-o", "json"]
        let output = try await self.output(on: host, command, program: program, deadline: deadline)
        return try Document.parseJSON(Array(output.utf8), limits: .default)
    }
}
