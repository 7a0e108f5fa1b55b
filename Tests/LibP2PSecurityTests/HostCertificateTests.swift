import Crypto
import MeshCore
import Multiformats
import PeerIdentity
import Testing

@testable import LibP2PSecurity

@Suite struct HostCertificateTests {
    private static let now: Int64 = 1_780_000_000

    private static func refusal(
        _ certificates: [[UInt8]],
        now: Int64 = HostCertificateTests.now
    ) -> LibP2PSecurityError? {
        do {
            _ = try HostCertificate.verify(certificates, now: now)
            return nil
        } catch {
            return error
        }
    }

    /// The test vectors of libp2p/specs, tls/tls.md.
    @Test(arguments: [
        (ed25519, "12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv"),
        (ecdsa, "QmfXbAwNjJLXfesgztEHe8HwgVDCMMpZ9Eax1HYq6hn9uE"),
    ])
    func vectorsThatAreValid(_ certificate: String, _ peer: String) throws {
        let key = try HostCertificate.verify([hex(certificate)], now: Self.now)
        #expect(key.peerID == (try PeerID(peer)))
    }

    @Test func theVectorThatIsInvalid() {
        let error = Self.refusal([hex(Self.invalid)])
        #expect(error?.code == .handshakeFailed)
        #expect((error?.cause as? PeerIdentityError)?.code == .badSignature)
    }

    @Test func aKeyThatCannotBeVerifiedIsNamed() {
        let error = Self.refusal([hex(Self.secp256k1)])
        #expect((error?.cause as? PeerIdentityError)?.code == .unsupportedKey)
        #expect(error.map { "\($0)" }?.contains("16Uiu2HAkutTMoTzDw1tCvSRtu6YoixJwS46S1ZFxW8hSx9fWHiPs") == true)
    }

    @Test func ourOwn() throws {
        let identity = KeyPair.generate()
        let certificate = try HostCertificate.make(identity: identity, key: P256.Signing.PrivateKey())
        #expect(try HostCertificate.verify([certificate], now: Self.now) == identity.publicKey)
        // A node whose clock begins in 1975, and one far ahead.
        #expect(Self.refusal([certificate], now: 157_766_400) == nil)
        #expect(Self.refusal([certificate], now: 157_766_399)?.message.contains("clock") == true)
        #expect(Self.refusal([certificate], now: 67_090_118_400) == nil)
        #expect(Self.refusal([certificate], now: 67_090_118_401)?.message.contains("clock") == true)
    }

    @Test func theCountOfCertificates() throws {
        let certificate = hex(Self.ed25519)
        #expect(Self.refusal([])?.message.contains("0 certificates") == true)
        #expect(Self.refusal([certificate, certificate])?.message.contains("2 certificates") == true)
    }

    /// A changed bit is noticed, whatever it does to the structure: one bit of each byte, all of those that are not signed.
    @Test(arguments: [ed25519, ecdsa]) func changedBits(_ certificate: String) {
        let certificate = hex(certificate)
        let seed = UInt64.random(in: .min ... .max)
        var random = SeededGenerator(seed: seed)
        for index in certificate.indices {
            let isSignature = index > certificate.count - 90
            for bit in isSignature ? Array(0..<8) : [Int.random(in: 0..<8, using: &random)] {
                var changed = certificate
                changed[index] ^= 1 << bit
                #expect(Self.refusal([changed]) != nil, "byte \(index), bit \(bit), seed \(seed)")
            }
        }
    }

    @Test func everyLength() {
        let certificate = hex(Self.ed25519)
        for length in certificate.indices {
            #expect(Self.refusal([Array(certificate[..<length])])?.code == .malformed)
        }
        #expect(Self.refusal([certificate + [0]]) != nil)
    }

    @Test func anyBytes() {
        let seed = UInt64.random(in: .min ... .max)
        var random = SeededGenerator(seed: seed)
        for _ in 0..<2000 {
            var bytes = (0..<Int.random(in: 0...300, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            if bytes.count > 3 { bytes.replaceSubrange(0..<3, with: [0x30, 0x81, UInt8(clamping: bytes.count - 3)]) }
            #expect(Self.refusal([bytes]) != nil, "seed \(seed)")
        }
    }

    static let ed25519 = """
        308201ae30820156a0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c69627032702e696f310a30
        0806035504051301313020170d3735303130313133303030305a180f34303936303130313133303030305a302031123010060355040a1309
        6c69627032702e696f310a300806035504051301313059301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca8
        5e27c73c263ba132721bb9d7a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569e
        a37c307a3078060a2b0601040183a25a0101046a3068042408011220a77f1d92fedb59dddaea5a1c4abd1ac2fbde7d7b879ed36450180992
        3d7c11b90440d90d2769db992d5e6195dbb08e706b6651e024fda6cfb8846694a435519941cac215a8207792e42849cccc6cd8136c6e4bde
        92a58c5e08cfd4206eb5fe0bf909300a06082a8648ce3d0403020346003043021f50f6b6c52711a881778718238f650c9fb48943ae6ee6d2
        8427dc6071ae55e702203625f116a7a454db9c56986c82a25682f7248ea1cb764d322ea983ed36a31b77
        """

    static let ecdsa = """
        308201f63082019da0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c69627032702e696f310a30
        0806035504051301313020170d3735303130313133303030305a180f34303936303130313133303030305a302031123010060355040a1309
        6c69627032702e696f310a300806035504051301313059301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca8
        5e27c73c263ba132721bb9d7a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569e
        a381c23081bf3081bc060a2b0601040183a25a01010481ad3081aa045f0803125b3059301306072a8648ce3d020106082a8648ce3d030107
        03420004bf30511f909414ebdd3242178fd290f093a551cf75c973155de0bb5a96fedf6cb5d52da7563e794b512f66e60c7f55ba8a3acf3d
        d72a801980d205e8a1ad29f2044730450220064ea8124774caf8f50e57f436aa62350ce652418c019df5d98a3ac666c9386a022100aa59d7
        04a931b5f72fb9222cb6cc51f954d04a4e2e5450f8805fe8918f71eaae300a06082a8648ce3d04030203470030440220799395b0b6c1e940
        a7e4484705f610ab51ed376f19ff9d7c16757cfbf61b8d4302206205c03fbb0f95205c779be86581d3e31c01871ad5d1f3435bcf375cb0e5
        088a
        """

    static let secp256k1 = """
        308201ba3082015fa0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c69627032702e696f310a30
        0806035504051301313020170d3735303130313133303030305a180f34303936303130313133303030305a302031123010060355040a1309
        6c69627032702e696f310a300806035504051301313059301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca8
        5e27c73c263ba132721bb9d7a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569e
        a38184308181307f060a2b0601040183a25a01010471306f0425080212210206dc6968726765b820f050263ececf7f71e4955892776c0970
        542efd689d2382044630440220145e15a991961f0d08cd15425bb95ec93f6ffa03c5a385eedc34ecf464c7a8ab022026b3109b8a3f40ef83
        3169777eb2aa337cfb6282f188de0666d1bcec2a4690dd300a06082a8648ce3d0403020349003046022100e1a217eeef9ec9204b3f774a08
        b70849646b6a1e6b8b27f93dc00ed58545d9fe022100b00dafa549d0f03547878338c7b15e7502888f6d45db387e5ae6b5d46899cef0
        """

    static let invalid = """
        308201f73082019da0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c69627032702e696f310a30
        0806035504051301313020170d3735303130313133303030305a180f34303936303130313133303030305a302031123010060355040a1309
        6c69627032702e696f310a300806035504051301313059301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca8
        5e27c73c263ba132721bb9d7a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569e
        a381c23081bf3081bc060a2b0601040183a25a01010481ad3081aa045f0803125b3059301306072a8648ce3d020106082a8648ce3d030107
        03420004bf30511f909414ebdd3242178fd290f093a551cf75c973155de0bb5a96fedf6cb5d52da7563e794b512f66e60c7f55ba8a3acf3d
        d72a801980d205e8a1ad29f204473045022100bb6e03577b7cc7a3cd1558df0da2b117dfdcc0399bc2504ebe7de6f65cade72802206de96e
        2a5be9b6202adba24ee0362e490641ac45c240db71fe955f2c5cf8df6e300a06082a8648ce3d0403020348003045022100e847f267f43717
        358f850355bdcabbefb2cfbf8a3c043b203a14788a092fe8db022027c1d04a2d41fd6b57a7e8b3989e470325de4406e52e084e34a3fd56ee
        f0d0df
        """
}
