import GatewayRouting
import MeshCore
import NIOCore

/// Who asks: one request of a client, over whichever version of HTTP. Confined to its loop.
protocol Downstream: AnyObject {
    var isWritable: Bool { get }
    /// Of a connection with one request after the other: the present one sets it, and is told by `Exchange.idledOut`. Nil if
    /// each request is to have its own.
    var deadline: LazyDeadline? { get }
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

/// The client's connection, as far as requests concern it.
struct ClientConnection {
    let address: TransportAddress
    /// The address without its port, as text.
    let host: String
    var isSecure: Bool
    /// Of the listener.
    var port: UInt16
    var rules: ConnectionRules

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
    private var present = HTTPHosts()

    var hosts: HTTPHosts {
        self.renew()
        return self.present
    }

    /// - Parameter serverName: what a TLS client asked for.
    init(_ listener: ListenerState, serverName: String? = nil) {
        self.listener = listener
        self.serverName = serverName
        self.generation = listener.generation
        self.load()
    }

    /// Whether requests for a host may come by this connection. A client must not reach by one name's TLS what another's guards.
    func serves(_ name: String) -> Bool {
        self.renew()
        return self.names?.contains { $0.matches(name) } ?? true
    }

    private func renew() {
        guard self.generation != self.listener.generation else { return }
        self.generation = self.listener.generation
        self.load()
    }

    private func load() {
        self.names = nil
        self.present = HTTPHosts()
        switch self.listener.service {
        case .http(let hosts): self.present = hosts
        case .tls(let servers):
            guard let server = TLSServer.best(of: servers, for: self.serverName), case .http(let hosts) = server.service
            else { return }
            self.names = server.hosts
            self.present = hosts
        case .stream: break
        }
    }
}

/// What a listener serves now. Confined to its loop.
final class ListenerState {
    /// Zero until the kernel has chosen one, if it is to.
    var port: UInt16
    private(set) var service: ListenerPlan.Service
    private(set) var generation: UInt64 = 0

    init(port: UInt16, service: ListenerPlan.Service) {
        self.port = port
        self.service = service
    }

    func replace(_ service: ListenerPlan.Service) {
        self.service = service
        self.generation += 1
    }
}
