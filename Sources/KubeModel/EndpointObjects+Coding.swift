import Documents
import MeshCore

extension EndpointsObject {
    init(_ object: FieldReader, name: ObjectName) throws(ObjectError) {
        var groups: [EndpointGroup] = []
        for subset in try object["subsets"].elements() {
            var endpoints: [Endpoint] = []
            for address in try subset["addresses"].elements() {
                endpoints.append(try Self.endpoint(address, conditions: [.ready, .serving]))
            }
            for address in try subset["notReadyAddresses"].elements() {
                endpoints.append(try Self.endpoint(address, conditions: []))
            }
            groups.append(EndpointGroup(ports: try EndpointPort.list(subset["ports"]), endpoints: endpoints))
        }
        self.init(name: name, groups: groups)
    }

    private static func endpoint(
        _ field: FieldReader,
        conditions: EndpointConditions
    ) throws(ObjectError) -> Endpoint {
        Endpoint(
            address: try field["ip"].require(field["ip"].address(), "an IPv4 or IPv6 address"),
            conditions: conditions,
            nodeName: try field["nodeName"].nonEmptyString(),
            hostname: try field["hostname"].nonEmptyString(),
            podName: try field["targetRef"].podName()
        )
    }

    var fields: KubeFields {
        var fields = KubeFields()
        fields.set(
            "subsets",
            self.groups.map { group in
                var subset = KubeFields()
                subset.set("addresses", group.endpoints.filter { $0.conditions.contains(.ready) }.map(Self.document))
                subset.set(
                    "notReadyAddresses",
                    group.endpoints.filter { !$0.conditions.contains(.ready) }.map(Self.document)
                )
                subset.set("ports", group.ports.map(\.document))
                return subset.document
            }
        )
        return fields
    }

    private static func document(_ endpoint: Endpoint) -> Document {
        var fields = KubeFields()
        fields.set("ip", endpoint.address.description)
        fields.set("hostname", endpoint.hostname)
        fields.set("nodeName", endpoint.nodeName)
        fields.setPodReference(endpoint.podName)
        return fields.document
    }
}

extension EndpointSliceObject {
    static let serviceLabel = "kubernetes.io/service-name"

    /// Nil if the slice belongs to no service.
    init?(_ object: FieldReader, name: ObjectName) throws(ObjectError) {
        guard let service = try object["metadata"]["labels"][Self.serviceLabel].nonEmptyString() else { return nil }
        if try object["addressType"].string() == "FQDN" {
            throw try object["addressType"].badValue("IPv4, IPv6 (the mesh dials addresses, not names)")
        }
        var endpoints: [Endpoint] = []
        for field in try object["endpoints"].elements() { endpoints.append(try Self.endpoint(field)) }
        let group = EndpointGroup(ports: try EndpointPort.list(object["ports"]), endpoints: endpoints)
        self.init(name: name, serviceName: service, group: group)
    }

    private static func endpoint(_ field: FieldReader) throws(ObjectError) -> Endpoint {
        // Several addresses are the same endpoint; consumers use the first (the API's own words).
        let addresses = try field["addresses"]
        guard let first = try addresses.elements().first, let address = try first.address() else {
            throw try addresses.require(nil as ObjectError?, "a list of one address")
        }
        let conditions = try field["conditions"]
        let isReady = try conditions["ready"].bool() ?? true
        var set: EndpointConditions = isReady ? .ready : []
        if try conditions["serving"].bool() ?? isReady { set.insert(.serving) }
        if try conditions["terminating"].bool() ?? false { set.insert(.terminating) }
        // v1beta1 had the node and the zone in a map.
        let topology = try field["topology"]
        let olderNode = try topology["kubernetes.io/hostname"].nonEmptyString()
        let olderZone = try topology[NodeObject.zoneLabel].nonEmptyString()
        var hints: [String] = []
        for zone in try field["hints"]["forZones"].elements() {
            if let name = try zone["name"].nonEmptyString() { hints.append(name) }
        }
        return Endpoint(
            address: address,
            conditions: set,
            nodeName: try field["nodeName"].nonEmptyString() ?? olderNode,
            zone: try field["zone"].nonEmptyString() ?? olderZone,
            hostname: try field["hostname"].nonEmptyString(),
            podName: try field["targetRef"].podName(),
            zoneHints: hints
        )
    }

    var fields: KubeFields {
        var fields = KubeFields()
        fields.set("addressType", self.group.endpoints.first?.address.family == .v6 ? "IPv6" : "IPv4")
        fields.set("ports", self.group.ports.map(\.document))
        fields.set("endpoints", self.group.endpoints.map(Self.document))
        return fields
    }

    private static func document(_ endpoint: Endpoint) -> Document {
        var fields = KubeFields()
        fields.set("addresses", texts: [endpoint.address])
        fields.set(
            "conditions",
            [
                "ready": .init(.bool(endpoint.conditions.contains(.ready))),
                "serving": .init(.bool(endpoint.conditions.contains(.serving))),
                "terminating": .init(.bool(endpoint.conditions.contains(.terminating))),
            ] as Document
        )
        fields.set("nodeName", endpoint.nodeName)
        fields.set("zone", endpoint.zone)
        fields.set("hostname", endpoint.hostname)
        fields.setPodReference(endpoint.podName)
        if !endpoint.zoneHints.isEmpty {
            let zones = endpoint.zoneHints.map { ["name": .string($0)] as Document }
            fields.set("hints", ["forZones": .array(zones)] as Document)
        }
        return fields.document
    }
}

extension EndpointPort {
    fileprivate static func list(_ field: FieldReader) throws(ObjectError) -> [EndpointPort] {
        var ports: [EndpointPort] = []
        for element in try field.elements() {
            // A port without a number stands for all ports, which no service port can name.
            guard let number = try element["port"].port() else { continue }
            ports.append(
                EndpointPort(
                    name: try element["name"].string() ?? "",
                    transport: try element["protocol"].transport() ?? .tcp,
                    port: number,
                    appProtocol: try element["appProtocol"].nonEmptyString()
                )
            )
        }
        return ports
    }

    fileprivate var document: Document {
        var fields = KubeFields()
        fields.set("name", self.name)
        fields.set("protocol", self.transport.apiName)
        fields.set("port", self.port)
        fields.set("appProtocol", self.appProtocol)
        return fields.document
    }
}

extension FieldReader {
    fileprivate func podName() throws(ObjectError) -> String? {
        try self["kind"].string() == "Pod" ? self["name"].nonEmptyString() : nil
    }
}

extension KubeFields {
    fileprivate mutating func setPodReference(_ name: String?) {
        if let name { self.set("targetRef", ["kind": "Pod", "name": .string(name)] as Document) }
    }
}
