public import Documents

/// The gateway's part of `edgemesh status`, and the findings of `edgemesh analyze`.
public enum GatewayText {
    /// Findings shown in the status.
    private static let mostFindings = 20

    static func overview(_ gateway: Document) -> String {
        var listeners = TextTable(header: ["LISTENER", "STATE", "FOR"])
        for listener in gateway["listeners"]?.array ?? [] {
            let origins = (listener["origins"]?.array ?? []).compactMap(\.string).joined(separator: ", ")
            let problem = listener["problem"]?.string
            listeners.add([
                listener["address"]?.string ?? "?", problem.map { "not open: \($0)" } ?? "open",
                origins.isEmpty ? "-" : origins,
            ])
        }
        let shown = listeners.isEmpty ? "The gateway listens nowhere: no Gateway asks for a port.\n" : listeners.text
        let rows = gateway["findings"]?.array ?? []
        guard !rows.isEmpty else { return shown }
        let omitted = rows.count - Self.mostFindings + Int(gateway["findingsOmitted"]?.integer ?? 0)
        let rest = omitted > 0 ? "... and \(omitted) more: `edgemesh analyze` lists all\n" : ""
        return shown + "\n" + self.findings(Array(rows.prefix(Self.mostFindings))) + rest
    }

    /// A table of findings, each with `severity`, `kind`, `name`, `field` and `message`.
    public static func findings(_ rows: [Document]) -> String {
        var table = TextTable(header: ["FINDING", "OBJECT", "FIELD", "WHAT"])
        for row in rows {
            let text = { (key: String) in row[key]?.string ?? "" }
            table.add([text("severity"), "\(text("kind")) \(text("name"))", text("field"), text("message")])
        }
        return table.text
    }

    /// What is amiss, in words.
    static func complaints(_ gateway: Document?) -> [String] {
        let listeners = (gateway?["listeners"]?.array ?? []).compactMap { listener in
            listener["problem"]?.string.map {
                "edgeGateway does not listen on \(listener["address"]?.string ?? "?"): \($0)"
            }
        }
        let others = ["certificateProblems", "credentialProblems", "subsetProblems"].flatMap { key in
            (gateway?[key]?.array ?? []).compactMap { $0.string.map { "edgeGateway: \($0)" } }
        }
        return listeners + others
    }
}
