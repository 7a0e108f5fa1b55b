import Multiformats
import Synchronization

/// What one stream holds of the host's limits, given back once. Confined to the stream's event loop.
final class StreamLease {
    private let connection: Connection
    private let direction: Direction
    private var protocolID: ProtocolID?
    private var isHeld = true

    init(_ direction: Direction, on connection: Connection) throws(LibP2PError) {
        self.connection = connection
        self.direction = direction
        try connection.host.resources.withLock { usage throws(LibP2PError) in
            try usage.addStream(direction, peer: connection.remotePeer)
        }
        connection.state.withLock { $0.streams += 1 }
    }

    /// The stream's protocol is known.
    func assign(_ protocolID: ProtocolID) throws(LibP2PError) {
        try self.connection.host.resources.withLock { usage throws(LibP2PError) in
            try usage.assignStream(self.direction, peer: self.connection.remotePeer, to: protocolID)
        }
        self.protocolID = protocolID
    }

    func release() {
        guard self.isHeld else { return }
        self.isHeld = false
        self.connection.host.resources.withLock { usage in
            usage.removeStream(self.direction, peer: self.connection.remotePeer, protocolID: self.protocolID)
        }
        self.connection.state.withLock { $0.streams -= 1 }
    }
}
