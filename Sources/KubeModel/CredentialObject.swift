import Documents
public import MeshCore

/// What a Secret or a ConfigMap holds for TLS, as PEM; other contents are not kept. Nothing prints it, and its document has none of it.
public struct CredentialObject: Hashable, Sendable, CustomStringConvertible, CustomReflectable {
    /// `.secret` or `.configMap`.
    public var kind: ObjectKind
    public var name: ObjectName
    /// `tls.crt`, or `cert` as Istio has it; empty if there is none, as the others.
    public var chain: [UInt8]
    /// `tls.key`, or `key`.
    public var key: [UInt8]
    /// `ca.crt`, or `cacert`.
    public var authorities: [UInt8]

    /// For the errors: what is there is not told.
    init(_ object: FieldReader, kind: ObjectKind, name: ObjectName) throws(ObjectError) {
        // Written by people as text, kept by the server in base 64.
        let (plain, encoded) = kind == .secret ? ("stringData", "data") : ("data", "binaryData")
        func bytes(_ keys: String...) throws(ObjectError) -> [UInt8] {
            for key in keys {
                if let text = object.document?[plain]?[key]?.string { return Array(text.utf8) }
                guard let value = object.document?[encoded]?[key], !value.isNull else { continue }
                guard let bytes = value.string.flatMap({ Base64.decode($0.utf8) }) else {
                    throw object.error(.badValue, "\(encoded).\(key) is no base 64")
                }
                return bytes
            }
            return []
        }
        self.kind = kind
        self.name = name
        self.chain = kind == .secret ? try bytes("tls.crt", "cert") : []
        self.key = kind == .secret ? try bytes("tls.key", "key") : []
        self.authorities = try bytes("ca.crt", "cacert")
    }

    public var description: String { "\(self.kind.rawValue) \(self.name)" }
    public var customMirror: Mirror { Mirror(self, children: []) }
}

extension ObjectKind {
    /// Kinds that hold keys, or what they are verified by.
    public var isCredential: Bool { self == .secret || self == .configMap }
}
