import Multiformats
import PeerIdentity

extension FuzzTarget {
    /// Protobuf messages. The fields that are read are written and read again as the same.
    static let protobuf = FuzzTarget(name: "protobuf") { data, count in
        guard let fields = readFields(ProtobufReader(UnsafeBufferPointer(start: data, count: count)), depth: 0) else {
            return 0
        }
        var writer = ProtobufWriter()
        for field in fields {
            switch field.value {
            case .varint(let value): writer.write(varint: value, to: field.number)
            case .bytes(let value): writer.write(buffer: value, to: field.number)
            case .fixed32, .fixed64: return 0
            }
        }
        guard readFields(ProtobufReader(writer.buffer), depth: 0) == fields else {
            fatalError("the message does not read back")
        }
        return 0
    }

    /// Keys, public and private. What is read is written in one form, and its peer ID leads back to it.
    static let keys = FuzzTarget(name: "keys") { data, count in
        let bytes = UnsafeBufferPointer(start: data, count: count)
        if let pair = try? KeyPair(privateKeyProtobuf: bytes) {
            guard (try? KeyPair(privateKeyProtobuf: pair.privateKeyProtobuf))?.peerID == pair.peerID else {
                fatalError("a private key does not read back")
            }
        }
        guard let key = try? PublicKey(protobuf: bytes) else { return 0 }
        guard (try? PublicKey(protobuf: key.protobuf)) == key, (try? PeerID(bytes: key.peerID.bytes)) == key.peerID
        else {
            fatalError("a key does not read back")
        }
        guard (try? key.verify(signature: bytes, for: bytes)) == nil else { fatalError("bytes that sign themselves") }
        return 0
    }

    /// Signed envelopes, and the bytes as a peer record that is well signed.
    static let envelope = FuzzTarget(name: "envelope") { data, count in
        let bytes = UnsafeBufferPointer(start: data, count: count)
        if let envelope = try? SignedEnvelope(verifying: bytes, domain: PeerRecord.domain) {
            guard (try? SignedEnvelope(verifying: envelope.bytes, domain: PeerRecord.domain)) == envelope else {
                fatalError("an envelope does not read back")
            }
        }
        guard let signer = try? KeyPair(ed25519Seed: 0..<32),
            let sealed = try? SignedEnvelope.seal(
                payload: bytes,
                type: PeerRecord.payloadType,
                domain: PeerRecord.domain,
                key: signer
            )
        else { fatalError("cannot be sealed") }
        guard let record = try? PeerRecord(envelope: sealed) else { return 0 }
        guard let again = try? record.seal(with: signer), (try? PeerRecord(envelope: again)) == record else {
            fatalError("\(record) does not read back")
        }
        return 0
    }
}

/// The fields of a message, and for the bytes among them whatever messages they may be.
private func readFields(_ reader: ProtobufReader, depth: Int) -> [ProtobufReader.Field]? {
    var reader = reader
    var fields: [ProtobufReader.Field] = []
    while true {
        do {
            guard let field = try reader.next() else { return fields }
            _ = try? field.text()
            if depth < 4, let inner = try? field.message() { _ = readFields(inner, depth: depth + 1) }
            fields.append(field)
        } catch {
            return nil
        }
    }
}
