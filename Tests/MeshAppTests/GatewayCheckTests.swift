import Admin
import Testing

@testable import KubeClient
@testable import MeshApp

/// `edgemesh check` of a gateway: what its account may not do, and what that means.
@Suite struct GatewayCheckTests {
    private static func outcomes(_ denied: Set<AccessRight>, unknown: Bool = false) -> [String] {
        var probe = KubeProbe(origin: "http://kube")
        probe.rights = (GatewayRights.credentials + GatewayRights.pods + GatewayRights.status).map {
            KubeProbe.RightCheck(right: $0, isAllowed: unknown ? nil : !denied.contains($0))
        }
        return NodeCheck.gatewayResults(of: probe).map { "\($0.outcome.rawValue) \($0.name): \($0.found)" }
    }

    @Test func allRights() {
        #expect(
            Self.outcomes([]) == ["secrets", "pods", "status"].map { "pass gateway-\($0): all rights are there" }
        )
    }

    @Test func whatIsMissingIsToldWithWhatItMeans() {
        let patch = AccessRight("patch", "udproutes/status", group: "gateway.networking.k8s.io")
        #expect(
            Self.outcomes([AccessRight("watch", "secrets"), AccessRight("list", "pods"), patch]) == [
                "warn gateway-secrets: may not watch secrets: only Secrets and ConfigMaps that Roles allow one by one can be used for TLS",
                "warn gateway-pods: may not list pods: routes to subsets of DestinationRules lead to all endpoints",
                "warn gateway-status: may not patch udproutes/status.gateway.networking.k8s.io: the status of Gateways, routes and policies is not written",
            ]
        )
        #expect(Self.outcomes([], unknown: true).allSatisfy { $0.hasPrefix("warn ") })
    }

    @Test func withoutAGatewayNothingIsSaidOfIt() {
        #expect(NodeCheck.gatewayResults(of: KubeProbe(origin: "http://kube")).isEmpty)
    }
}
