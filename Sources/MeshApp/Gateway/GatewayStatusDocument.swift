import Documents
import GatewayRouting
import KubeModel
import MeshCore

/// Makes the status of an object of the Gateway API as it is to be of what it is: what others wrote stays.
struct GatewayStatusDocument: Sendable {
    /// Of a Gateway and of a policy, by the specification.
    private static let mostAddresses = 16
    private static let mostAncestors = 16

    var desired: GatewayStatus
    var controllerName: String
    /// Where this process serves a Gateway. Other gateways may serve it too, so that theirs stay.
    var addresses: [IPAddress] = []
    /// Where it did so, and does no more.
    var formerAddresses: Set<IPAddress> = []

    /// The members of `status` to be written; nil if nothing is to be.
    /// - Parameter now: by RFC 3339, for conditions that turn.
    func change(of object: Document, now: String) -> Document? {
        let present = object["status"] ?? [:]
        let wanted: Document
        switch self.desired.kind {
        case .gatewayClass:
            wanted = [
                "conditions": self.merged(self.desired.conditions, with: present["conditions"], now),
                // An API from before this field drops it, and is told again at the next look.
                "supportedFeatures": .array(SupportedFeatures.names.map { ["name": .string($0)] }),
            ]
        case .gateway:
            wanted = .object(
                self.addressMember(present["addresses"]) + [
                    .init("conditions", self.merged(self.desired.conditions, with: present["conditions"], now)),
                    .init("listeners", self.listeners(present["listeners"], now)),
                ]
            )
        case .backendTLSPolicy:
            let ancestors = self.parents(present["ancestors"], "ancestorRef", now).array ?? []
            wanted = ["ancestors": .array(Array(ancestors.prefix(Self.mostAncestors)))]
        default:
            wanted = ["parents": self.parents(present["parents"], "parentRef", now)]
        }
        let isSame = (wanted.members ?? []).allSatisfy {
            (present[$0.key] ?? []).canonical == $0.value.canonical
        }
        // In one expression `nil` would be the document `null`, by which the status would be deleted.
        if isSame { return .none }
        return wanted
    }

    /// Conditions of types that are not ours stay; one that does not turn keeps the time of its last turn.
    private func merged(_ conditions: [GatewayCondition], with present: Document?, _ now: String) -> Document {
        let known = present?.array ?? []
        // One that is there or not, as the specification wants it.
        let own = Set(conditions.map(\.type)).union([GatewayStatus.insecureClients])
        let others = known.filter { !own.contains($0["type"]?.string ?? "") }
        return .array(
            others
                + conditions.map { condition in
                    let former = known.first { $0["type"]?.string == condition.type }
                    let status = condition.isTrue ? "True" : "False"
                    let turned = former?["status"]?.string == status ? former?["lastTransitionTime"]?.string : nil
                    return [
                        "type": .string(condition.type), "status": .string(status),
                        "reason": .string(condition.reason), "message": .string(condition.message),
                        "observedGeneration": .integer(self.desired.generation),
                        "lastTransitionTime": .string(turned ?? now),
                    ]
                }
        )
    }

    private func listeners(_ present: Document?, _ now: String) -> Document {
        .array(
            self.desired.listeners.map { listener in
                let former = present?.array?.first { $0["name"]?.string == listener.name }
                return [
                    "name": .string(listener.name), "attachedRoutes": .integer(listener.attachedRoutes),
                    "supportedKinds": .array(
                        listener.supportedKinds.map { ["group": .string(Self.group), "kind": .string($0)] }
                    ),
                    "conditions": self.merged(listener.conditions, with: former?["conditions"], now),
                ]
            }
        )
    }

    private static let group = "gateway.networking.k8s.io"

    private func addressMember(_ present: Document?) -> [Document.Member] {
        let former = Set(self.formerAddresses.map(\.description))
        let known = (present?.array ?? []).filter { !former.contains($0["value"]?.string ?? "") }
        let values = Set(known.compactMap { $0["value"]?.string })
        let new = self.addresses.map(\.description).filter { !values.contains($0) }
        guard !new.isEmpty || known.count < present?.array?.count ?? 0 else { return [] }
        let all = known + new.map { ["type": "IPAddress", "value": .string($0)] }
        return [.init("addresses", .array(Array(all.prefix(Self.mostAddresses))))]
    }

    /// Entries of other controllers stay as they are.
    private func parents(_ present: Document?, _ referenceKey: String, _ now: String) -> Document {
        let known = present?.array ?? []
        let others = known.filter { $0["controllerName"]?.string != self.controllerName }
        return .array(
            others
                + self.desired.parents.map { parent in
                    let reference = Self.document(parent.reference)
                    let former = known.first {
                        $0["controllerName"]?.string == self.controllerName
                            && $0[referenceKey]?.canonical == reference.canonical
                    }
                    return .object([
                        .init(referenceKey, reference), .init("controllerName", .string(self.controllerName)),
                        .init("conditions", self.merged(parent.conditions, with: former?["conditions"], now)),
                    ])
                }
        )
    }

    private static func document(_ reference: ParentReference) -> Document {
        var members: [Document.Member] = [
            .init("group", .string(reference.target.group)), .init("kind", .string(reference.target.kind)),
        ]
        if let namespace = reference.target.namespace { members.append(.init("namespace", .string(namespace))) }
        members.append(.init("name", .string(reference.target.name)))
        if let section = reference.sectionName { members.append(.init("sectionName", .string(section))) }
        if let port = reference.port { members.append(.init("port", .integer(port))) }
        return .object(members)
    }
}

extension Document {
    /// Equal for documents that differ in the order of members only.
    fileprivate var canonical: Document {
        switch self.content {
        case .object(let members):
            .object(members.map { Member($0.key, $0.value.canonical) }.sorted { $0.key < $1.key })
        case .array(let elements): .array(elements.map(\.canonical))
        default: Document(self.content)
        }
    }
}
