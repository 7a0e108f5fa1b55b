import Multiformats
import NIOCore
import PeerIdentity

/// The message of `/ipfs/id/1.0.0` and `/ipfs/id/push/1.0.0` (libp2p/specs, identify).
///
/// A sender may spread its fields over several messages; they are merged, lists by appending.
struct IdentifyMessage: Equatable {
    /// The longest message that is taken.
    static let maximumLength = 8 * 1024
    /// The most messages of one exchange.
    static let maximumMessages = 10
    /// What is read of a peer in one exchange. Honest messages have a few kilobytes.
    static let maximumExchange = 32 * 1024
    static let maximumAddresses = 128
    /// Longer addresses are left out.
    static let maximumAddressLength = 512
    static let maximumProtocols = 512
    /// Up to this size a message holds the signed record, too; old implementations read no more at once.
    static let singleMessageLength = 2 * 1024

    var publicKey: [UInt8]?
    var listenAddresses: [Multiaddr] = []
    var protocols: [String] = []
    var observedAddress: Multiaddr?
    var protocolVersion: String?
    var agentVersion: String?
    var signedPeerRecord: [UInt8]?

    init() {}

    /// Addresses of protocols that are not known here are left out.
    init(_ bytes: ByteBuffer) throws(MultiformatsError) {
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            switch field.number {
            case 1: self.publicKey = try field.bytes()
            case 2:
                let bytes = try field.bytes()
                guard bytes.count <= Self.maximumAddressLength, self.listenAddresses.count < Self.maximumAddresses
                else { break }
                if let address = try? Multiaddr(bytes: bytes) { self.listenAddresses.append(address) }
            case 3:
                let name = try field.text()
                if self.protocols.count < Self.maximumProtocols { self.protocols.append(name) }
            case 4:
                let bytes = try field.bytes()
                guard bytes.count <= Self.maximumAddressLength else { break }
                self.observedAddress = try? Multiaddr(bytes: bytes)
            case 5: self.protocolVersion = try field.text()
            case 6: self.agentVersion = try field.text()
            case 8: self.signedPeerRecord = try field.bytes()
            default: break
            }
        }
    }

    mutating func merge(_ other: IdentifyMessage) {
        self.publicKey = other.publicKey ?? self.publicKey
        self.listenAddresses += other.listenAddresses.prefix(Self.maximumAddresses - self.listenAddresses.count)
        self.protocols += other.protocols.prefix(Self.maximumProtocols - self.protocols.count)
        self.observedAddress = other.observedAddress ?? self.observedAddress
        self.protocolVersion = other.protocolVersion ?? self.protocolVersion
        self.agentVersion = other.agentVersion ?? self.agentVersion
        self.signedPeerRecord = other.signedPeerRecord ?? self.signedPeerRecord
    }

    private var encoded: ByteBuffer {
        var writer = ProtobufWriter()
        if let publicKey { writer.write(bytes: publicKey, to: 1) }
        for address in self.listenAddresses { writer.write(bytes: address.bytes, to: 2) }
        for name in self.protocols { writer.write(text: name, to: 3) }
        if let observedAddress { writer.write(bytes: observedAddress.bytes, to: 4) }
        if let protocolVersion { writer.write(text: protocolVersion, to: 5) }
        if let agentVersion { writer.write(text: agentVersion, to: 6) }
        if let signedPeerRecord { writer.write(bytes: signedPeerRecord, to: 8) }
        return writer.buffer
    }

    /// The message as it goes on the wire, in one part or two.
    var wire: ByteBuffer {
        var output = ByteBuffer()
        let whole = self.encoded
        if whole.readableBytes <= Self.singleMessageLength || self.signedPeerRecord == nil {
            output.writeVarintPrefixed(whole)
        } else {
            var first = self
            first.signedPeerRecord = nil
            var second = IdentifyMessage()
            second.signedPeerRecord = self.signedPeerRecord
            output.writeVarintPrefixed(first.encoded)
            output.writeVarintPrefixed(second.encoded)
        }
        return output
    }

    /// Reads the messages in all that a peer has sent.
    static func read(_ bytes: ByteBuffer) throws(LibP2PError) -> IdentifyMessage {
        var bytes = bytes
        var merged = IdentifyMessage()
        var count = 0
        do {
            while let part = try bytes.readVarintPrefixed(maximumLength: Self.maximumLength) {
                count += 1
                guard count <= Self.maximumMessages else {
                    throw MultiformatsError(code: .tooLong, message: "more than \(Self.maximumMessages) messages")
                }
                merged.merge(try IdentifyMessage(part))
            }
            guard bytes.readableBytes == 0, count > 0 else {
                throw MultiformatsError(code: .truncated, message: "the bytes end inside a message")
            }
        } catch {
            throw LibP2PError(code: .malformed, message: "the peer's identify message cannot be read", cause: error)
        }
        return merged
    }
}
