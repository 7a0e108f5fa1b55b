import KubeModel
import MeshCore

/// Why what an object names cannot be used.
struct ReferenceProblem: Error {
    var condition: GatewayCondition

    init(_ reason: String, _ message: String) {
        self.condition = GatewayCondition("ResolvedRefs", false, reason, message)
    }
}

extension GatewayCompiler {
    /// What holds authorities may be a ConfigMap too.
    enum CertificateUse {
        case ownCertificate, clientAuthority, backendAuthority

        var kinds: [String] { self == .ownCertificate ? ["Secret"] : ["ConfigMap", "Secret"] }
        var kindReason: String {
            switch self {
            case .ownCertificate: "InvalidCertificateRef"
            case .clientAuthority: "InvalidCACertificateKind"
            case .backendAuthority: "InvalidKind"
            }
        }
        var missingReason: String { self == .ownCertificate ? "InvalidCertificateRef" : "InvalidCACertificateRef" }
    }

    /// The Secret or ConfigMap that is named, if it may be used and holds what it is named for.
    mutating func certificate(
        _ reference: ObjectReference,
        of resource: GatewayResource,
        for use: CertificateUse
    ) -> Result<ObjectName, ReferenceProblem> {
        let name = ObjectName(namespace: reference.namespace ?? resource.name.namespace, name: reference.name)
        guard reference.group.isEmpty, use.kinds.contains(reference.kind) else {
            let kinds = use.kinds.joined(separator: " or ")
            return .failure(ReferenceProblem(use.kindReason, "\(reference.kind) \(name) is no \(kinds)"))
        }
        let label = "\(reference.kind) \(name)"
        guard self.isGranted(from: resource, to: reference) else {
            let message = "no ReferenceGrant in \(name.namespace) lets this object use the \(label)"
            return .failure(ReferenceProblem("RefNotPermitted", message))
        }
        let isGood: Bool
        if reference.kind == "ConfigMap" {
            self.result.configMaps.insert(name)
            isGood = self.input.hasAuthority(name)
        } else {
            self.result.secrets.insert(name)
            let facts = self.input.secret(name)
            isGood = (use == .ownCertificate ? facts?.hasCertificate : facts?.hasAuthority) == true
        }
        guard isGood else {
            let lack = use == .ownCertificate ? "holds no certificate with its key" : "has no ca.crt"
            return .failure(ReferenceProblem(use.missingReason, "the \(label) does not exist, or \(lack)"))
        }
        return .success(name)
    }

    /// Nil if no certificate can be used.
    mutating func termination(_ state: inout ListenerState, _ spec: GatewaySpec) -> TLSTermination? {
        func usable(
            _ references: [ObjectReference],
            for use: CertificateUse,
            _ compiler: inout GatewayCompiler
        ) -> [ObjectName] {
            references.compactMap { reference in
                switch compiler.certificate(reference, of: state.gateway, for: use) {
                case .success(let name): return name
                case .failure(let problem):
                    state.resolved = problem.condition
                    return nil
                }
            }
        }
        let references = state.listener.tls?.certificates ?? []
        let good = usable(references, for: .ownCertificate, &self)
        guard !good.isEmpty else {
            if references.isEmpty {
                let problem = ReferenceProblem("InvalidCertificateRef", "tls.certificateRefs names no Secret")
                state.resolved = problem.condition
            }
            return nil
        }
        var termination = TLSTermination(certificates: good)
        let validation =
            state.listener.clientValidation ?? spec.clientValidationByPort[state.listener.port] ?? spec.clientValidation
        guard let validation, state.listener.portProtocol == "HTTPS" else { return termination }
        // A certificate that may be bad, and that nobody behind the gateway is told of, need not be asked for.
        termination.clientCertificates = validation.allowsInsecure ? .ignored : .required
        termination.authorities = usable(validation.authorities, for: .clientAuthority, &self)
        // Clients that cannot be verified are not let in.
        guard !termination.authorities.isEmpty else {
            let message = "no authority for client certificates can be used"
            state.accepted = GatewayCondition("Accepted", false, "NoValidCACertificate", message)
            return nil
        }
        return termination
    }
}
