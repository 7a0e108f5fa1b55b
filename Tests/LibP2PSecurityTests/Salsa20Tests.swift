import CSalsa20
import Crypto
import MeshCore
import Testing

@Suite struct Salsa20Tests {
    // The keys of the tests core1, core2, core3, stream2 and stream3 of NaCl (tests/*.c).
    private static let shared = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    private static let firstKey = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    private static let secondKey = hex("dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4")
    private static let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    private static let digest = hex("662b9d0e3463029156069b12f918691a98f7dfb2ca0393c96bbfc6b1fbd630a2")

    static let paths = [csalsa20_scalar, csalsa20_vector128, csalsa20_avx2, csalsa20_avx512]
        .filter(csalsa20_path_supported)

    private static func xor(_ stream: inout csalsa20_stream, _ input: ArraySlice<UInt8>) -> [UInt8] {
        let input = Array(input)
        var output = [UInt8](repeating: 0xA5, count: input.count)
        csalsa20_xor(&stream, &output, input, input.count)
        return output
    }

    @Test func theSubkeysOfNaCl() {
        var subkey = [UInt8](repeating: 0, count: 32)
        csalsa20_hsalsa20(&subkey, Self.shared, [UInt8](repeating: 0, count: 16))
        #expect(subkey == Self.firstKey)
        csalsa20_hsalsa20(&subkey, Self.firstKey, Self.nonce)
        #expect(subkey == Self.secondKey)
    }

    @Test(arguments: paths) func theStreamsOfNaCl(_ path: csalsa20_path) {
        let zeros = [UInt8](repeating: 0, count: 4_194_304)
        var stream = csalsa20_stream()
        csalsa20_init(&stream, Self.secondKey, Array(Self.nonce[16...]))
        stream.path = path.rawValue
        #expect(Array(SHA256.hash(data: Self.xor(&stream, zeros[...]))) == Self.digest)
        csalsa20_xsalsa20_init(&stream, Self.firstKey, Self.nonce)
        stream.path = path.rawValue
        let keystream = Self.xor(&stream, zeros[...])
        #expect(Array(SHA256.hash(data: keystream)) == Self.digest)
        #expect(
            keystream.starts(with: hex("eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"))
        )
    }

    /// eSTREAM, Salsa20/20 with 256 bits, set 1, vector 0.
    @Test(arguments: paths) func theStreamOfESTREAM(_ path: csalsa20_path) {
        var stream = csalsa20_stream()
        csalsa20_init(&stream, [0x80] + [UInt8](repeating: 0, count: 31), [UInt8](repeating: 0, count: 8))
        stream.path = path.rawValue
        #expect(
            Self.xor(&stream, [UInt8](repeating: 0, count: 64)[...])
                == hex(
                    """
                    e3be8fdd8beca2e3ea8ef9475b29a6e7003951e1097a5c38d23b7a5fad9f6844
                    b22c97559e2723c7cbbd3fe4fc8d9a0744652a83e72a9c461876af4d7ef1a117
                    """
                )
        )
    }

    /// Many lengths, in one call and in random pieces, across the end of the block number's lower half.
    @Test(arguments: paths) func allWaysGiveTheSame(_ path: csalsa20_path) {
        let seed = UInt64.random(in: .min ... .max)
        var random = SeededGenerator(seed: seed)
        let group = Int(CSALSA20_GROUP)
        // Every length up to a group, and what is next to the bounds of the strides of 1 and 2 groups.
        let lengths = Array(0...group) + (1...5).flatMap { [$0 * group - 1, $0 * group, $0 * group + 1] }
        let input = (0..<5 * group + 1).map { _ in UInt8.random(in: 0...255, using: &random) }
        for length in lengths {
            var reference = csalsa20_stream()
            csalsa20_xsalsa20_init(&reference, Self.firstKey, Self.nonce)
            reference.path = csalsa20_scalar.rawValue
            reference.state.8 = 0xFFFF_FFF9
            var whole = reference
            whole.path = path.rawValue
            var pieces = whole
            let expected = Self.xor(&reference, input[..<length])
            #expect(Self.xor(&whole, input[..<length]) == expected, "length \(length), seed \(seed)")
            var output: [UInt8] = []
            while output.count < length {
                let end = Int.random(in: output.count...length, using: &random)
                output += Self.xor(&pieces, input[output.count..<end])
            }
            #expect(output == expected, "length \(length) in pieces, seed \(seed)")
        }
    }

    @Test func inPlace() {
        var stream = csalsa20_stream()
        csalsa20_xsalsa20_init(&stream, Self.firstKey, Self.nonce)
        var again = stream
        var bytes = [UInt8]((0..<3000).map { UInt8(truncatingIfNeeded: $0) })
        let original = bytes
        bytes.withUnsafeMutableBufferPointer { csalsa20_xor(&stream, $0.baseAddress, $0.baseAddress, $0.count) }
        #expect(bytes != original)
        #expect(Self.xor(&again, bytes[...]) == original)
    }
}
