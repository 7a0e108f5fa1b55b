import MeshCore

/// Where an API server is and how to know that it is the right one.
public struct KubeEndpoint: Hashable, Sendable {
    public enum Scheme: String, Hashable, Sendable {
        case http
        case https
    }

    public var scheme: Scheme
    /// A host name or an IP literal without brackets.
    public var host: String
    public var port: Int
    /// Put before every path; empty or `/prefix` without a slash at the end.
    public var pathPrefix: String
    public var tls: KubeTLS

    /// Reads `https://host:6443/prefix`, `http://…`, or a bare `host:port`, which means http.
    public init(_ text: String, tls: KubeTLS = KubeTLS()) throws(KubeError) {
        func invalid(_ reason: String) -> KubeError {
            KubeError(.invalidConfiguration, "'\(text)' is no API server address: \(reason); write https://HOST:PORT")
        }
        var rest = text[...]
        var scheme = Scheme.http
        if let mark = text.firstRange(of: "://") {
            guard let known = Scheme(rawValue: text[..<mark.lowerBound].lowercased()) else {
                throw invalid("unknown scheme '\(text[..<mark.lowerBound])'")
            }
            scheme = known
            rest = text[mark.upperBound...]
        }
        let authority = rest.prefix { $0 != "/" && $0 != "?" && $0 != "#" }
        var path = rest[authority.endIndex...]
        guard !path.contains(where: { $0 == "?" || $0 == "#" }) else { throw invalid("it must not have a query") }
        guard !authority.contains("@") else { throw invalid("user and password belong into the kubeconfig's user") }
        while path.last == "/" { path = path.dropLast() }
        var host = authority
        var port = scheme == .https ? 443 : 80
        if authority.last != "]", let colon = authority.lastIndex(of: ":") {
            host = authority[..<colon]
            guard let number = UInt16(authority[authority.index(after: colon)...]), number > 0 else {
                throw invalid("bad port")
            }
            port = Int(number)
        }
        if host.first == "[" {
            guard host.last == "]", IPv6Address(host.dropFirst().dropLast()) != nil else { throw invalid("bad host") }
            host = host.dropFirst().dropLast()
        } else if host.isEmpty || !host.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: ":") }) {
            throw invalid("bad host")
        }
        guard path.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { throw invalid("bad path") }
        self.scheme = scheme
        self.host = String(host)
        self.port = port
        self.pathPrefix = String(path)
        self.tls = tls
    }

    /// `host:port` as a `Host` header carries it.
    var authority: String { self.host.contains(":") ? "[\(self.host)]:\(self.port)" : "\(self.host):\(self.port)" }

    public var url: String { "\(self.scheme.rawValue)://\(self.authority)\(self.pathPrefix)" }
}

/// PEM text, or the file that holds it. Files are read again for each new connection, so that they can be rotated.
public enum PEMSource: Hashable, Sendable {
    case inline([UInt8])
    case file(String)
}

/// What a TLS connection to the server trusts and shows.
public struct KubeTLS: Hashable, Sendable {
    /// Nil: the machine's own trust store.
    public var certificateAuthority: PEMSource?
    public var skipsVerification = false
    /// Checked, and sent as SNI, in place of the host.
    public var serverName: String?
    public var clientCertificate: PEMSource?
    public var clientKey: PEMSource?

    public init() {}
}

/// How this client says who it is.
public enum KubeCredentials: Hashable, Sendable {
    case none
    case token(String)
    /// Read anew for each request, so a rotated token is used at once.
    case tokenFile(String)
    case basic(user: String, password: String)
    case exec(ExecPlugin)
}

/// All that is needed to speak with one API server.
public struct KubeConfiguration: Hashable, Sendable {
    public var endpoint: KubeEndpoint
    public var credentials: KubeCredentials
    /// KubeEdge's MetaServer on an edge node: it lists objects out of a local cache, which is empty for a while after
    /// its start, and it answers a list of a kind it does not hold with an empty one, so absence cannot be told.
    public var isMetaServer = false

    public init(endpoint: KubeEndpoint, credentials: KubeCredentials = .none) {
        self.endpoint = endpoint
        self.credentials = credentials
    }

    /// The folder that the kubelet mounts into each pod.
    public static let serviceAccountFolder = "/var/run/secrets/kubernetes.io/serviceaccount"

    /// The server and account of the pod that this process runs in.
    /// - Parameter environment: looks a variable up, normally the process's.
    public static func inCluster(
        folder: String = Self.serviceAccountFolder,
        environment: (String) -> String?
    ) throws(KubeError) -> KubeConfiguration {
        guard let host = environment("KUBERNETES_SERVICE_HOST"), !host.isEmpty,
            let port = environment("KUBERNETES_SERVICE_PORT"), !port.isEmpty
        else {
            throw KubeError(
                .invalidConfiguration,
                "not in a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; "
                    + "set kubeAPIConfig.kubeConfig or kubeAPIConfig.master"
            )
        }
        _ = try SmallFile.read("\(folder)/token")
        var tls = KubeTLS()
        tls.certificateAuthority = .file("\(folder)/ca.crt")
        let bracketed = host.contains(":") ? "[\(host)]" : host
        let endpoint = try KubeEndpoint("https://\(bracketed):\(port)", tls: tls)
        return KubeConfiguration(endpoint: endpoint, credentials: .tokenFile("\(folder)/token"))
    }

    /// A server without credentials, such as `kubeAPIConfig.master: 127.0.0.1:8080`.
    public static func master(_ address: String) throws(KubeError) -> KubeConfiguration {
        KubeConfiguration(endpoint: try KubeEndpoint(address))
    }

    /// `kubeAPIConfig.metaServer.security`: without authorization the MetaServer speaks http; with it https, and the
    /// node's account token is sent.
    public struct MetaServerSecurity: Hashable, Sendable {
        public var requiresAuthorization = false
        public var skipsTLSVerification = false
        public var caFile = "/etc/edgemesh/metaserver/rootCA.crt"
        public var certificateFile = "/etc/edgemesh/metaserver/server.crt"
        public var keyFile = "/etc/edgemesh/metaserver/server.key"
        public var tokenFile = "\(KubeConfiguration.serviceAccountFolder)/token"

        public init() {}
    }

    public static func metaServer(_ server: String, security: MetaServerSecurity) throws(KubeError) -> KubeConfiguration
    {
        var address = server
        var tls = KubeTLS()
        var credentials = KubeCredentials.none
        if security.requiresAuthorization {
            if address.hasPrefix("http://") { address = "https://" + address.dropFirst("http://".count) }
            credentials = .tokenFile(security.tokenFile)
            if security.skipsTLSVerification {
                tls.skipsVerification = true
            } else {
                tls.certificateAuthority = .file(security.caFile)
                tls.clientCertificate = .file(security.certificateFile)
                tls.clientKey = .file(security.keyFile)
            }
        }
        var configuration = KubeConfiguration(endpoint: try KubeEndpoint(address, tls: tls), credentials: credentials)
        configuration.isMetaServer = true
        return configuration
    }
}

// Secrets stay out of logs, whoever prints a configuration.

extension KubeCredentials: CustomStringConvertible {
    public var description: String {
        switch self {
        case .none: "none"
        case .token: "token"
        case .tokenFile(let path): "token file \(path)"
        case .basic(let user, _): "password of \(user)"
        case .exec(let plugin): "exec plugin \(plugin.command)"
        }
    }
}

extension PEMSource: CustomStringConvertible {
    public var description: String {
        switch self {
        case .inline: "inline"
        case .file(let path): path
        }
    }
}
