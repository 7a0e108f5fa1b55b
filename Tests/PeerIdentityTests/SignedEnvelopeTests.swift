import MeshCore
import Multiformats
import Testing

@testable import PeerIdentity

@Suite struct SignedEnvelopeTests {
    /// What py-libp2p 0.8.1 seals with the key that counts from 0 to 31.
    static let sealed = hex(
        """
        0a240801122003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8120203011a540a26002408011220\
        03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b810bdaadeec051a0a0a0804c0000201064e261a18\
        0a162920010db80000000000000000000000010601bbde032a40f0bdca866575a6282101253380dbba25765505b53936c04c1141\
        3f7ce72dfd8f77ca0ad904a2cbfd9f8bf5d1f9583f4a6e434f675c05a86b4e81365187015e02
        """
    )

    private func record() throws -> PeerRecord {
        PeerRecord(
            peerID: try KeyPair.counting().peerID,
            sequence: 1_570_215_229,
            addresses: [try Multiaddr("/ip4/192.0.2.1/tcp/20006"), try Multiaddr("/ip6/2001:db8::1/tcp/443/wss")]
        )
    }

    @Test func sealsAsOthersDo() throws {
        #expect(try self.record().seal(with: .counting()).bytes == Self.sealed)
    }

    @Test func readsWhatOthersSealed() throws {
        let envelope = try SignedEnvelope(verifying: Self.sealed, domain: PeerRecord.domain)
        #expect(try PeerRecord(envelope: envelope) == self.record())
        #expect(envelope.publicKey == (try KeyPair.counting()).publicKey)
        #expect(envelope.bytes == Self.sealed)
    }

    @Test func everyTruncationIsRefused() {
        for count in 0..<Self.sealed.count {
            #expect(throws: PeerIdentityError.self) {
                try SignedEnvelope(verifying: Self.sealed.prefix(count), domain: PeerRecord.domain)
            }
        }
    }

    /// No bit can be changed but that of a field's number that makes no difference: there is none.
    @Test func everyChangedByteIsRefused() {
        for index in Self.sealed.indices {
            var bytes = Self.sealed
            bytes[index] ^= 0x01
            #expect(throws: PeerIdentityError.self, "byte \(index)") {
                try SignedEnvelope(verifying: bytes, domain: PeerRecord.domain)
            }
        }
    }

    @Test func anotherPurposeIsRefused() {
        #expect(
            code { () throws(PeerIdentityError) in
                _ = try SignedEnvelope(verifying: Self.sealed, domain: "libp2p-relay-rsvp")
            }
                == .badSignature
        )
    }

    /// The lengths are signed too: bytes cannot move from one part to the next.
    @Test func partsCannotBeMoved() throws {
        let key = try KeyPair.counting()
        let envelope = try SignedEnvelope.seal(payload: [2, 3], type: [1], domain: "d", key: key)
        var writer = ProtobufWriter()
        writer.write(bytes: envelope.publicKey.protobuf, to: 1)
        writer.write(bytes: [1, 2], to: 2)
        writer.write(bytes: [3], to: 3)
        writer.write(bytes: envelope.signature, to: 5)
        let moved = writer.bytes
        #expect(
            code { () throws(PeerIdentityError) in _ = try SignedEnvelope(verifying: moved, domain: "d") }
                == .badSignature
        )
        #expect(throws: Never.self) { try SignedEnvelope(verifying: envelope.bytes, domain: "d") }
    }

    @Test func theLengthIsBounded() {
        #expect(
            code { () throws(PeerIdentityError) in
                _ = try SignedEnvelope(
                    verifying: Self.sealed,
                    domain: PeerRecord.domain,
                    maximumBytes: Self.sealed.count - 1
                )
            } == .malformedRecord
        )
    }

    @Test func aRecordThatAnotherSignedIsRefused() throws {
        let envelope = try self.record().seal(with: .generate())
        let verified = try SignedEnvelope(verifying: envelope.bytes, domain: PeerRecord.domain)
        #expect(code { () throws(PeerIdentityError) in _ = try PeerRecord(envelope: verified) } == .malformedRecord)
    }

    @Test func aPayloadOfAnotherTypeIsRefused() throws {
        let key = try KeyPair.counting()
        let envelope = try SignedEnvelope.seal(
            payload: self.record().bytes,
            type: [3, 2],
            domain: PeerRecord.domain,
            key: key
        )
        #expect(code { () throws(PeerIdentityError) in _ = try PeerRecord(envelope: envelope) } == .malformedRecord)
    }

    @Test func unknownAddressesAreLeftOutAndTheirNumberIsBounded() throws {
        var writer = ProtobufWriter()
        writer.write(bytes: try KeyPair.counting().peerID.bytes, to: 1)
        // A protocol that is not known here; fields that are not known here.
        writer.write(messageTo: 3) { $0.write(bytes: hex("89060000000000000004"), to: 1) }
        writer.write(varint: 1, to: 9)
        let address = try Multiaddr("/ip4/1.2.3.4/tcp/1")
        for _ in 0...PeerRecord.maximumAddresses {
            writer.write(messageTo: 3) {
                $0.write(varint: 5, to: 2)
                $0.write(bytes: address.bytes, to: 1)
                $0.write(bytes: address.bytes, to: 1)
            }
        }
        let record = try PeerRecord(bytes: writer.bytes)
        #expect(record.sequence == 0)
        #expect(record.addresses == Array(repeating: address, count: PeerRecord.maximumAddresses))
        #expect(code { () throws(PeerIdentityError) in _ = try PeerRecord(bytes: hex("1001")) } == .malformedRecord)
    }

    @Test(arguments: 1...4)
    func mutatedRecordsAreRefusedOrReadBack(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let valid = try self.record().bytes
        for _ in 0..<500 {
            var bytes = valid
            for _ in 0..<Int.random(in: 1...3, using: &generator) { generator.mutate(&bytes) }
            guard let record = try? PeerRecord(bytes: bytes) else { continue }
            #expect(try PeerRecord(bytes: record.bytes) == record, "seed \(seed)")
        }
    }
}
