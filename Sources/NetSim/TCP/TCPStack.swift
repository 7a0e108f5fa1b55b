import Glibc
import MeshCore
import NIOCore

/// The connections and listeners of one machine. Confined to the simulation's loop.
final class TCPStack {
    struct Tuple: Hashable {
        let local: TransportAddress
        let remote: TransportAddress
    }

    private(set) var sockets: [Tuple: TCPSocket] = [:]
    private var listeners: [TCPListener] = []
    private var ports = PortTable()
    var configuration = TCPConfiguration()
    unowned let machine: Machine

    init(machine: Machine) {
        self.machine = machine
    }

    var loop: SimulatedLoop { self.machine.simulation.loop }

    func send(_ packet: Packet) { self.machine.send(packet) }

    // MARK: Sockets

    /// Opens a connection, from `local` if it is given, of which address or port may be left open.
    func connect(to remote: TransportAddress, from local: TransportAddress?, reuse: Bool) throws -> TCPSocket {
        guard let source = self.machine.source(for: remote.address) else {
            throw IOError(errnoCode: ENETUNREACH, reason: "connect")
        }
        var address = source
        var binding: PortTable.Binding?
        var port = local?.port ?? 0
        if let local, !local.address.isUnspecified {
            guard self.machine.has(local.address) else { throw IOError(errnoCode: EADDRNOTAVAIL, reason: "bind") }
            address = local.address
        }
        if port == 0 {
            binding = self.ports.bindEphemeral(address, reuse: reuse, using: &self.machine.simulation.generator)
            guard let binding else { throw IOError(errnoCode: EADDRNOTAVAIL, reason: "connect") }
            port = binding.port
        } else {
            let wanted = PortTable.Binding(address: local?.address ?? address, port: port, reuse: reuse)
            guard self.ports.bind(wanted) else { throw IOError(errnoCode: EADDRINUSE, reason: "bind") }
            binding = wanted
        }
        let tuple = Tuple(local: TransportAddress(address, port), remote: remote)
        guard self.sockets[tuple] == nil else {
            if let binding { self.ports.unbind(binding) }
            throw IOError(errnoCode: EADDRNOTAVAIL, reason: "connect")
        }
        return self.add(
            tuple,
            binding,
            TCPEndpoint(
                connectingAt: self.loop.now,
                initialSequence: self.initialSequence(),
                configuration: self.configuration
            )
        )
    }

    func listen(
        on address: TransportAddress,
        reuse: Bool,
        accept: @escaping (TCPSocket) -> Void
    ) throws -> TCPListener {
        let binding = try self.machine.bind(address, reuse: reuse, in: &self.ports)
        let listener = TCPListener(binding: binding, stack: self, accept: accept)
        self.listeners.append(listener)
        return listener
    }

    fileprivate func remove(_ listener: TCPListener) {
        guard let index = self.listeners.firstIndex(where: { $0 === listener }) else { return }
        self.listeners.remove(at: index)
        self.ports.unbind(listener.binding)
    }

    private func add(_ tuple: Tuple, _ binding: PortTable.Binding?, _ endpoint: TCPEndpoint) -> TCPSocket {
        let socket = TCPSocket(
            local: tuple.local,
            remote: tuple.remote,
            binding: binding,
            endpoint: endpoint,
            stack: self
        )
        self.sockets[tuple] = socket
        return socket
    }

    func remove(_ socket: TCPSocket) {
        let tuple = Tuple(local: socket.local, remote: socket.remote)
        guard self.sockets[tuple] === socket else { return }
        self.sockets[tuple] = nil
        if let binding = socket.binding { self.ports.unbind(binding) }
    }

    private func initialSequence() -> UInt64 {
        UInt64(UInt32.random(in: 1...UInt32.max, using: &self.machine.simulation.generator))
    }

    // MARK: Packets

    func receive(_ segment: TCPSegment, _ packet: Packet) {
        let tuple = Tuple(local: packet.destination, remote: packet.source)
        if let socket = self.sockets[tuple] {
            // A new connection may take the place of one that only lingers (RFC 9293 section 3.10.7.4).
            guard segment.flags == .syn, socket.endpoint.state == .timeWait else { return socket.receive(segment) }
            self.remove(socket)
        }
        guard segment.flags == .syn, let listener = self.listener(for: packet.destination) else {
            if self.machine.answersClosedPorts, let refusal = packet.refusal { self.send(refusal) }
            return
        }
        let socket = self.add(
            tuple,
            nil,
            TCPEndpoint(
                accepting: segment,
                at: self.loop.now,
                initialSequence: self.initialSequence(),
                configuration: self.configuration
            )
        )
        socket.user = PendingAccept(socket: socket, listener: listener)
        socket.open()
    }

    /// A listener of the address itself comes before one of all addresses.
    private func listener(for address: TransportAddress) -> TCPListener? {
        let fitting = self.listeners.filter {
            $0.binding.port == address.port && $0.binding.address.family == address.address.family
        }
        return fitting.first { $0.binding.address == address.address }
            ?? fitting.first { $0.binding.address.isUnspecified }
    }

    func unreachable(_ about: Unreachable) {
        self.sockets[Tuple(local: about.source, remote: about.destination)]?.unreachable(about.reason)
    }

    /// Ends everything without a word to anyone.
    func crash() {
        for listener in self.listeners { listener.close() }
        let sockets = self.sockets.values.sorted { ($0.local, $0.remote) < ($1.local, $1.remote) }
        for socket in sockets { socket.vanish() }
    }
}

/// A listening socket. Confined to the simulation's loop.
final class TCPListener {
    let binding: PortTable.Binding
    let accept: (TCPSocket) -> Void
    private(set) var isOpen = true
    private unowned let stack: TCPStack

    fileprivate init(binding: PortTable.Binding, stack: TCPStack, accept: @escaping (TCPSocket) -> Void) {
        self.binding = binding
        self.stack = stack
        self.accept = accept
    }

    var address: TransportAddress { TransportAddress(self.binding.address, self.binding.port) }

    func close() {
        guard self.isOpen else { return }
        self.isOpen = false
        self.stack.remove(self)
    }
}

/// Gives a connection to its listener when it is established.
private final class PendingAccept: TCPSocketUser {
    private unowned let socket: TCPSocket
    private let listener: TCPListener

    init(socket: TCPSocket, listener: TCPListener) {
        self.socket = socket
        self.listener = listener
    }

    func handle(_ event: TCPEndpoint.Event) {
        guard event == .connected else { return }
        if self.listener.isOpen { self.listener.accept(self.socket) } else { self.socket.close(reset: true) }
    }
}
