/// The namespace and name that identify a cluster object of one kind. Cluster-scoped objects have an empty namespace.
public struct ObjectName: Hashable, Sendable, Comparable, CustomStringConvertible {
    public var namespace: String
    public var name: String

    public init(namespace: String, name: String) {
        self.namespace = namespace
        self.name = name
    }

    /// `namespace/name`, or the name alone for a cluster-scoped object.
    public var description: String { self.namespace.isEmpty ? self.name : "\(self.namespace)/\(self.name)" }

    public static func < (lhs: ObjectName, rhs: ObjectName) -> Bool {
        (lhs.namespace, lhs.name) < (rhs.namespace, rhs.name)
    }
}
