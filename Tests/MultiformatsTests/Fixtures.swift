import MeshCore

@testable import Multiformats

/// The bytes of hexadecimal text; spaces are ignored.
func hex(_ text: String) -> [UInt8] {
    let digits = text.filter { $0 != " " }.compactMap(\.hexDigitValue)
    return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}

/// What `body` throws, by its code; nil if it throws nothing.
func code(_ body: () throws(MultiformatsError) -> Void) -> MultiformatsError.Code? {
    do {
        try body()
        return nil
    } catch {
        return error.code
    }
}

extension SeededGenerator {
    mutating func bytes(_ counts: ClosedRange<Int>) -> [UInt8] {
        (0..<Int.random(in: counts, using: &self)).map { _ in .random(in: .min ... .max, using: &self) }
    }

    /// Changes one byte, cuts, doubles or fills in.
    mutating func mutate(_ bytes: inout [UInt8]) {
        guard !bytes.isEmpty else { return }
        let index = Int.random(in: 0..<bytes.count, using: &self)
        switch Int.random(in: 0..<5, using: &self) {
        case 0: bytes[index] = .random(in: .min ... .max, using: &self)
        case 1: bytes[index] ^= 1 << UInt8.random(in: 0...7, using: &self)
        case 2: bytes.removeSubrange(index...)
        case 3: bytes.insert(.random(in: .min ... .max, using: &self), at: index)
        default: bytes[index...] = bytes[..<(bytes.count - index)]
        }
    }
}
