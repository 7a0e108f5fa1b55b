/// A certificate authority of a lab, made by openssl. Its files lie in one directory.
public struct LabAuthority: Sendable {
    /// A certificate with its key, both PEM.
    public struct Certificate: Sendable, Hashable {
        public let certificateFile: String
        public let keyFile: String
    }

    /// Where `ca.crt` and what is issued lie.
    public let directory: String

    public var certificateFile: String { "\(self.directory)/ca.crt" }
    private var keyFile: String { "\(self.directory)/ca.key" }
    private var configurationFile: String { "\(self.directory)/openssl.cnf" }

    /// - Throws: `LabError` if there is no openssl, or it fails.
    public init(in directory: String) async throws {
        self.directory = directory
        try Files.makeDirectory(directory)
        try Files.write(
            """
            [req]
            distinguished_name = name
            [name]
            [authority]
            basicConstraints = critical,CA:TRUE
            keyUsage = critical,keyCertSign
            subjectKeyIdentifier = hash
            [leaf]
            basicConstraints = critical,CA:FALSE

            """,
            to: self.configurationFile
        )
        try await self.request(
            "lab authority",
            ["-extensions", "authority", "-out", self.certificateFile, "-keyout", self.keyFile]
        )
    }

    /// One whose files are there.
    init(existingIn directory: String) {
        self.directory = directory
    }

    /// A new certificate.
    ///
    /// - Parameters:
    ///   - file: The files' name without their suffixes; files of that name are replaced.
    ///   - hosts: Names for which it is good; the first is its subject, too. A client's has one.
    @discardableResult
    public func issue(_ file: String, hosts: [String]) async throws -> Certificate {
        let certificate = Certificate(
            certificateFile: "\(self.directory)/\(file).crt",
            keyFile: "\(self.directory)/\(file).key"
        )
        try await self.request(
            hosts.first ?? file,
            [
                "-CA", self.certificateFile, "-CAkey", self.keyFile, "-extensions", "leaf", "-addext",
                "subjectAltName=" + hosts.map { "DNS:\($0)" }.joined(separator: ","), "-out",
                certificate.certificateFile, "-keyout", certificate.keyFile,
            ]
        )
        return certificate
    }

    private func request(_ subject: String, _ arguments: [String]) async throws {
        try await Command.runLocal(
            [
                "openssl", "req", "-x509", "-config", self.configurationFile, "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=\(subject)",
            ] + arguments
        )
    }

    /// The Secret of a certificate, as `kubectl create secret tls` makes it.
    ///
    /// - Parameter verifiesClients: With the authority's own certificate as `ca.crt`.
    public func secret(
        _ name: String,
        _ certificate: Certificate,
        verifiesClients: Bool = false
    ) async throws -> String {
        var files = [("tls.crt", certificate.certificateFile), ("tls.key", certificate.keyFile)]
        if verifiesClients { files.append(("ca.crt", self.certificateFile)) }
        var text = """
            apiVersion: v1
            kind: Secret
            metadata: {name: \(name), namespace: default}
            type: kubernetes.io/tls
            data:

            """
        for (key, file) in files {
            let encoded = try await Command.runLocal(["openssl", "base64", "-A", "-in", file]).standardOutput
            text += "  \(key): \(encoded.trimmed)\n"
        }
        return text
    }
}
