public import MeshCore
public import NIOCore

/// How ports are mapped at the gateway of the network.
public struct PortMappingConfiguration: Sendable {
    public enum Method: Sendable, Hashable, CaseIterable {
        /// RFC 6887.
        case pcp
        /// RFC 6886.
        case natPMP
        /// UPnP's Internet Gateway Device.
        case upnp
    }

    /// In the order in which they are tried; the one that works is kept to.
    public var methods = Method.allCases
    /// What is asked for; a gateway may grant less.
    public var lifetime: TimeAmount = .hours(2)
    /// Mappings are renewed at half their life, and at least this often: a gateway that was started anew has forgotten them.
    public var renewalInterval: TimeAmount = .minutes(10)
    /// After a pass in which something failed; doubled each time up to `renewalInterval`.
    public var retryInterval: TimeAmount = .seconds(30)
    /// Datagrams of one request before a gateway counts as silent: 4 take 4 s.
    public var tries = 4
    public var httpTimeout: TimeAmount = .seconds(5)
    /// Ports that are mapped at most.
    public var maximumMappings = 8
    /// External addresses that are private are advertised, too: the gateway is itself behind a NAT.
    public var advertisesPrivate = false
    /// Where the gateway is; asked at each pass.
    public var gateway: @Sendable () -> IPv4Address? = { DefaultGateway.find() }

    /// For tests, where a gateway is a server on this machine.
    var gatewayPort = UInt16(PCP.port)
    var searchAddress: TransportAddress?
    var mapsLoopback = false

    public init() {}
}

/// A port of the gateway that leads to one of this host's.
public struct PortMapping: Sendable, Hashable {
    public let method: PortMappingConfiguration.Method
    public let internalAddress: TransportAddress
    public let externalAddress: TransportAddress
    public let gateway: IPv4Address
    /// Zero for ever.
    public let lifetime: TimeAmount

    /// What is needed to take it away.
    enum Handle: Sendable, Hashable {
        case nonce([UInt8])
        case none
        case service(UPnP.Service)
    }

    let handle: Handle
}
