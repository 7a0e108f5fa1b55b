import Documents

/// What a runtime is told when an operation fails (CNI specification 1.1, section 5, "Error").
public struct CNIError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        case incompatibleVersion
        case unsupportedField
        case unknownContainer
        case invalidEnvironment
        case inputOutput
        case undecodable
        case invalidConfiguration
        case tryAgainLater
        /// No pod can be attached now.
        case unavailable
        /// A plugin that the work was handed to does not run, or fails without a word that is understood.
        case delegate
        /// As another plugin says it.
        case other(Int64)

        public var number: Int64 {
            switch self {
            case .incompatibleVersion: 1
            case .unsupportedField: 2
            case .unknownContainer: 3
            case .invalidEnvironment: 4
            case .inputOutput: 5
            case .undecodable: 6
            case .invalidConfiguration: 7
            case .tryAgainLater: 11
            case .unavailable: 50
            case .delegate: 100
            case .other(let number): number
            }
        }
    }

    public let code: Code
    /// What failed.
    public let message: String
    /// Why, and what to look at; may be empty.
    public let details: String

    public init(_ code: Code, _ message: String, details: String = "") {
        self.code = code
        self.message = message
        self.details = details
    }

    /// What a plugin printed when it failed; nil if that is no error of CNI.
    init?(printed bytes: [UInt8]) {
        guard let document = try? Document.parseJSON(bytes, limits: NetworkConfiguration.limits),
            let code = document["code"]?.integer, let message = document["msg"]?.string
        else { return nil }
        self.init(.other(code), message, details: document["details"]?.string ?? "")
    }

    func document(_ version: CNIVersion) -> Document {
        var members: [Document.Member] = [
            .init("cniVersion", .string(version.rawValue)), .init("code", .integer(self.code.number)),
            .init("msg", .string(self.message)),
        ]
        if !self.details.isEmpty { members.append(.init("details", .string(self.details))) }
        return .object(members)
    }

    public var description: String {
        self.details.isEmpty ? self.message : "\(self.message): \(self.details)"
    }
}
