import Multiformats

/// What connections and streams are open, against the limits. Pure; entries of scopes vanish with their last user.
struct ResourceUsage {
    struct Counts {
        var inbound = 0
        var outbound = 0

        var isEmpty: Bool { self.inbound == 0 && self.outbound == 0 }

        subscript(direction: Direction) -> Int {
            get { direction == .inbound ? self.inbound : self.outbound }
            set {
                switch direction {
                case .inbound: self.inbound = newValue
                case .outbound: self.outbound = newValue
                }
            }
        }
    }

    struct ProtocolPeer: Hashable {
        let protocolID: ProtocolID
        let peer: PeerID
    }

    let limits: ResourceLimits
    private(set) var connections = Counts()
    private var inboundConnections: Admission
    private(set) var streams = Counts()
    private(set) var memory = 0
    /// Since the beginning.
    private(set) var opened: (inbound: UInt64, outbound: UInt64) = (0, 0)
    private(set) var streamsRefused: UInt64 = 0
    private var peerConnections: [PeerID: Counts] = [:]
    private var peerStreams: [PeerID: Counts] = [:]
    private var negotiating: [PeerID: Int] = [:]
    private var protocolStreams: [ProtocolID: Counts] = [:]
    private var protocolPeerStreams: [ProtocolPeer: Counts] = [:]
    /// What handlers bound themselves, where the limits say nothing of their protocols.
    private var handlerBounds: [ProtocolID: HandlerOptions.Bounds] = [:]

    init(limits: ResourceLimits) {
        self.limits = limits
        self.inboundConnections = Admission(
            of: "inbound connections",
            maximum: limits.systemConnections.inbound,
            perAddress: limits.connectionsPerAddress
        )
    }

    /// Scopes that hold something; zero when nothing is open.
    var scopeCount: Int {
        self.peerConnections.count + self.peerStreams.count + self.negotiating.count + self.protocolStreams.count
            + self.protocolPeerStreams.count + self.inboundConnections.addressCount
    }

    // MARK: Connections

    /// Takes a connection of the system's scope and, if it is inbound, of its address's. The peer is not known yet.
    mutating func addConnection(_ direction: Direction, with address: Multiaddr) throws(LibP2PError) {
        let limit = self.limits.systemConnections[direction]
        guard self.connections[direction] < limit else {
            throw Self.exceeded("\(limit) \(direction) connections in all", "systemConnections")
        }
        if direction == .inbound { try self.inboundConnections.admit(address) }
        do throws(LibP2PError) {
            try self.takeMemory(self.limits.bytesPerConnection)
        } catch {
            if direction == .inbound { self.inboundConnections.leave(address) }
            throw error
        }
        self.connections[direction] += 1
    }

    mutating func removeConnection(_ direction: Direction, with address: Multiaddr) {
        if direction == .inbound { self.inboundConnections.leave(address) }
        self.connections[direction] -= 1
        self.memory -= self.limits.bytesPerConnection
    }

    mutating func assignConnection(_ direction: Direction, to peer: PeerID) throws(LibP2PError) {
        let limit = self.limits.peerConnections[direction]
        guard self.peerConnections[peer, default: Counts()][direction] < limit else {
            throw Self.exceeded("\(limit) \(direction) connections of peer \(peer)", "peerConnections")
        }
        self.peerConnections[peer, default: Counts()][direction] += 1
    }

    mutating func unassignConnection(_ direction: Direction, of peer: PeerID) {
        Self.decrement(&self.peerConnections, peer, direction)
    }

    // MARK: Streams

    /// Bounds the inbound streams of a protocol from now on; nil for the limits of any protocol.
    mutating func bound(_ protocolID: ProtocolID, to bounds: HandlerOptions.Bounds?) {
        self.handlerBounds[protocolID] = bounds
    }

    /// Takes a stream of the system's and the peer's scope. An inbound one counts as negotiating until it has a protocol.
    mutating func addStream(_ direction: Direction, peer: PeerID) throws(LibP2PError) {
        do throws(LibP2PError) {
            try self.checkStream(direction, peer: peer)
            try self.takeMemory(self.limits.bytesPerStream)
        } catch {
            self.streamsRefused += 1
            throw error
        }
        switch direction {
        case .inbound:
            self.opened.inbound += 1
            self.negotiating[peer, default: 0] += 1
        case .outbound:
            self.opened.outbound += 1
        }
        self.streams[direction] += 1
        self.peerStreams[peer, default: Counts()][direction] += 1
    }

    private func checkStream(_ direction: Direction, peer: PeerID) throws(LibP2PError) {
        let system = self.limits.systemStreams[direction]
        guard self.streams[direction] < system else {
            throw Self.exceeded("\(system) \(direction) streams in all", "systemStreams")
        }
        let ofPeer = self.limits.peerStreams[direction]
        guard self.peerStreams[peer, default: Counts()][direction] < ofPeer else {
            throw Self.exceeded("\(ofPeer) \(direction) streams of peer \(peer)", "peerStreams")
        }
        if direction == .inbound {
            guard self.negotiating[peer, default: 0] < self.limits.negotiatingStreams else {
                throw Self.exceeded(
                    "\(self.limits.negotiatingStreams) streams of peer \(peer) without a protocol",
                    "negotiatingStreams"
                )
            }
        }
    }

    /// The protocol of a stream is agreed upon.
    mutating func assignStream(_ direction: Direction, peer: PeerID, to protocolID: ProtocolID) throws(LibP2PError) {
        let bounds = direction == .inbound ? self.handlerBounds[protocolID] : nil
        let ofProtocol =
            self.limits.protocols[protocolID]?[direction] ?? bounds?.streams ?? self.limits.protocolStreams[direction]
        guard self.protocolStreams[protocolID, default: Counts()][direction] < ofProtocol else {
            self.streamsRefused += 1
            throw Self.exceeded("\(ofProtocol) \(direction) streams of \(protocolID)", "protocolStreams")
        }
        let both = ProtocolPeer(protocolID: protocolID, peer: peer)
        let ofBoth =
            self.limits.peerProtocols[protocolID]?[direction] ?? bounds?.perPeer
            ?? self.limits.protocolPeerStreams[direction]
        guard self.protocolPeerStreams[both, default: Counts()][direction] < ofBoth else {
            self.streamsRefused += 1
            throw Self.exceeded("\(ofBoth) \(direction) streams of \(protocolID) with \(peer)", "protocolPeerStreams")
        }
        if direction == .inbound { self.endNegotiation(peer) }
        self.protocolStreams[protocolID, default: Counts()][direction] += 1
        self.protocolPeerStreams[both, default: Counts()][direction] += 1
    }

    mutating func removeStream(_ direction: Direction, peer: PeerID, protocolID: ProtocolID?) {
        self.streams[direction] -= 1
        self.memory -= self.limits.bytesPerStream
        Self.decrement(&self.peerStreams, peer, direction)
        if let protocolID {
            Self.decrement(&self.protocolStreams, protocolID, direction)
            Self.decrement(&self.protocolPeerStreams, ProtocolPeer(protocolID: protocolID, peer: peer), direction)
        } else if direction == .inbound {
            self.endNegotiation(peer)
        }
    }

    // MARK: Parts

    private mutating func endNegotiation(_ peer: PeerID) {
        guard let count = self.negotiating[peer] else { return }
        self.negotiating[peer] = count > 1 ? count - 1 : nil
    }

    private mutating func takeMemory(_ bytes: Int) throws(LibP2PError) {
        guard self.memory + bytes <= self.limits.memoryBytes else {
            throw Self.exceeded("\(self.limits.memoryBytes) bytes for connections and streams", "memoryBytes")
        }
        self.memory += bytes
    }

    private static func decrement<Key: Hashable>(_ scopes: inout [Key: Counts], _ key: Key, _ direction: Direction) {
        guard var counts = scopes[key] else { return }
        counts[direction] -= 1
        scopes[key] = counts.isEmpty ? nil : counts
    }

    private static func exceeded(_ what: String, _ setting: String) -> LibP2PError {
        LibP2PError(code: .limitExceeded, message: "the limit of \(what) is reached (limits.\(setting))")
    }
}

extension ResourceLimits.Streams {
    subscript(direction: Direction) -> Int { direction == .inbound ? self.inbound : self.outbound }
}

extension ResourceLimits.Connections {
    subscript(direction: Direction) -> Int { direction == .inbound ? self.inbound : self.outbound }
}
