import KubeModel
import MeshCore

/// Where the compiler finds what belongs together: made once for a compilation, as each backend of each route asks.
struct ObjectIndex {
    struct Key: Hashable {
        var kind: ObjectKind
        var name: ObjectName

        init(_ resource: GatewayResource) {
            self.kind = resource.kind
            self.name = resource.name
        }
    }

    private var rules: [ObjectName: [DestinationRuleObject]] = [:]
    private var places: [Key: Int] = [:]
    private var grants: [String: [ReferenceGrantSpec]] = [:]

    /// - Parameters:
    ///   - resources: older ones first.
    ///   - service: the service that a rule's host means. It is asked once of each rule.
    init(
        _ resources: [GatewayResource],
        _ destinationRules: [DestinationRuleObject],
        service: (DestinationRuleObject) -> ObjectName?
    ) {
        for (place, resource) in resources.enumerated() {
            let key = Key(resource)
            if self.places[key] == nil { self.places[key] = place }
            if case .referenceGrant(let spec) = resource.content {
                self.grants[resource.name.namespace, default: []].append(spec)
            }
        }
        for rule in destinationRules {
            self.rules[rule.name, default: []].append(rule)
            if let other = service(rule), other != rule.name { self.rules[other, default: []].append(rule) }
        }
        for (service, own) in self.rules where own.count > 1 {
            self.rules[service] = own.sorted {
                ($0.name != service ? 1 : 0, $0.name) < ($1.name != service ? 1 : 0, $1.name)
            }
        }
    }

    /// The DestinationRules of a service: that of its name first, as EdgeMesh takes it, then those whose host means it.
    func rules(of service: ObjectName) -> [DestinationRuleObject] { self.rules[service] ?? [] }

    /// Where a resource is in the order of their age.
    func place(of resource: GatewayResource) -> Int {
        self.places[Key(resource)] ?? 0
    }

    /// The ReferenceGrants of a namespace.
    func grants(in namespace: String) -> [ReferenceGrantSpec] { self.grants[namespace] ?? [] }
}
