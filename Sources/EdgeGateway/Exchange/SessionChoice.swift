import EndpointBalancing
import GatewayRouting
import MeshCore
import ServiceCatalog

/// The endpoint that a client's session names (Gateway API, GEP-1619). It is named by a hash, so that clients learn no addresses;
/// a name that fits no endpoint begins a new session.
struct SessionChoice {
    var target: RouteTarget
    var balancer: SharedBalancer
    var pick: SharedBalancer.Pick

    /// Counts a connection to the endpoint; nil if the request has no session, or one whose endpoint is not there any more.
    static func find(
        _ persistence: SessionPersistence,
        _ head: RequestHead,
        among targets: [RouteTarget],
        _ directory: BackendDirectory
    ) -> SessionChoice? {
        guard let session = self.session(persistence, head) else { return nil }
        for target in targets where target.weighted.weight > 0 {
            guard let backend = target.backend, let balancer = directory.balancer(for: backend) else { continue }
            if let pick = balancer.begin(where: { self.name(of: $0, of: backend.service) == session }) {
                return SessionChoice(target: target, balancer: balancer, pick: pick)
            }
        }
        return nil
    }

    static func name(of endpoint: ResolvedEndpoint, of service: ObjectName) -> String {
        String(XXHash64.hash(Array("\(service) \(endpoint.transportAddress)".utf8)), radix: 36)
    }

    /// What the request says its session is.
    static func session(_ persistence: SessionPersistence, _ head: RequestHead) -> String? {
        switch persistence.carrier {
        case .header: head.header(ASCII.lowercased(persistence.name.utf8))
        case .cookie: GatewayWorker.pair(named: persistence.name, in: head.header("cookie") ?? "", separator: ";")
        }
    }

    /// What tells the client its session.
    static func field(_ persistence: SessionPersistence, _ session: String, isSecure: Bool) -> HeaderFields.Field {
        switch persistence.carrier {
        case .header: return HeaderFields.Field(name: ASCII.lowercased(persistence.name.utf8), value: session)
        case .cookie:
            var value = "\(persistence.name)=\(session); Path=/; HttpOnly; SameSite=Lax"
            if let timeout = persistence.absoluteTimeout { value += "; Max-Age=\(timeout.components.seconds)" }
            if isSecure { value += "; Secure" }
            return HeaderFields.Field(name: "set-cookie", value: value)
        }
    }
}
