import MeshCore

@testable import PeerIdentity

/// The bytes of hexadecimal text; spaces are ignored.
func hex(_ text: String) -> [UInt8] {
    let digits = text.filter { $0 != " " }.compactMap(\.hexDigitValue)
    return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}

func hexText(_ bytes: some Collection<UInt8>) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

/// What `body` throws, by its code; nil if it throws nothing.
func code(_ body: () throws(PeerIdentityError) -> Void) -> PeerIdentityError.Code? {
    do {
        try body()
        return nil
    } catch {
        return error.code
    }
}

extension KeyPair {
    /// The key whose private half counts from 0 to 31.
    static func counting() throws(PeerIdentityError) -> KeyPair {
        try KeyPair(ed25519Seed: Array(0..<32))
    }
}

extension SeededGenerator {
    /// Changes one bit or byte, or cuts.
    mutating func mutate(_ bytes: inout [UInt8]) {
        guard !bytes.isEmpty else { return }
        let index = Int.random(in: 0..<bytes.count, using: &self)
        switch Int.random(in: 0..<3, using: &self) {
        case 0: bytes[index] = .random(in: .min ... .max, using: &self)
        case 1: bytes[index] ^= 1 << UInt8.random(in: 0...7, using: &self)
        default: bytes.removeSubrange(index...)
        }
    }
}
