import Logging
import MeshCore
public import Multiformats
import NIOCore
import Synchronization

extension Host {
    // MARK: Listening

    /// Listens on an address, too. A port of 0 is chosen by the system, a wildcard stands for the addresses of all interfaces.
    public func listen(on address: Multiaddr) async throws {
        let transport = try self.state.withLock { state in
            guard state.phase == .running else { throw LibP2PError.shutDown }
            return state.transports.first { $0.canListen(on: address) }
        }
        guard let transport else {
            throw LibP2PError(code: .listenFailed, message: "no transport of this host listens on \(address)")
        }
        let listener: any TransportListener
        do {
            listener = try await transport.listen(on: address, group: self.group) { [weak self] raw in
                guard let self else { return raw.channel.close(promise: nil) }
                self.accept(raw)
            }.get()
        } catch {
            throw LibP2PError(code: .listenFailed, message: "cannot listen on \(address)", cause: error)
        }
        let isRunning = self.state.withLock { state in
            guard state.phase == .running else { return false }
            state.listeners.append(HostState.Listener(listener: listener, requested: address))
            return true
        }
        guard isRunning else {
            try? await listener.close().get()
            throw LibP2PError.shutDown
        }
        self.logger.info("listening", metadata: ["address": "\(listener.address)"])
        self.refreshAddresses()
    }

    /// Stops to listen on an address that `listen(on:)` was given; connections stay.
    public func stopListening(on address: Multiaddr) async {
        let listener = self.state.withLock { state -> (any TransportListener)? in
            guard let index = state.listeners.firstIndex(where: { $0.requested == address }) else { return nil }
            return state.listeners.remove(at: index).listener
        }
        try? await listener?.close().get()
        self.refreshAddresses()
    }

    // MARK: Addresses

    /// Where the host listens: wildcards expanded to the addresses of interfaces, without the peer ID.
    public var listenAddresses: [Multiaddr] { self.state.withLock { $0.listenAddresses } }

    /// Where the host listens, as its sockets are bound: a wildcard stays one.
    public var boundAddresses: [Multiaddr] { self.state.withLock { $0.listeners.map(\.listener.address) } }

    /// What the host tells others: listening and advertised addresses, after the configured filter; without the peer ID.
    public var advertisedAddresses: [Multiaddr] { self.state.withLock { $0.advertisedAddresses } }

    /// Sets the addresses that one source adds to those that are advertised: observed ones, mapped ports, circuits of
    /// relays. An empty list takes the source away.
    public func advertise(_ addresses: [Multiaddr], source: String) {
        self.state.withLock { $0.advertisedBySource[source] = addresses.isEmpty ? nil : addresses }
        self.refreshAddresses()
    }

    /// Looks again at interfaces, listeners and sources. Also done now and then, as interfaces come and go.
    public func refreshAddresses() {
        let (bound, added, before) = self.state.withLock { state in
            let added = state.advertisedBySource.sorted { $0.key < $1.key }.flatMap(\.value)
            return (state.listeners.map(\.listener.address), added, state.advertisedAddresses)
        }
        let interfaces = self.configuration.interfaces.addresses().filter(self.configuration.interfaceFilter)
        var listening: [Multiaddr] = []
        for address in bound.flatMap({ Self.expand($0, interfaces) }) where !listening.contains(address) {
            listening.append(address)
        }
        var advertised: [Multiaddr] = []
        for address in self.configuration.addressFilter(listening + added) where !advertised.contains(address) {
            advertised.append(address)
        }
        self.state.withLock { state in
            state.listenAddresses = listening
            state.advertisedAddresses = advertised
        }
        guard advertised != before else { return }
        self.emit(.addressesChanged(advertised))
        self.identityChanged()
    }

    /// The addresses of interfaces that a wildcard stands for; another address stands for itself.
    static func expand(_ address: Multiaddr, _ interfaces: [InterfaceAddress]) -> [Multiaddr] {
        guard let ip = address.ipAddress, ip.isUnspecified else { return [address] }
        let rest = Array(address.components.dropFirst())
        return interfaces.compactMap { interface in
            switch (ip, interface.address) {
            case (.v4, .v4(let v4)): Multiaddr([.ip4(v4)] + rest)
            case (.v6, .v6(let v6)): Multiaddr([.ip6(v6)] + rest)
            default: nil
            }
        }
    }
}

extension LibP2PError {
    static let shutDown = LibP2PError(code: .shutDown, message: "the host is shut down")
}
