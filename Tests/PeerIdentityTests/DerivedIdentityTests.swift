import Crypto
import Multiformats
import Testing

@testable import PeerIdentity

@Suite struct DerivedIdentityTests {
    @Test func theConstantsAreGos() {
        #expect(GoRandom.mixedConstants.count == 607)
        #expect(Int64(bitPattern: GoRandom.mixedConstants[0]) == -4_181_792_142_133_755_926)
        let bytes = GoRandom.mixedConstants.flatMap { value in
            (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64(56 - 8 * $0)) }
        }
        #expect(
            hexText(Array(SHA256.hash(data: bytes)))
                == "71ca56841e25ce194c2600faac906bb84e97d268a3bc453ff9f1a1410af1d228"
        )
    }

    /// What `rand.New(rand.NewSource(seed)).Read` of Go 1.19 gives. Zero and the multiples of 2^31-1 share a state.
    @Test(arguments: [
        (Int64(0), "0194fdc2fa2ffcc041d3ff12045b73c86e4ff95ff662a5eee82abdf44a2d0b75fb180daf48a79ee0"),
        (1, "52fdfc072182654f163f5f0f9a621d729566c74d10037c4d7bbb0407d1e2c64981855ad8681d0d86"),
        (-1, "ac020308df8195afe9405ff099a2e18d8a66384cf0fb83527b4405f72d1dd9497f869a2697220d7a"),
        (2_147_483_647, "0194fdc2fa2ffcc041d3ff12045b73c86e4ff95ff662a5eee82abdf44a2d0b75fb180daf48a79ee0"),
        (-2_147_483_647, "0194fdc2fa2ffcc041d3ff12045b73c86e4ff95ff662a5eee82abdf44a2d0b75fb180daf48a79ee0"),
        (.max, "52fdfc072182654f163f5f0f9a621d729566c74d10037c4d7bbb0407d1e2c64981855ad8681d0d86"),
        (.min, "cf7d7dcb1dfa998fce3bc0544d0da824e6672329677e95ecbe26a7ba34e9de8b976a6022df93fe30"),
        (1_234_567_890_123_456_789, "f40b87f1e4aca92ada6e3bb668eca8e8958128e34bc006021614afbd4b347aab707cd5c2b49c4b5f"),
        (
            -1_234_567_890_123_456_789,
            "0af478f11aad49d425713b49670c56178a81d7e4ab3ef91d16ecae3db3cb85ab8f7d353c4b834ba0"
        ),
    ])
    func theBytesAreGos(seed: Int64, text: String) {
        var random = GoRandom(seed: seed)
        #expect(hexText(random.bytes(40)) == text)
    }

    /// Past the length of the state.
    @Test func theLaterBytesAreGos() {
        var random = GoRandom(seed: 42)
        #expect(hexText(random.bytes(14_000).suffix(16)) == "d10fc53c5b4348ebec14d2372abc94fc")
    }

    @Test(arguments: [
        (
            "k8s-master", "a58a62add392dcc52ed5fb5d2a0a9f13249500dfb994ee1b31499254d5204176",
            "12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW"
        ),
        (
            "k8s-node1", "68e922d61a87c70f5e944c3a9670fa5f39baafdf9d33e79a80d722700d791bef",
            "12D3KooWErZ4m27CEinjcnXNvem2KFUJUFRBcd9NdcWnYRqyr1Sn"
        ),
        (
            "ke-edge1", "9b799f5e98f58c7502979e0b371a45111e4bef55ac03b0aa91a1d169278d01d3",
            "12D3KooWF3RB8SoMRZht7MDqF6GoipSPdFxVb9ESRLU7NuPX6ifH"
        ),
        (
            "ke-edge2", "2af926ba2db3d2db3d6d2790f4be48e1ca92146e64a05d10e76637ca40d326ac",
            "12D3KooWSD4f5fZb5c9PQ6FPVd8Em4eKX3mRezcyqXSHUyomoy8S"
        ),
        (
            "node1", "c30ab4b9020a2edb10369cc7506b41bae4fceb9de871789839d056df321de768",
            "12D3KooW9yF6fZvnMC3zxXSrxZSq1JM8otuwz7uTQ7FjNfKtFxVK"
        ),
        (
            "edge-node", "4b46124fce2681c165e024fa0316d1bd7bbbe2011c066afbc3024b94ec482027",
            "12D3KooWShWPN2xpmkQANTTbdfjGFcUKn92EtvemDPgr6xFDD7gz"
        ),
        (
            "k8s-master-gateway", "1561afc6d3c25a55ca05905105f3b0b6b91a4bf36fbec52d580c818a674ca0c0",
            "12D3KooWK7jA1pdgBVvNicvVEE1Dp24YNcFTyUzwCBLyH7fVgKZ8"
        ),
    ])
    func theOriginalsIdentities(name: String, seed: String, peer: String) throws {
        let pair = try KeyPair.derived(nodeName: name)
        #expect(pair.privateKeyProtobuf[4..<36].elementsEqual(hex(seed)))
        #expect(pair.peerID.description == peer)
        #expect(try PeerID(peer) == pair.peerID)
    }

    /// From the original's own unit tests: capitals, full-width letters, a newline at the end.
    @Test(arguments: [
        ("k8s-Master", "12D3KooWA9AvBpYt17yctznPFxDvR6NFXfyu8kY72jnVLC9SKUG4"),
        ("m\u{FF41}ste\u{FF52}", "12D3KooWAZ7jrUXyHuTZ7rT1uUnqXZPY88HjdhvDaQjivD5M35nw"),
        ("ke-node1\n", "12D3KooWFP7gZfX1n1HLQAZt7rCZpffRvqXf7QYASxbz9mrEkAVi"),
    ])
    func namesAreBytes(name: String, peer: String) throws {
        #expect(try KeyPair.derived(nodeName: name).peerID.description == peer)
    }

    @Test func anEmptyNameIsRefused() {
        #expect(code { () throws(PeerIdentityError) in _ = try KeyPair.derived(nodeName: "") } == .malformedKey)
    }
}
