import KubeModel
import MeshCore

extension GatewayCompiler {
    /// The service that a destination's host means: a short name is in the namespace of the object that names it.
    func service(named host: String, in namespace: String) -> ObjectName? {
        Self.service(named: host, in: namespace, clusterDomain: self.settings.clusterDomain)
    }

    static func service(named host: String, in namespace: String, clusterDomain: String) -> ObjectName? {
        var host = host.lowercased()[...]
        if host.hasSuffix(".") { host = host.dropLast() }
        let domain = ".svc." + clusterDomain
        if host.hasSuffix(domain) {
            host = host.dropLast(domain.count)
        } else if host.hasSuffix(".svc") {
            host = host.dropLast(4)
        }
        let labels = host.split(separator: ".", omittingEmptySubsequences: false)
        guard (1...2).contains(labels.count), labels.allSatisfy({ !$0.isEmpty && $0 != "*" }) else { return nil }
        return ObjectName(namespace: labels.count == 2 ? String(labels[1]) : namespace, name: String(labels[0]))
    }

    /// What a port of a service speaks.
    func application(of port: ServiceObject.Port?) -> ApplicationProtocol {
        switch port?.appProtocol {
        case "kubernetes.io/h2c", "h2c", "http2", "grpc": return .http2
        case .some: return .http1
        case nil: break
        }
        // By the name of the port, as Istio does.
        let name = port?.name ?? ""
        return ["http2", "grpc", "h2c"].contains { name == $0 || name.hasPrefix($0 + "-") } ? .http2 : .http1
    }

    /// The backend of a destination of a VirtualService; nil, with a finding, if there cannot be one.
    mutating func backend(
        _ destination: VirtualServiceSpec.Destination,
        of resource: GatewayResource,
        gatewayNamespace: String,
        _ field: String
    ) -> Backend? {
        guard var name = self.service(named: destination.host, in: resource.name.namespace) else {
            self.find(
                .error,
                resource,
                "\(field).host",
                "\"\(destination.host)\" is no service of the cluster; write NAME, NAME.NAMESPACE or the full name"
            )
            return nil
        }
        var service = self.input.service(name)
        if service == nil, !destination.host.contains("."), gatewayNamespace != name.namespace {
            let other = ObjectName(namespace: gatewayNamespace, name: name.name)
            if let found = self.input.service(other) {
                self.find(
                    .warning,
                    resource,
                    "\(field).host",
                    "there is no service \(name), so \(other) of the Gateway's namespace is used; write \(other.name).\(other.namespace)"
                )
                (name, service) = (other, found)
            }
        }
        guard let number = destination.port ?? (service?.ports.count == 1 ? service?.ports[0].port : nil) else {
            self.find(
                .error,
                resource,
                "\(field).port",
                "port.number is missing, and the service \(name) has not just one port"
            )
            return nil
        }
        var backend = Backend(service: name, port: number)
        guard let service else {
            self.find(
                .warning,
                resource,
                "\(field).host",
                "there is no service \(name) yet: requests are answered with 503"
            )
            return backend
        }
        let port = service.ports.first { $0.port == number }
        if port == nil {
            self.find(
                .warning,
                resource,
                "\(field).port",
                "the service \(name) has no port \(number): requests are answered with 503"
            )
        }
        backend.application = self.application(of: port)
        self.apply(self.index.rules(of: name), to: &backend, resource, field)
        if let subset = destination.subset {
            backend.subset = subset
            guard service.subsets.contains(subset) else {
                let idle = self.index.rules(of: name).first { $0.subsets[subset] != nil }
                let hint = idle.map { "; \($0.name) has it, but is not applied to this service" } ?? ""
                self.find(
                    .error,
                    resource,
                    "\(field).subset",
                    "no DestinationRule of \(name) has the subset \(subset): requests are answered with 503\(hint)"
                )
                return backend
            }
            self.result.subsetNamespaces.insert(name.namespace)
        }
        return backend
    }

    /// How the gateway is to speak to the backend, by `trafficPolicy.tls`.
    private mutating func apply(
        _ rules: [DestinationRuleObject],
        to backend: inout Backend,
        _ resource: GatewayResource,
        _ field: String
    ) {
        guard let rule = rules.first(where: { $0.portTLS[backend.port] != nil || $0.tls != nil }),
            let tls = rule.portTLS[backend.port] ?? rule.tls
        else { return }
        switch tls.mode {
        case "DISABLE": break
        case "SIMPLE":
            let service = backend.service
            let full = "\(service.name).\(service.namespace).svc.\(self.settings.clusterDomain)"
            let secret = tls.credentialName.map { ObjectName(namespace: rule.name.namespace, name: $0) }
            if let secret { self.result.secrets.insert(secret) }
            backend.tls = BackendTLS(
                name: tls.sni ?? tls.subjectAltNames.first ?? full,
                authorities: secret.map { [$0] }
            )
        default:
            self.find(
                .warning,
                resource,
                field,
                "DestinationRule \(rule.name) asks for tls.mode \(tls.mode), which needs a certificate of the mesh: the gateway "
                    + "speaks in the clear; use SIMPLE or DISABLE"
            )
        }
    }
}
