import HashTreeCollections
import KubeModel
import LoadBalancing
import MeshCore
import ServiceCatalog
import Synchronization

func name(_ text: String) -> ObjectName {
    let parts = text.split(separator: "/")
    return ObjectName(namespace: String(parts.first ?? ""), name: String(parts.last ?? ""))
}

func ip(_ last: Int, _ block: Int = 1) -> IPAddress {
    .v4(IPv4Address(rawValue: 0x0A00_0000 + UInt32(block) << 16 + UInt32(last)))
}

func service(
    _ text: String,
    clusterIP: IPAddress? = nil,
    configure: (inout ServiceObject) -> Void = { _ in }
)
    -> ClusterObject
{
    var object = ServiceObject(name: name(text))
    object.clusterIPs = clusterIP.map { [$0] } ?? []
    object.ports = [ServiceObject.Port(port: 80)]
    configure(&object)
    return .service(object)
}

func slice(
    _ text: String,
    of service: String,
    _ addresses: [IPAddress],
    port: UInt16 = 8080,
    node: String? = nil,
    zone: String? = nil,
    conditions: EndpointConditions = [.ready, .serving]
) -> ClusterObject {
    let endpoints = addresses.map { Endpoint(address: $0, conditions: conditions, nodeName: node, zone: zone) }
    let group = EndpointGroup(ports: [EndpointPort(port: port)], endpoints: endpoints)
    return .endpointSlice(EndpointSliceObject(name: name(text), serviceName: service, group: group))
}

func endpointsObject(_ text: String, _ addresses: [IPAddress], node: String? = nil) -> ClusterObject {
    let group = EndpointGroup(
        ports: [EndpointPort(port: 8080)],
        endpoints: addresses.map { Endpoint(address: $0, nodeName: node) }
    )
    return .endpoints(EndpointsObject(name: name(text), groups: [group]))
}

func node(_ text: String, zone: String?) -> ClusterObject {
    var object = NodeObject(name: text)
    object.zone = zone
    return .node(object)
}

func rule(_ text: String, host: String, _ simple: String? = "RANDOM") -> ClusterObject {
    var object = DestinationRuleObject(name: name(text), host: host)
    object.loadBalancer = simple.map { .simple($0) }
    return .destinationRule(object)
}

extension ClusterObject {
    var deletion: SourceEvent { .deleted(self.kind, self.name) }
    var upsert: SourceEvent { .upsert(self) }
}

extension CatalogSnapshot {
    func service(_ text: String) -> Service? { self.services[name(text)] }

    func addresses(_ text: String) -> [IPAddress] {
        (self.service(text)?.groups ?? []).flatMap { $0.endpoints.map(\.address) }
    }

    func rejection(_ kind: ObjectKind, _ text: String) -> RejectedObject? {
        self.rejected[RejectedKey(kind: kind, name: name(text))]
    }

    func warning(_ text: String) -> String? {
        self.warnings[RejectedKey(kind: .destinationRule, name: name(text))]
    }
}

/// What a subscriber was told.
final class UpdateLog: Sendable {
    private let updates = Mutex<[CatalogUpdate]>([])

    func record(_ update: CatalogUpdate) { self.updates.withLock { $0.append(update) } }
    /// The updates since the last call.
    func take() -> [CatalogUpdate] {
        self.updates.withLock { updates in
            defer { updates = [] }
            return updates
        }
    }
}

/// A clock that only tests move.
final class ManualClock: Sendable {
    private let time = Mutex(MonotonicTime(nanoseconds: 1_000_000_000))

    var now: MonotonicTime { self.time.withLock { $0 } }
    func advance(seconds: Int) { self.time.withLock { $0 = $0 + .seconds(seconds) } }
}
