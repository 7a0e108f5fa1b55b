import LibP2P
import Multiformats
import NIOCore

/// The stream protocols of the tunnel, and what their messages have in common: protobuf behind its length as a varint.
enum TunnelProtocol {
    /// Ours: `docs/protocols/flow.md`.
    static let flow: ProtocolID = "/edgemesh/flow/1.0.0"
    /// Ours: `docs/protocols/packets.md`.
    static let packets: ProtocolID = "/edgemesh/packets/1.0.0"
    /// Ours: `docs/protocols/packet-datagrams.md`. No stream has it; who offers it understands what is said in a channel of packets.
    static let packetDatagrams: ProtocolID = "/edgemesh/packet-datagrams/1.0.0"
    /// Those of kubeedge/edgemesh v1.17.
    static let discovery: ProtocolID = "/libp2p/tunnel-discovery/1.0.0"
    static let proxy: ProtocolID = "/libp2p/tunnel-proxy/1.0.0"
    static let originalPackets: ProtocolID = "/libp2p/tunnel-cni/1.0.0"

    /// The longest message that is read.
    static let maximumMessageLength = 4096
}

/// A message that a stream of the tunnel begins with.
protocol TunnelMessage {
    /// - Throws: what cannot be mended by more bytes.
    init(_ buffer: ByteBuffer) throws(MultiformatsError)
    var buffer: ByteBuffer { get }
}

extension TunnelMessage {
    /// The message behind its length.
    var framed: ByteBuffer {
        var framed = ByteBuffer()
        framed.writeVarintPrefixed(self.buffer)
        return framed
    }
}

extension ProtobufReader.Field {
    /// The value of a field of type `int32`.
    func int32() throws(MultiformatsError) -> Int32 {
        guard let value = Int32(exactly: try self.int64()) else {
            throw MultiformatsError(code: .malformed, message: "field \(self.number) does not fit into 32 bits")
        }
        return value
    }
}
