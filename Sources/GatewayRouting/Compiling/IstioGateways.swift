import KubeModel
import MeshCore

/// One server of a Gateway with what its port does.
struct IstioServer {
    enum Sort {
        case http
        /// TLS ends here; HTTP within.
        case https(TLSTermination)
        /// TLS ends here; bytes within.
        case tls(TLSTermination)
        case passthrough
        case tcp
    }

    var gateway: GatewayResource
    var spec: IstioGatewaySpec.Server
    var field: String
    var sort: Sort
    /// The hosts, and the namespace from which each takes VirtualServices; nil for every one.
    var hosts: [(pattern: HostPattern, namespace: String?)]
    var address: IPAddress?
}

extension GatewayCompiler {
    /// What EdgeMesh 1.17 did differently is told by findings; what it accepted is accepted.
    mutating func compileIstio() {
        var services: [(GatewayResource, VirtualServiceSpec)] = []
        var gateways: [(GatewayResource, IstioGatewaySpec)] = []
        for resource in self.input.resources {
            switch resource.content {
            case .virtualService(let spec): services.append((resource, spec))
            case .istioGateway(let spec): gateways.append((resource, spec))
            default: break
            }
        }
        let names = Dictionary(grouping: gateways.map { $0.0.name }, by: \.name)
        /// The hosts of those that are bound to any.
        var bound: [ObjectName: [HostPattern]] = [:]
        for (gateway, spec) in gateways {
            if let labels = self.settings.podLabels, !spec.selector.allSatisfy({ labels[$0.key] == $0.value }) {
                continue
            }
            var own: [BoundService] = []
            for (resource, service) in services where self.isBound(resource, service, to: gateway.name, of: names) {
                let hosts = bound[resource.name] ?? self.hosts(of: resource, service)
                bound[resource.name] = hosts
                own.append((resource, service, hosts))
            }
            for (index, server) in spec.servers.enumerated() {
                guard let server = self.server(gateway, server, "spec.servers[\(index)]") else { continue }
                self.compile(server, own)
            }
        }
        for (resource, spec) in services where bound[resource.name] == nil {
            guard spec.gateways.contains(where: { $0 != "mesh" }) else { continue }
            self.find(
                .warning,
                resource,
                "spec.gateways",
                "none of \(spec.gateways.joined(separator: ", ")) is a Gateway that this gateway serves and that may see the object"
            )
        }
    }

    /// Whether a VirtualService names the gateway, and is exported to its namespace.
    private mutating func isBound(
        _ resource: GatewayResource,
        _ spec: VirtualServiceSpec,
        to gateway: ObjectName,
        of gateways: [String: [ObjectName]]
    ) -> Bool {
        let own = resource.name.namespace
        let isVisible =
            spec.exportTo.isEmpty
            || spec.exportTo.contains { $0 == "*" || $0 == gateway.namespace || $0 == "." && own == gateway.namespace }
        guard isVisible else { return false }
        return spec.gateways.contains { self.names($0, gateway, from: own, of: gateways, resource) }
    }

    /// Whether `text`, written in a VirtualService, means the gateway.
    private mutating func names(
        _ text: String,
        _ gateway: ObjectName,
        from namespace: String,
        of gateways: [String: [ObjectName]],
        _ resource: GatewayResource
    ) -> Bool {
        if text.contains("/") {
            return text == gateway.description || text == "./\(gateway.name)" && namespace == gateway.namespace
        }
        guard text == gateway.name else { return false }
        if namespace == gateway.namespace { return true }
        // EdgeMesh 1.17 looked at the name alone: that stays, where only one Gateway can be meant.
        guard gateways[text] == [gateway] else { return false }
        self.find(
            .warning,
            resource,
            "spec.gateways",
            "\(text) lies in the namespace \(gateway.namespace); Istio wants it written as \(gateway)"
        )
        return true
    }

    // MARK: Servers

    private mutating func server(
        _ gateway: GatewayResource,
        _ spec: IstioGatewaySpec.Server,
        _ field: String
    ) -> IstioServer? {
        var server = IstioServer(gateway: gateway, spec: spec, field: field, sort: .http, hosts: [])
        if let bind = spec.bind, bind != "0.0.0.0", bind != "::" {
            guard let address = IPAddress(bind) else {
                self.find(
                    .error,
                    gateway,
                    "\(field).bind",
                    "\"\(bind)\" is no IP address; a server listens on addresses only"
                )
                return nil
            }
            server.address = address
        }
        for host in spec.hosts.isEmpty ? ["*"] : spec.hosts {
            let parts = host.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            guard let pattern = HostPattern(String(parts.last ?? "")) else {
                self.find(
                    .error,
                    gateway,
                    "\(field).hosts",
                    "\"\(host)\" is no host name, *.NAME or *, with or without NAMESPACE/"
                )
                continue
            }
            let namespace =
                parts.count == 1 || parts[0] == "*" ? nil : parts[0] == "." ? gateway.name.namespace : String(parts[0])
            server.hosts.append((pattern, namespace))
        }
        guard !server.hosts.isEmpty, let sort = self.sort(of: server) else { return nil }
        server.sort = sort
        return server
    }

    private mutating func sort(of server: IstioServer) -> IstioServer.Sort? {
        let tls = server.spec.tls
        let hasCredentials = tls?.credentialNames.isEmpty == false
        let name = server.spec.portProtocol.uppercased()
        switch name {
        case "HTTP", "HTTP2", "GRPC", "GRPC-WEB":
            // A credential decides, as EdgeMesh 1.17 has it.
            guard hasCredentials else { return .http }
            return self.termination(of: server).map { .https($0) }
        case "HTTPS", "TLS":
            guard let tls else {
                self.find(
                    .error,
                    server.gateway,
                    "\(server.field).tls",
                    "protocol \(name) needs tls; add it, or use HTTP or TCP"
                )
                return nil
            }
            if tls.mode == .passthrough || tls.mode == nil && !hasCredentials { return .passthrough }
            return self.termination(of: server).map { name == "TLS" ? .tls($0) : .https($0) }
        case "TCP", "MONGO", "MYSQL", "REDIS":
            guard hasCredentials else { return .tcp }
            return self.termination(of: server).map { .tls($0) }
        default:
            self.find(
                .error,
                server.gateway,
                "\(server.field).port.protocol",
                "\"\(server.spec.portProtocol)\" is not served; allowed: HTTP, HTTPS, HTTP2, GRPC, TLS, TCP"
            )
            return nil
        }
    }

    private mutating func termination(of server: IstioServer) -> TLSTermination? {
        guard let tls = server.spec.tls else { return nil }
        let gateway = server.gateway
        let field = "\(server.field).tls"
        guard !tls.credentialNames.isEmpty else {
            self.find(
                .error,
                gateway,
                "\(field).credentialName",
                tls.namesFiles
                    ? "certificates in files are not read; put them in a Secret and name it here"
                    : "the name of the Secret with the certificate is missing"
            )
            return nil
        }
        let secrets = tls.credentialNames.map { ObjectName(namespace: gateway.name.namespace, name: $0) }
        var termination = TLSTermination(certificates: secrets)
        self.result.secrets.formUnion(secrets)
        // Istio keeps authorities in a Secret of their own as well.
        let separate = secrets.map { ObjectName(namespace: $0.namespace, name: $0.name + "-cacert") }
        var hasAuthority = secrets.contains { self.input.secret($0)?.hasAuthority == true }
        for secret in secrets where self.input.secret(secret)?.hasCertificate != true {
            self.find(
                .warning,
                gateway,
                "\(field).credentialName",
                "the Secret \(secret) does not exist yet, or holds no certificate with its key"
            )
        }
        switch tls.mode {
        case .mutual, .optionalMutual:
            self.result.secrets.formUnion(separate)
            if let authority = separate.first(where: { self.input.secret($0)?.hasAuthority == true }) {
                termination.authorities = [authority]
                hasAuthority = true
            }
            termination.clientCertificates = tls.mode == .mutual ? .required : .optional
            guard !hasAuthority else { break }
            guard self.settings.servesMutualWithoutAuthority else {
                self.find(
                    .error,
                    gateway,
                    "\(field).mode",
                    "no Secret has a ca.crt to verify clients with, so that the port is not served; add ca.crt to \(secrets[0]), or set mode to SIMPLE"
                )
                return nil
            }
            // As in EdgeMesh 1.17, whose own example is served so.
            termination.clientCertificates = .ignored
            self.find(
                .warning,
                gateway,
                "\(field).mode",
                "no Secret has a ca.crt, so that clients are NOT asked for certificates; add ca.crt to \(secrets[0])"
            )
        case .simple, .passthrough, nil:
            if hasAuthority {
                self.find(
                    .note,
                    gateway,
                    "\(field).mode",
                    "clients need no certificate, though \(secrets[0]) has a ca.crt: EdgeMesh 1.17 asked for one; set mode to MUTUAL"
                )
            }
            if tls.mode == nil { self.find(.warning, gateway, "\(field).mode", "mode is missing; SIMPLE is used") }
        case .istioMutual, .autoPassthrough:
            self.find(
                .error,
                gateway,
                "\(field).mode",
                "\(tls.mode?.rawValue ?? "") needs Istio's own certificates; use SIMPLE or MUTUAL"
            )
            return nil
        }
        termination.subjectAltNames = tls.subjectAltNames
        self.setVersions(tls, of: &termination, gateway, field)
        return termination
    }

    private mutating func setVersions(
        _ tls: IstioGatewaySpec.TLS,
        of termination: inout TLSTermination,
        _ gateway: GatewayResource,
        _ field: String
    ) {
        let versions: [String: TLSTermination.Version] = [
            "TLSV1_0": .tls10, "TLSV1_1": .tls11, "TLSV1_2": .tls12, "TLSV1_3": .tls13,
        ]
        for (key, text) in [("minProtocolVersion", tls.minimumVersion), ("maxProtocolVersion", tls.maximumVersion)] {
            guard let text, text != "TLS_AUTO" else { continue }
            guard let version = versions[text] else {
                self.find(
                    .warning,
                    gateway,
                    "\(field).\(key)",
                    "\"\(text)\" is none of TLSV1_0 to TLSV1_3 and TLS_AUTO; TLS 1.2 and 1.3 are used"
                )
                continue
            }
            if key == "minProtocolVersion" {
                termination.minimumVersion = version
            } else {
                termination.maximumVersion = version
            }
        }
        // An older maximum brings an older minimum with it.
        if termination.maximumVersion < termination.minimumVersion {
            if let text = tls.minimumVersion, versions[text] != nil {
                self.find(
                    .warning,
                    gateway,
                    "\(field).maxProtocolVersion",
                    "it is below minProtocolVersion, which is used for both"
                )
                termination.maximumVersion = termination.minimumVersion
            } else {
                termination.minimumVersion = termination.maximumVersion
            }
        }
        for name in tls.cipherSuites {
            if let known = CipherSuites.openSSLName(name) {
                if !termination.cipherSuites.contains(known) { termination.cipherSuites.append(known) }
            } else {
                self.find(
                    .warning,
                    gateway,
                    "\(field).cipherSuites",
                    "\"\(name)\" is not offered: it is unknown or broken"
                )
            }
        }
    }
}

/// Cipher suites by their names in OpenSSL and in Go, which the configuration of EdgeMesh 1.17 used.
enum CipherSuites {
    private static let known: [(openSSL: String, standard: String)] = [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
        ("ECDHE-ECDSA-AES128-SHA", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
        ("ECDHE-RSA-AES128-SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
        ("ECDHE-ECDSA-AES256-SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
        ("ECDHE-RSA-AES256-SHA", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
        ("AES128-GCM-SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256"),
        ("AES256-GCM-SHA384", "TLS_RSA_WITH_AES_256_GCM_SHA384"),
        ("AES128-SHA", "TLS_RSA_WITH_AES_128_CBC_SHA"), ("AES256-SHA", "TLS_RSA_WITH_AES_256_CBC_SHA"),
        ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"), ("TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        ("TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    ]

    static func openSSLName(_ name: String) -> String? {
        // Go has names of the ChaCha suites without the hash too.
        self.known.first { $0.openSSL == name || $0.standard == name || $0.standard == name + "_SHA256" }?.openSSL
    }
}
