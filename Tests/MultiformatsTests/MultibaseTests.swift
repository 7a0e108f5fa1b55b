import MeshCore
import Testing

@testable import Multiformats

@Suite struct MultibaseTests {
    /// From draft-msporny-base58 and github.com/multiformats/multibase (`yes mani !`).
    @Test(arguments: [
        ("", ""), ("Hello World!", "2NEpo7TZRRrLZSi2U"), ("yes mani !", "7paNL19xttacUY"),
        (
            "The quick brown fox jumps over the lazy dog.",
            "USm3fpXnKG5EUBx2ndxBDMPVciP5hGey2Jh4NDv6gmeo1LkMeiKrLJUUBk6Z"
        ),
    ])
    func base58(text: String, encoded: String) throws {
        #expect(Base58.encode(Array(text.utf8)) == encoded)
        #expect(try Base58.decode(encoded) == Array(text.utf8))
    }

    @Test func base58KeepsLeadingZeros() throws {
        #expect(Base58.encode(hex("0000287fb4cd")) == "11233QC4")
        #expect(try Base58.decode("11233QC4") == hex("0000287fb4cd"))
    }

    /// RFC 4648 section 10, and the multibase vectors.
    @Test(arguments: [
        ("", "", ""), ("f", "my", "Zg=="), ("fo", "mzxq", "Zm8="), ("foo", "mzxw6", "Zm9v"),
        ("foob", "mzxw6yq", "Zm9vYg=="),
        ("fooba", "mzxw6ytb", "Zm9vYmE="), ("foobar", "mzxw6ytboi", "Zm9vYmFy"),
        ("yes mani !", "pfsxgidnmfxgsibb", "eWVzIG1hbmkgIQ=="),
    ])
    func base32And64(text: String, base32: String, base64: String) throws {
        let bytes = Array(text.utf8)
        #expect(Base32.encode(bytes) == base32)
        #expect(try Base32.decode(base32) == bytes)
        #expect(Base64.encode(bytes) == base64)
        #expect(try Base64.decode(base64) == bytes)
        #expect(try Base64.decode(base64.filter { $0 != "=" }) == bytes)
        #expect(try Base64.decodeURL(Base64.encodeURL(bytes)) == bytes)
    }

    @Test func base36() throws {
        #expect(Base36.encode(Array("yes mani !".utf8)) == "2lcpzo5yikidynfl")
        #expect(try Base36.decode("2lcpzo5yikidynfl") == Array("yes mani !".utf8))
        #expect(try Multibase.decode("k2lcpzo5yikidynfl") == Array("yes mani !".utf8))
    }

    /// The second spellings of the same bytes are refused, as are padding and digits that do not belong.
    @Test(arguments: ["mz", "mzx", "mzxr", "mzxw6y", "m", "0", "my======"])
    func refusesBadBase32(text: String) {
        #expect(code { () throws(MultiformatsError) in _ = try Base32.decode(text) } == .malformed)
    }

    @Test(arguments: ["Z", "Zh", "Zm9", "Zg=", "Zg===", "Z===", "=", "====", "Zm9v====", "Z=g=", "Zm-_"])
    func refusesBadBase64(text: String) {
        #expect(code { () throws(MultiformatsError) in _ = try Base64.decode(text) } == .malformed)
    }

    @Test(arguments: ["0", "O", "I", "l", "a b", "é", "/"])
    func refusesBadBase58(text: String) {
        #expect(code { () throws(MultiformatsError) in _ = try Base58.decode(text) } == .malformed)
    }

    /// The cost grows with the square of the length.
    @Test func boundsTheQuadraticBases() throws {
        #expect(try Base58.decode(String(repeating: "z", count: 128)).count == 94)
        #expect(
            code { () throws(MultiformatsError) in _ = try Base58.decode(String(repeating: "z", count: 129)) }
                == .tooLong
        )
        #expect(
            code { () throws(MultiformatsError) in _ = try Base36.decode(String(repeating: "z", count: 129)) }
                == .tooLong
        )
    }

    @Test func namesOfBases() {
        for text in ["", "?", "Fabc", "\u{301}z"] {
            #expect(code { () throws(MultiformatsError) in _ = try Multibase.decode(text) } == .unsupported)
        }
    }

    @Test(arguments: 1...4)
    func everythingReadsBack(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<300 {
            let bytes = [UInt8](repeating: 0, count: .random(in: 0...2, using: &generator)) + generator.bytes(0...60)
            #expect(try Base58.decode(Base58.encode(bytes)) == bytes, "seed \(seed)")
            #expect(try Base36.decode(Base36.encode(bytes)) == bytes, "seed \(seed)")
            #expect(try Base32.decode(Base32.encode(bytes)) == bytes, "seed \(seed)")
            #expect(try Base64.decode(Base64.encode(bytes)) == bytes, "seed \(seed)")
            #expect(try Multibase.decode("u" + Base64.encodeURL(bytes)) == bytes, "seed \(seed)")
            #expect(try Multibase.decode("m" + Base64.encode(bytes)) == bytes, "seed \(seed)")
            #expect(try Multibase.decode("z" + Base58.encode(bytes)) == bytes, "seed \(seed)")
        }
    }
}
