import GatewayRouting
import MeshCore
import NIOCore

/// Who asks: one request of a client, over whichever version of HTTP. Confined to its loop.
protocol Downstream: AnyObject {
    var isWritable: Bool { get }
    /// `Exchange.idledOut` is told if nothing comes to set it anew.
    func setDeadline(_ timeout: TimeAmount)
    func clearDeadline()
    /// Asks for more of the request's content; it comes to `Exchange.requestSent`, then `requestReadComplete`.
    func readRequest()
    func inform(_ head: ResponseHead)
    func answer(_ head: ResponseHead)
    func send(_ bytes: ByteBuffer)
    func flush()
    func end(_ trailers: HeaderFields?)
    /// The response cannot be completed: the client must not take it for whole.
    func abort()
    /// After 101: joins the connection with `channel`, whose first bytes are `received`.
    func join(_ channel: any Channel, received: ByteBuffer?)
}

/// The client's connection, as far as requests concern it. Confined to its loop.
final class ClientConnection {
    let address: TransportAddress
    /// The address without its port, as text.
    let host: String
    let isSecure: Bool
    /// Of the listener.
    let port: UInt16
    let rules: ConnectionRules

    init(address: TransportAddress, isSecure: Bool, port: UInt16, rules: ConnectionRules) {
        self.address = address
        self.host = "\(address.address)"
        self.isSecure = isSecure
        self.port = port
        self.rules = rules
    }
}

/// The rules for the requests of one connection: always those in force. Confined to the listener's loop.
final class ConnectionRules {
    private let listener: ListenerState
    private let serverName: String?
    private var generation: UInt64
    private var names: [HostPattern]?
    private var table: RouteTable?
    /// Of the last request: nearly all of a connection name the same host.
    private var last: (authority: String, place: Place?)?

    /// Where the requests for a host belong.
    struct Place {
        var name: String
        /// Whether they may come by this connection. A client must not reach by one name's TLS what another's guards.
        var isServed: Bool
        /// The rules of all hosts, and the position of this one; nil without any for it.
        var rules: (table: RouteTable, host: Int)?
    }

    /// - Parameter serverName: what a TLS client asked for.
    init(_ listener: ListenerState, serverName: String? = nil) {
        self.listener = listener
        self.serverName = serverName
        self.generation = listener.generation
        self.load()
    }

    /// Nil if the authority is no host.
    func place(of authority: String) -> Place? {
        if self.generation != self.listener.generation {
            self.generation = self.listener.generation
            self.load()
        }
        if let last, last.authority == authority { return last.place }
        let place = self.find(authority)
        self.last = (authority, place)
        return place
    }

    private func find(_ authority: String) -> Place? {
        guard let name = RequestHost(authority)?.name else { return nil }
        let isServed = self.names?.contains { $0.matches(name) } ?? true
        var place = Place(name: name, isServed: isServed)
        if let table, let host = table.position(of: name) { place.rules = (table, host) }
        return place
    }

    private func load() {
        self.last = nil
        self.names = nil
        self.table = nil
        switch self.listener.service {
        case .http: self.table = self.listener.tables[0]
        case .tls(let servers):
            guard let index = self.listener.names.position(of: self.serverName),
                let table = self.listener.tables[index]
            else { return }
            self.names = servers[index].hosts
            self.table = table
        case .stream: break
        }
    }
}

/// What a listener serves now. Confined to its loop.
final class ListenerState {
    /// Zero until the kernel has chosen one, if it is to.
    var port: UInt16
    private(set) var service: ListenerPlan.Service
    private(set) var names: TLSNames
    /// Of HTTP, or of each server behind TLS that is HTTP.
    private(set) var tables: [Int: RouteTable]
    private(set) var generation: UInt64 = 0

    init(port: UInt16, service: ListenerPlan.Service) {
        self.port = port
        self.service = service
        self.names = Self.names(service)
        self.tables = Self.tables(service)
    }

    func replace(_ service: ListenerPlan.Service) {
        self.service = service
        self.names = Self.names(service)
        self.tables = Self.tables(service)
        self.generation += 1
    }

    private static func names(_ service: ListenerPlan.Service) -> TLSNames {
        if case .tls(let servers) = service { TLSNames(servers) } else { TLSNames([]) }
    }

    private static func tables(_ service: ListenerPlan.Service) -> [Int: RouteTable] {
        var tables: [Int: RouteTable] = [:]
        switch service {
        case .http(let hosts): tables[0] = RouteTable(hosts)
        case .tls(let servers):
            for (index, server) in servers.enumerated() {
                if case .http(let hosts) = server.service { tables[index] = RouteTable(hosts) }
            }
        case .stream: break
        }
        return tables
    }
}
