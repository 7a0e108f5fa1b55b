/// What a runtime asks for, by the variables of the environment (CNI specification 1.1, section 2, "Parameters").
struct CNIInvocation: Sendable {
    enum Command: String, Sendable, CaseIterable {
        case add = "ADD"
        case delete = "DEL"
        case check = "CHECK"
        case collectGarbage = "GC"
        case status = "STATUS"
        case version = "VERSION"

        /// The first version of the specification that has it.
        var since: CNIVersion {
            switch self {
            case .add, .delete, .version: .v010
            case .check: .v040
            case .collectGarbage, .status: .v110
            }
        }

        /// `CNI_PATH` is optional for some by the specification, but none of them can be handed on without it.
        fileprivate var required: [String] {
            switch self {
            case .add, .check: ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]
            case .delete: ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]
            case .collectGarbage, .status: ["CNI_PATH"]
            case .version: []
            }
        }
    }

    let command: Command
    /// All variables, for the plugin that the work is handed to.
    let environment: [String: String]

    /// The directories of plugins.
    var path: [String] {
        (self.environment["CNI_PATH"] ?? "").split(separator: ":").map(String.init)
    }

    init(_ environment: [String: String]) throws(CNIError) {
        let text = environment["CNI_COMMAND"] ?? ""
        guard let command = Command(rawValue: text) else {
            let known = Command.allCases.map(\.rawValue).joined(separator: ", ")
            throw CNIError(
                .invalidEnvironment,
                text.isEmpty ? "CNI_COMMAND is not set" : "CNI_COMMAND is \"\(text)\"",
                details: "a runtime sets it to one of \(known)"
            )
        }
        let missing = command.required.filter { (environment[$0] ?? "").isEmpty }
        guard missing.isEmpty else {
            throw CNIError(.invalidEnvironment, "\(text) needs \(missing.joined(separator: ", "))")
        }
        if command.required.contains("CNI_CONTAINERID") {
            guard Self.isIdentifier(environment["CNI_CONTAINERID"] ?? "") else {
                throw CNIError(
                    .invalidEnvironment,
                    "CNI_CONTAINERID is no identifier",
                    details: "letters, digits, \"_\", \".\" and \"-\" are allowed, the first a letter or a digit"
                )
            }
            guard Self.isInterfaceName(environment["CNI_IFNAME"] ?? "") else {
                throw CNIError(
                    .invalidEnvironment,
                    "CNI_IFNAME is no name of a device",
                    details: "1 to 15 characters, none of them \"/\", \":\" or a space, and not \".\" or \"..\""
                )
            }
        }
        self.command = command
        self.environment = environment
    }

    /// Of containers and networks.
    static func isIdentifier(_ text: String) -> Bool {
        func isAlphanumeric(_ byte: UInt8) -> Bool {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: false
            }
        }
        guard let first = text.utf8.first, isAlphanumeric(first) else { return false }
        return text.utf8.allSatisfy { isAlphanumeric($0) || "_.-".utf8.contains($0) }
    }

    private static func isInterfaceName(_ text: String) -> Bool {
        (1...15).contains(text.utf8.count) && text != "." && text != ".."
            && text.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: ":") }
    }
}
