import Documents
import KubeModel
import MeshCore

/// What an account may be allowed to do with a kind of object, as RBAC rules have it.
public struct AccessRight: Hashable, Sendable, CustomStringConvertible {
    public var verb: String
    /// Empty for the core group.
    public var group: String
    /// As it stands in paths, with `/status` for that part: `gateways/status`.
    public var resource: String

    /// `patch gateways/status.gateway.networking.k8s.io`.
    public var description: String {
        self.group.isEmpty ? "\(self.verb) \(self.resource)" : "\(self.verb) \(self.resource).\(self.group)"
    }

    init(_ verb: String, _ resource: String, group: String = "") {
        (self.verb, self.resource, self.group) = (verb, resource, group)
    }

    /// A SelfSubjectAccessReview that asks for it, in all namespaces.
    var review: Document {
        let parts = self.resource.split(separator: "/", maxSplits: 1).map(String.init)
        var attributes: [Document.Member] = [
            .init("verb", .string(self.verb)), .init("group", .string(self.group)),
            .init("resource", .string(parts.first ?? "")),
        ]
        if parts.count > 1 { attributes.append(.init("subresource", .string(parts[1]))) }
        return [
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": ["resourceAttributes": .object(attributes)],
        ]
    }

    static let reviewPath = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
}

/// What a gateway needs of the cluster beside what the mesh follows. Nothing is read to learn it: a Secret is not listed to see
/// whether it could be.
public enum GatewayRights {
    /// What Gateways prove themselves by. A Role can allow single ones of a namespace, which a review of all does not tell.
    public static let credentials = ["secrets", "configmaps"].flatMap { resource in
        ["list", "watch"].map { AccessRight($0, resource) }
    }

    /// The labels of pods, for subsets.
    public static let pods = ["list", "watch"].map { AccessRight($0, "pods") }

    /// To tell the status of objects of the Gateway API.
    public static let status = WatchedResource.gateway.compactMap(\.candidates.first)
        .filter { $0.group == "gateway.networking.k8s.io" && $0.kind != .referenceGrant }
        .flatMap { kind in
            [
                AccessRight("get", kind.plural, group: kind.group),
                AccessRight("patch", "\(kind.plural)/status", group: kind.group),
            ]
        }
}
