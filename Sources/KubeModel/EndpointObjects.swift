public import MeshCore

/// The three conditions of an EndpointSlice endpoint.
public struct EndpointConditions: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public static let ready = EndpointConditions(rawValue: 1)
    public static let serving = EndpointConditions(rawValue: 2)
    public static let terminating = EndpointConditions(rawValue: 4)

    public init(rawValue: UInt8) { self.rawValue = rawValue }
}

/// One backend address of a service, without ports.
public struct Endpoint: Hashable, Sendable {
    public var address: IPAddress
    public var conditions: EndpointConditions
    /// The node it runs on; nil if the object does not say.
    public var nodeName: String?
    public var zone: String?
    /// The DNS label of this endpoint in a headless service, if it has one.
    public var hostname: String?
    /// The pod behind it, if the object says.
    public var podName: String?
    /// `hints.forZones`; empty if there are none.
    public var zoneHints: [String]

    public init(
        address: IPAddress,
        conditions: EndpointConditions = [.ready, .serving],
        nodeName: String? = nil,
        zone: String? = nil,
        hostname: String? = nil,
        podName: String? = nil,
        zoneHints: [String] = []
    ) {
        self.address = address
        self.conditions = conditions
        self.nodeName = nodeName
        self.zone = zone
        self.hostname = hostname
        self.podName = podName
        self.zoneHints = zoneHints
    }
}

/// A port of an endpoint group; `port` is the number that the backends listen on.
public struct EndpointPort: Hashable, Sendable {
    public var name: String
    public var transport: TransportProtocol
    public var port: UInt16
    public var appProtocol: String?

    public init(name: String = "", transport: TransportProtocol = .tcp, port: UInt16, appProtocol: String? = nil) {
        self.name = name
        self.transport = transport
        self.port = port
        self.appProtocol = appProtocol
    }
}

/// Endpoints that share their ports: an EndpointSlice, or a subset of an Endpoints object.
public struct EndpointGroup: Hashable, Sendable {
    public var ports: [EndpointPort]
    public var endpoints: [Endpoint]

    public init(ports: [EndpointPort], endpoints: [Endpoint]) {
        self.ports = ports
        self.endpoints = endpoints
    }
}

/// discovery.k8s.io/v1 EndpointSlice.
public struct EndpointSliceObject: Hashable, Sendable {
    public var name: ObjectName
    /// The service it belongs to, by the label `kubernetes.io/service-name`, in the slice's namespace.
    public var serviceName: String
    public var group: EndpointGroup

    public init(name: ObjectName, serviceName: String, group: EndpointGroup) {
        self.name = name
        self.serviceName = serviceName
        self.group = group
    }
}

/// core/v1 Endpoints; its name is that of its service. `notReadyAddresses` become endpoints without `.ready`.
public struct EndpointsObject: Hashable, Sendable {
    public var name: ObjectName
    public var groups: [EndpointGroup]

    public init(name: ObjectName, groups: [EndpointGroup]) {
        self.name = name
        self.groups = groups
    }
}
