import Configuration
import MeshCore

/// The command line of `edgemesh-agent` and of `edgemesh-gateway`, in the forms that the original's flag library accepts: `--flag=value`,
/// `--flag value`, single dashes, `-v4`. A pure value: parsing touches nothing.
struct AgentFlags: Equatable, Sendable {
    enum Action: Equatable, Sendable {
        case run
        case help
        case version(raw: Bool)
        case defaultConfig
        case minimalConfig
    }

    struct ParseError: Error, Equatable, CustomStringConvertible {
        var description: String
    }

    static let defaultConfigFile = Self.defaultConfigFile(of: .agent)

    let role: AgentConfiguration.Role
    var action = Action.run
    var configFile: String
    /// Whether `--config-file` was given: without it and with `--manifests`, a missing file means the defaults.
    var hasExplicitConfigFile = false
    var manifestFolder: String?
    var nodeName: String?
    var verbosity = 0

    init(role: AgentConfiguration.Role = .agent) {
        self.role = role
        self.configFile = Self.defaultConfigFile(of: role)
    }

    private static func defaultConfigFile(of role: AgentConfiguration.Role) -> String {
        "/etc/edgemesh/config/\(role.program).yaml"
    }

    /// With a folder of manifests and no explicit file, a node without a configuration runs on the defaults.
    var isConfigFileRequired: Bool { self.hasExplicitConfigFile || self.manifestFolder == nil }

    private enum Kind {
        /// `--flag` alone means true.
        case boolean
        case text
        case number
    }

    private static let kinds: [String: Kind] = [
        "config-file": .text, "manifests": .text, "node-name": .text, "defaultconfig": .boolean, "minconfig": .boolean,
        "version": .boolean, "help": .boolean, "h": .boolean, "v": .number,
        // klog's own: accepted so that existing manifests start; logs go to stderr here, where they belong in a pod.
        "vmodule": .text, "logtostderr": .boolean, "alsologtostderr": .boolean, "stderrthreshold": .text,
        "log_dir": .text, "log_file": .text, "log_file_max_size": .text, "log_backtrace_at": .text,
        "add_dir_header": .boolean, "skip_headers": .boolean, "skip_log_headers": .boolean, "one_output": .boolean,
        "log-flush-frequency": .text,
    ]

    static func parse(
        _ arguments: some Sequence<String>,
        role: AgentConfiguration.Role = .agent
    ) throws(ParseError) -> AgentFlags {
        var flags = AgentFlags(role: role)
        var rest = Array(arguments)[...]
        while let argument = rest.popFirst() {
            if argument == "--" { break }
            guard argument.hasPrefix("-"), argument.count > 1 else {
                throw ParseError(
                    description: "unexpected argument \"\(argument)\": the \(role.rawValue) takes flags only"
                )
            }
            var name = String(argument.drop { $0 == "-" }.prefix { $0 != "=" })
            var value = argument.firstIndex(of: "=").map { String(argument[argument.index(after: $0)...]) }
            if value == nil, name.count > 1, name.first == "v", name.dropFirst().allSatisfy(\.isNumber) {
                value = String(name.dropFirst())
                name = "v"
            }
            // The flag libraries of Kubernetes take `_` and `-` for the same.
            if let known = self.kinds.keys.first(where: { Self.folded($0) == Self.folded(name) }) { name = known }
            let kind = self.kinds[name]
            guard let kind else {
                let nearest = nearestName(to: name, among: self.kinds.keys)
                let hint = nearest.map { "; did you mean --\($0)?" } ?? ""
                throw ParseError(description: "unknown flag \(argument.prefix { $0 != "=" })\(hint)")
            }
            if kind != .boolean, value == nil {
                guard let next = rest.popFirst() else {
                    throw ParseError(description: "flag --\(name) needs a value")
                }
                value = next
            }
            try flags.set(name, to: value)
        }
        return flags
    }

    private static func folded(_ name: String) -> String { String(name.map { $0 == "_" ? "-" : $0 }) }

    private mutating func set(_ name: String, to value: String?) throws(ParseError) {
        switch name {
        case "config-file":
            self.configFile = value ?? ""
            self.hasExplicitConfigFile = true
        case "manifests": self.manifestFolder = value
        case "node-name": self.nodeName = value
        case "v":
            guard let number = value.flatMap({ Int($0) }), number >= 0 else {
                throw ParseError(description: "flag -v needs a number from 0, not \"\(value ?? "")\"")
            }
            self.verbosity = number
        case "version":
            if value == "raw" {
                self.act(.version(raw: true))
            } else if try Self.boolean(value, of: name) {
                self.act(.version(raw: false))
            }
        case "help", "h": if try Self.boolean(value, of: name) { self.act(.help) }
        case "defaultconfig": if try Self.boolean(value, of: name) { self.act(.defaultConfig) }
        case "minconfig": if try Self.boolean(value, of: name) { self.act(.minimalConfig) }
        default: break
        }
    }

    /// The first action asked for wins, except that help always does.
    private mutating func act(_ action: Action) {
        if self.action == .run || action == .help { self.action = action }
    }

    private static func boolean(_ value: String?, of name: String) throws(ParseError) -> Bool {
        switch value?.lowercased() {
        case nil, "true", "t", "1": return true
        case "false", "f", "0": return false
        default: throw ParseError(description: "flag --\(name) is true or false, not \"\(value ?? "")\"")
        }
    }

    private static func summary(of role: AgentConfiguration.Role) -> String {
        switch role {
        case .agent: "The EdgeMesh agent: service discovery, service proxy and load balancing for one node."
        case .gateway: "The EdgeMesh gateway: leads calls from outside to services, wherever their pods are."
        }
    }

    static func help(of role: AgentConfiguration.Role) -> String {
        """
        \(self.summary(of: role))

        Usage: \(role.program) [flags]        (or: edgemesh \(role.rawValue) [flags])

        Flags:
          --config-file FILE   configuration, YAML (default \(self.defaultConfigFile(of: role)))
          --manifests DIR      take services and endpoints from the YAML and JSON files of a folder, watched for
                               changes, instead of from a Kubernetes API
          --node-name NAME     the name of this node (default: $NODE_NAME, else the host name with --manifests)
          --defaultconfig      print the full default configuration and exit
          --minconfig          print a minimal configuration and exit
          --version[=raw]      print the version and exit
          -v, --v LEVEL        verbosity: 0 for daily use, 4 shows single connections and queries, 6 everything
          -h, --help           this text

        The other logging flags of Kubernetes' components are accepted and have no effect: logs go to stderr.

        Signals: SIGTERM and SIGINT drain and stop; SIGHUP reads the configuration again.
        Exit codes: 0 stopped as asked; 1 the configuration or environment is wrong; 2 wrong usage.
        """
    }
}
