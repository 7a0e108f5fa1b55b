import MeshCore
import Testing

@testable import Multiformats

@Suite struct PeerIDTests {
    /// The three forms in libp2p/specs, peer-ids: the first two name the same peer.
    @Test func theFormsOfTheSpecification() throws {
        let hashed = try PeerID("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")
        #expect(try PeerID("bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe") == hashed)
        #expect(hashed.cid.description == "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe")
        #expect(hashed.description == "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")
        #expect(hashed.inlinedKey == nil)
        let inlined = try PeerID("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
        #expect(inlined.bytes.count == 38)
        #expect(inlined.inlinedKey?.prefix(4) == [8, 1, 18, 32])
        #expect(try PeerID(inlined.cid.description) == inlined)
        #expect(try PeerID(bytes: inlined.bytes) == inlined)
    }

    /// base36, as names under IPNS are written.
    @Test(arguments: [
        (
            "k2k4r8oqamigqdo6o7hsbfwd45y70oyynp98usk7zmyfrzpqxh1pohl7",
            "bafzbeigvf25ytwc3akrijfecaotc74udrhcxzh2cx3we5qqnw5vgrei4bm"
        ),
        (
            "k51qzi5uqu5dhb6l8spkdx7yxafegfkee5by8h7lmjh2ehc2sgg34z7c15vzqs",
            "bafzaajaiaejcalj543iwv2d7pkjt7ykvefrkfu7qjfi6sduakhso4lay6abn2d5u"
        ),
    ])
    func otherBases(base36: String, base32: String) throws {
        #expect(try PeerID(base36) == PeerID(base32))
        #expect(try PeerID(base36).cid.description == base32)
        #expect("k" + Base36.encode(try PeerID(base36).cid.bytes) == base36)
    }

    @Test(arguments: [
        // No peer: content of another codec.
        "bafkreie777rtklljkfpo24tqxwvftflojq2hhig5etpzason3vxaw3r4oi",
        "k2jmtxwoe2phm1hbqp0e7nufqf6umvuu2e9qd7ana7h411a0haqj6i2z",
        // A sha2-256 hash of more than 32 bytes; a bare hash behind a base's letter.
        "QmxoHT6iViN5xAjoz1VZ553cL31U9F94ht3QvWR1FrEbZY", "zQmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "", "1", "11", "Qm", "b", "?", "bAAAA", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5",
        "k2k4r8oqamigqdo6o7hsbfwd45y70oyynp98usk7zmyfrzpqxh1pohl-",
    ])
    func refusesOtherText(text: String) {
        #expect(throws: MultiformatsError.self) { try PeerID(text) }
    }

    @Test func refusesOtherHashes() {
        // SHA-1, an empty identity, 43 inlined bytes, bytes after the hash, a length that is not the shortest.
        for bytes in [
            hex("1114") + [UInt8](repeating: 1, count: 20), [0, 0], [0, 43] + [UInt8](repeating: 1, count: 43),
            [0, 1, 1, 1], [0, 0x81, 0, 1], [0x12, 0x1F] + [UInt8](repeating: 1, count: 31),
        ] {
            #expect(throws: MultiformatsError.self) { try PeerID(bytes: bytes) }
        }
        #expect(throws: Never.self) { try PeerID(bytes: [0, 42] + [UInt8](repeating: 1, count: 42)) }
    }

    @Test func everyTruncationIsRefused() throws {
        let bytes = try PeerID("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N").bytes
        for count in 0..<bytes.count {
            #expect(throws: MultiformatsError.self) { try PeerID(bytes: bytes.prefix(count)) }
            #expect(throws: MultiformatsError.self) { try CID(bytes: bytes.prefix(count)) }
        }
    }

    /// What v1.17 provides itself under: the raw CID of SHA-256 over "EDGEMESH_PLAYGOUND".
    @Test func theRendezvousIdentifierReads() throws {
        let cid = try CID("bafkreie777rtklljkfpo24tqxwvftflojq2hhig5etpzason3vxaw3r4oi")
        #expect(cid.version == .v1)
        #expect(cid.codec == .raw)
        #expect(cid.hash.code == .sha256)
        #expect(cid.description == "bafkreie777rtklljkfpo24tqxwvftflojq2hhig5etpzason3vxaw3r4oi")
        #expect(try CID(bytes: cid.bytes) == cid)
    }

    @Test func versionZero() throws {
        let cid = try CID("QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n")
        #expect(cid.version == .v0)
        #expect(cid.codec == .dagProtobuf)
        #expect(cid.bytes == cid.hash.bytes)
        #expect(cid.description == "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n")
        // The same hash as version 1 is another identifier.
        #expect(CID(codec: .dagProtobuf, hash: cid.hash) != cid)
        #expect(code { () throws(MultiformatsError) in _ = try CID(bytes: [2, 0x55, 0, 0]) } == .unsupported)
    }

    @Test(arguments: 1...4)
    func noiseIsRefusedOrReadsBack(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let valid = try CID("bafkreie777rtklljkfpo24tqxwvftflojq2hhig5etpzason3vxaw3r4oi").bytes
        for _ in 0..<1000 {
            var bytes = Bool.random(using: &generator) ? valid : generator.bytes(0...50)
            generator.mutate(&bytes)
            if let cid = try? CID(bytes: bytes) { #expect(cid.bytes == bytes, "seed \(seed)") }
            if let peer = try? PeerID(bytes: bytes) {
                #expect(peer.bytes == bytes, "seed \(seed)")
                #expect(try PeerID(peer.description) == peer, "seed \(seed)")
                #expect(try PeerID(peer.cid.description) == peer, "seed \(seed)")
            }
        }
    }
}
