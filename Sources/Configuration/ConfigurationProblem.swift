public import Documents

/// Something wrong or doubtful in a configuration file.
public struct ConfigurationProblem: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Severity: String, Hashable, Sendable {
        /// The configuration can be used; a default holds, or a key has no effect.
        case warning
        /// The configuration cannot be used.
        case error
    }

    public var severity: Severity
    /// The key, such as `modules.edgeDNS.listenPort`; empty for the file as a whole.
    public var path: String
    /// `SourcePosition.none` if no line of the file is at fault.
    public var position: SourcePosition
    /// What is wrong, what is allowed, how to mend it.
    public var message: String

    public init(_ severity: Severity, path: String, at position: SourcePosition, _ message: String) {
        self.severity = severity
        self.path = path
        self.position = position
        self.message = message
    }

    /// `file:line:column: error: message`.
    public func describe(in file: String) -> String {
        self.position == .none ? "\(file): \(self)" : "\(file):\(self.position): \(self)"
    }

    public var description: String { "\(self.severity.rawValue): \(self.message)" }
}

/// What reading a configuration found: its problems, and the places of its keys for the checks that follow.
struct ConfigurationReport {
    var problems: [ConfigurationProblem] = []
    private var places: [String: SourcePosition] = [:]

    mutating func note(_ path: String, at position: SourcePosition) {
        self.places[path] = position
    }

    /// Adds a problem; its place is that of the key at `path`, or of what the key is missing in, unless one is given.
    mutating func add(
        _ severity: ConfigurationProblem.Severity,
        _ path: String,
        at position: SourcePosition? = nil,
        _ message: String
    ) {
        var place = position
        var ancestor = path[...]
        while place == nil, !ancestor.isEmpty {
            place = self.places[String(ancestor)]
            ancestor = ancestor.lastIndex(of: ".").map { ancestor[..<$0] } ?? ""
        }
        self.problems.append(ConfigurationProblem(severity, path: path, at: place ?? .none, message))
    }

    /// Makes warnings of the errors about a key.
    mutating func forgive(_ path: String) {
        for index in self.problems.indices where self.problems[index].path == path {
            self.problems[index].severity = .warning
        }
    }
}
