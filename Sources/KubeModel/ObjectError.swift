public import Documents
public import MeshCore

/// Why a document is no object that the mesh can use: which field, what it holds, what is allowed.
public struct ObjectError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable {
        /// A kind that the mesh does not read; a source skips it.
        case unsupportedKind
        case missing
        case wrongType
        case badValue
        case duplicate
    }

    public var code: Code
    /// The path of the field, such as `spec.ports[0].port`; empty for the whole object.
    public var field: String
    /// What is wrong and what is allowed, starting with the path.
    public var message: String
    /// Where the field was read from, if it was read from a text.
    public var position: SourcePosition
    /// The object at fault, as far as it could be read.
    public var kind: ObjectKind?
    public var name: ObjectName?

    public init(_ code: Code, field: String, message: String, at position: SourcePosition) {
        self.code = code
        self.field = field
        self.message = message
        self.position = position
    }

    /// This error as an entry of the list of rejected objects; nil if it is not known which object is meant.
    public var rejectedObject: RejectedObject? {
        guard let kind = self.kind, let name = self.name else { return nil }
        return RejectedObject(kind: kind, name: name, field: self.field, reason: self.message)
    }

    /// `file:line:column: Service shop/web: spec.ports[0].port is 0; ...`.
    public func describe(in file: String) -> String {
        self.position == .none ? "\(file): \(self)" : "\(file):\(self.position): \(self)"
    }

    public var description: String {
        guard let kind = self.kind else { return self.message }
        return "\(kind.rawValue)\(self.name.map { " \($0)" } ?? ""): \(self.message)"
    }
}
