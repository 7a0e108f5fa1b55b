import MeshCore
import Multiformats
import Testing

@testable import PeerIdentity

@Suite struct PublicKeyTests {
    @Test(arguments: [
        (KeyVectors.ed25519Public, PublicKey.Kind.ed25519), (KeyVectors.ecdsaPublic, .ecdsa),
        (KeyVectors.rsaPublic, .rsa),
        (KeyVectors.secp256k1Public, .secp256k1),
    ])
    func theVectorsOfTheSpecificationReadBack(protobuf: [UInt8], kind: PublicKey.Kind) throws {
        let key = try PublicKey(protobuf: protobuf)
        #expect(key.kind == kind)
        #expect(key.protobuf == protobuf)
        #expect((key.peerID.inlinedKey == protobuf) == (protobuf.count <= 42))
        if protobuf.count > 42 { #expect(try key.peerID == PeerID(hash: .sha256(of: protobuf))) }
        #expect(try PublicKey(inlinedIn: key.peerID) == (protobuf.count <= 42 ? key : nil))
        for count in 0..<protobuf.count {
            #expect(throws: PeerIdentityError.self) { try PublicKey(protobuf: protobuf.prefix(count)) }
        }
    }

    @Test func theHalvesOfTheVectorBelongTogether() throws {
        let pair = try KeyPair(privateKeyProtobuf: KeyVectors.ed25519Private)
        #expect(pair.publicKey.protobuf == KeyVectors.ed25519Public)
        #expect(pair.privateKeyProtobuf == KeyVectors.ed25519Private)
    }

    @Test(arguments: [
        (KeyVectors.rsaPublic, KeyVectors.rsaSignature), (KeyVectors.ecdsaPublic, KeyVectors.ecdsaSignature),
    ])
    func verifiesWhatOthersSigned(protobuf: [UInt8], signature: [UInt8]) throws {
        let key = try PublicKey(protobuf: protobuf)
        try key.verify(signature: signature, for: KeyVectors.message)
        #expect(
            code { () throws(PeerIdentityError) in try key.verify(signature: signature, for: [1]) } == .badSignature
        )
        for index in stride(from: 0, to: signature.count, by: 7) {
            var changed = signature
            changed[index] ^= 1
            #expect(
                code { () throws(PeerIdentityError) in try key.verify(signature: changed, for: KeyVectors.message) }
                    == .badSignature
            )
            let cut = signature.prefix(index)
            #expect(
                code { () throws(PeerIdentityError) in try key.verify(signature: cut, for: KeyVectors.message) }
                    == .badSignature
            )
        }
        #expect(
            code { () throws(PeerIdentityError) in try key.verify(signature: signature + [0], for: KeyVectors.message) }
                == .badSignature
        )
    }

    /// RFC 8032 section 7.1, test 3.
    @Test func signsAsSpecified() throws {
        let pair = try KeyPair(ed25519Seed: hex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"))
        #expect(pair.publicKey.data == hex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"))
        let signature = hex(
            """
            6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
            18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a
            """
        )
        try pair.publicKey.verify(signature: signature, for: hex("af82"))
        try pair.publicKey.verify(signature: pair.sign(hex("af82")), for: hex("af82"))
        #expect(try pair.sign(hex("af82")).count == 64)
        for count in [0, 63, 65] {
            let wrong = [UInt8](repeating: 1, count: count)
            #expect(
                code { () throws(PeerIdentityError) in try pair.publicKey.verify(signature: wrong, for: [1]) }
                    == .badSignature
            )
        }
    }

    @Test func secp256k1IsNamed() throws {
        let key = try PublicKey(protobuf: KeyVectors.secp256k1Public)
        do {
            try key.verify(signature: [1], for: [2])
            Issue.record("a signature was taken")
        } catch {
            #expect(error.code == .unsupportedKey)
            #expect(error.message.contains("secp256k1"))
            #expect(error.message.contains(key.peerID.description))
        }
    }

    @Test func refusesOtherKeys() {
        for (kind, data, expected) in [
            (PublicKey.Kind.rsa, KeyVectors.rsa1024, PeerIdentityError.Code.unsupportedKey),
            (.rsa, KeyVectors.rsa9216, .unsupportedKey), (.rsa, KeyVectors.p384, .unsupportedKey),
            (.ecdsa, KeyVectors.p384, .unsupportedKey), (.ecdsa, [], .unsupportedKey),
            (.ed25519, Array(0..<31), .malformedKey),
            (.ed25519, [], .malformedKey), (.secp256k1, [1], .malformedKey),
            (.rsa, [UInt8](repeating: 0x30, count: 2049), .malformedKey),
        ] {
            #expect(code { () throws(PeerIdentityError) in _ = try PublicKey(kind: kind, data: data) } == expected)
        }
    }

    @Test(arguments: [
        ("", PeerIdentityError.Code.malformedKey), ("0801", .malformedKey), ("1200", .malformedKey),
        ("0804 1200", .unsupportedKey),
        ("0a01 1200", .malformedKey), ("08011220", .malformedKey), ("080112010113", .malformedKey),
    ])
    func refusesOtherProtobufs(text: String, expected: PeerIdentityError.Code) {
        #expect(code { () throws(PeerIdentityError) in _ = try PublicKey(protobuf: hex(text)) } == expected)
        #expect(code { () throws(PeerIdentityError) in _ = try KeyPair(privateKeyProtobuf: hex(text)) } == expected)
    }

    @Test func privateKeysOfOldAndBadOnes() throws {
        let pair = try KeyPair(privateKeyProtobuf: KeyVectors.ed25519Private)
        let seed = Array(KeyVectors.ed25519Private[4..<36])
        let half = pair.publicKey.data
        #expect(try KeyPair(privateKeyProtobuf: [8, 1, 18, 96] + seed + half + half).peerID == pair.peerID)
        let other = try KeyPair.counting().publicKey.data
        for bytes in [
            [8, 1, 18, 96] + seed + half + other, [8, 1, 18, 96] + seed + other + other, [8, 1, 18, 64] + seed + other,
            [8, 1, 18, 32] + seed,
        ] {
            #expect(
                code { () throws(PeerIdentityError) in _ = try KeyPair(privateKeyProtobuf: bytes) } == .malformedKey
            )
        }
        #expect(
            code { () throws(PeerIdentityError) in _ = try KeyPair(privateKeyProtobuf: KeyVectors.secp256k1Private) }
                == .unsupportedKey
        )
        #expect(KeyPair.generate().peerID != KeyPair.generate().peerID)
    }

    @Test(arguments: 1...4)
    func mutatedKeysAreRefusedOrReadBack(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let corpus = [
            KeyVectors.ed25519Public, KeyVectors.ecdsaPublic, KeyVectors.rsaPublic, KeyVectors.secp256k1Public,
        ]
        for _ in 0..<400 {
            var bytes = corpus.randomElement(using: &generator) ?? []
            generator.mutate(&bytes)
            guard let key = try? PublicKey(protobuf: bytes) else { continue }
            #expect(try PublicKey(protobuf: key.protobuf) == key, "seed \(seed)")
            #expect(throws: PeerIdentityError.self, "seed \(seed)") { try key.verify(signature: bytes, for: bytes) }
        }
    }

    /// The raw CID under which v1.17 looks for its peers.
    @Test func theRendezvousIdentifier() {
        let cid = CID(codec: .raw, hash: .sha256(of: Array("EDGEMESH_PLAYGOUND".utf8)))
        #expect(cid.description == "bafkreie777rtklljkfpo24tqxwvftflojq2hhig5etpzason3vxaw3r4oi")
    }

    /// Points of small order: without a check, a signature of zeros is theirs for one message in a few. Found by fuzzing.
    @Test(
        arguments: [
            (0x00, 0x00, 0x00), (0x01, 0x00, 0x00), (0xEC, 0xFF, 0x7F), (0xED, 0xFF, 0x7F), (0xEE, 0xFF, 0x7F),
            (0x00, 0x00, 0x80), (0xEC, 0xFF, 0xFF),
        ] as [(UInt8, UInt8, UInt8)]
    )
    func keysInWhoseNameAnybodyCanSignAreRefused(_ first: UInt8, _ middle: UInt8, _ last: UInt8) {
        let key = [first] + [UInt8](repeating: middle, count: 30) + [last]
        let error = #expect(throws: PeerIdentityError.self) { try PublicKey(kind: .ed25519, data: key) }
        #expect(error?.code == .malformedKey)
        #expect(SmallOrderKeys.contains(key))
    }
}
