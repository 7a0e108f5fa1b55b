import Documents
import KubeModel

extension KubeConfiguration {
    /// The server and user of a kubeconfig's context.
    /// - Parameters:
    ///   - context: nil means the file's `current-context`.
    ///   - server: replaces the cluster's `server`, as `kubeAPIConfig.master` does.
    public static func kubeconfig(
        path: String,
        context: String? = nil,
        server: String? = nil
    ) throws(KubeError) -> KubeConfiguration {
        let bytes = try SmallFile.read(path)
        let documents: [Document]
        do {
            documents = try Document.parseYAML(bytes)
        } catch {
            throw KubeError(.invalidConfiguration, "\(path) is no kubeconfig", cause: error)
        }
        guard let document = documents.first else {
            throw KubeError(.invalidConfiguration, "\(path) is empty; write a kubeconfig there")
        }
        return try KubeconfigReader(path: path, document: document).configuration(context: context, server: server)
    }
}

/// Reads one kubeconfig; each error names the file, the line and the key.
private struct KubeconfigReader {
    let path: String
    let document: Document

    func configuration(context wanted: String?, server: String?) throws(KubeError) -> KubeConfiguration {
        let name: String
        if let wanted {
            name = wanted
        } else if let current = try self.string("current-context", of: self.document) {
            name = current
        } else {
            throw self.invalid("current-context", "is not set", at: self.document)
        }
        let context = try self.entry(list: "contexts", name: name, key: "context")
        guard let clusterName = try self.string("cluster", of: context) else {
            throw self.invalid("contexts[\(name)].context.cluster", "is not set", at: context)
        }
        let cluster = try self.entry(list: "clusters", name: clusterName, key: "cluster")
        var tls = try self.clusterTLS(cluster)
        var credentials = KubeCredentials.none
        if let userName = try self.string("user", of: context) {
            let user = try self.entry(list: "users", name: userName, key: "user")
            tls.clientCertificate = try self.pem("client-certificate", of: user)
            tls.clientKey = try self.pem("client-key", of: user)
            guard (tls.clientCertificate == nil) == (tls.clientKey == nil) else {
                throw self.invalid("client-certificate and client-key", "must be given together", at: user)
            }
            credentials = try self.credentials(of: user)
        }
        let written = try self.string("server", of: cluster)
        guard let address = server ?? written else {
            throw self.invalid("clusters[\(clusterName)].cluster.server", "is not set", at: cluster)
        }
        do {
            return KubeConfiguration(endpoint: try KubeEndpoint(address, tls: tls), credentials: credentials)
        } catch {
            throw self.invalid("server", error.message, at: cluster["server"] ?? cluster)
        }
    }

    private func clusterTLS(_ cluster: Document) throws(KubeError) -> KubeTLS {
        var tls = KubeTLS()
        tls.certificateAuthority = try self.pem("certificate-authority", of: cluster)
        tls.serverName = try self.string("tls-server-name", of: cluster)
        if let flag = cluster["insecure-skip-tls-verify"] {
            guard let value = flag.bool else {
                throw self.invalid("insecure-skip-tls-verify", "must be true or false", at: flag)
            }
            tls.skipsVerification = value
        }
        if let proxy = try self.string("proxy-url", of: cluster) {
            throw self.invalid(
                "proxy-url",
                "(\(proxy)) is not supported; remove it and reach the server directly",
                at: cluster
            )
        }
        return tls
    }

    /// The order of precedence is that of the original's client library: exec, then token and its file, then password.
    private func credentials(of user: Document) throws(KubeError) -> KubeCredentials {
        for key in ["as", "as-uid", "as-groups", "as-user-extra"] {
            guard let value = user[key], !value.isNull, value.string != "" else { continue }
            throw self.invalid(key, "is not supported: give the agent an account of its own to act as", at: value)
        }
        if let exec = user["exec"], !exec.isNull { return .exec(try self.execPlugin(exec)) }
        if let file = try self.string("tokenFile", of: user) { return .tokenFile(self.resolve(file)) }
        if let token = try self.string("token", of: user) { return .token(token) }
        if let name = try self.string("username", of: user) {
            return .basic(user: name, password: try self.string("password", of: user) ?? "")
        }
        if let provider = user["auth-provider"], !provider.isNull {
            throw self.invalid("auth-provider", "is no longer part of Kubernetes; use exec", at: provider)
        }
        return .none
    }

    private func execPlugin(_ exec: Document) throws(KubeError) -> ExecPlugin {
        guard let command = try self.string("command", of: exec) else {
            throw self.invalid("exec.command", "is not set", at: exec)
        }
        let version = try self.string("apiVersion", of: exec) ?? ""
        guard ExecPlugin.apiVersions.contains(version) else {
            throw self.invalid(
                "exec.apiVersion",
                "is '\(version)', must be one of \(ExecPlugin.apiVersions.joined(separator: ", "))",
                at: exec
            )
        }
        if try self.string("interactiveMode", of: exec) == "Always" {
            throw self.invalid("exec.interactiveMode", "is Always, but an agent has no terminal", at: exec)
        }
        // A command with a slash is relative to the kubeconfig, as kubectl has it.
        var plugin = ExecPlugin(command: command.contains("/") ? self.resolve(command) : command, apiVersion: version)
        for argument in exec["args"]?.array ?? [] {
            guard let text = argument.string else { throw self.invalid("exec.args", "must be texts", at: argument) }
            plugin.arguments.append(text)
        }
        for variable in exec["env"]?.array ?? [] {
            guard let name = try self.string("name", of: variable), !name.isEmpty, !name.contains("=") else {
                throw self.invalid("exec.env", "needs a name", at: variable)
            }
            plugin.environment.append(.init(name: name, value: try self.string("value", of: variable) ?? ""))
        }
        plugin.providesClusterInfo = exec["provideClusterInfo"]?.bool ?? false
        plugin.installHint = try self.string("installHint", of: exec)
        return plugin
    }

    private func entry(list: String, name: String, key: String) throws(KubeError) -> Document {
        guard let entries = self.document[list]?.array else {
            throw self.invalid(list, "is missing or no list", at: self.document[list] ?? self.document)
        }
        guard let entry = entries.first(where: { $0["name"]?.string == name }) else {
            throw self.invalid(list, "has no entry named '\(name)'", at: self.document[list] ?? self.document)
        }
        guard let body = entry[key], body.members != nil else {
            throw self.invalid("\(list)[\(name)].\(key)", "is missing", at: entry)
        }
        return body
    }

    /// Absent, null and empty mean the same.
    private func string(_ key: String, of document: Document) throws(KubeError) -> String? {
        guard let value = document[key], !value.isNull else { return nil }
        guard let text = value.string else { throw self.invalid(key, "must be a text", at: value) }
        return text.isEmpty ? nil : text
    }

    /// `KEY-data` in base 64 wins over the file named by `KEY`.
    private func pem(_ key: String, of document: Document) throws(KubeError) -> PEMSource? {
        if let text = try self.string("\(key)-data", of: document) {
            guard let bytes = Base64.decode(text.utf8) else {
                throw self.invalid("\(key)-data", "is not base 64", at: document["\(key)-data"] ?? document)
            }
            return .inline(bytes)
        }
        return try self.string(key, of: document).map { .file(self.resolve($0)) }
    }

    /// Relative paths start at the kubeconfig's folder.
    private func resolve(_ file: String) -> String {
        guard !file.hasPrefix("/") else { return file }
        guard let slash = self.path.lastIndex(of: "/") else { return "./\(file)" }
        return "\(self.path[...slash])\(file)"
    }

    private func invalid(_ key: String, _ reason: String, at place: Document) -> KubeError {
        let line = place.position.line > 0 ? ":\(place.position.line)" : ""
        return KubeError(.invalidConfiguration, "\(self.path)\(line): \(key) \(reason)")
    }
}
