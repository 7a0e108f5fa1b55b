import Documents
import MeshCore

/// The seed of every random test here; a failure prints it with the case.
let randomSeed: UInt64 = 0x5EED_0001

extension Document {
    static func parseJSON(_ text: String) throws(DocumentError) -> Document { try .parseJSON(text.utf8) }
    static func parseYAML(_ text: String) throws(DocumentError) -> [Document] {
        try Document.parseYAML(Array(text.utf8))
    }

    static func random(_ generator: inout SeededGenerator, depth: Int = 0) -> Document {
        switch UInt64.random(in: 0..<(depth > 4 ? 7 : 11), using: &generator) {
        case 0: return nil
        case 1: return .init(.bool(.random(using: &generator)))
        case 2: return .integer(Int64.random(in: -100...100, using: &generator))
        case 3: return .integer(Int64(bitPattern: generator.next()))
        case 4:
            let number = Double(bitPattern: generator.next())
            return .init(.number(number.isFinite ? number : 0.5))
        case 5, 6: return .string(randomText(&generator))
        case 7, 8:
            return .array(
                (0..<Int.random(in: 0..<5, using: &generator)).map { _ in random(&generator, depth: depth + 1) }
            )
        default:
            var members: [Member] = []
            for _ in 0..<Int.random(in: 0..<6, using: &generator) {
                let key = randomText(&generator)
                if members.contains(where: { $0.key == key }) { continue }
                members.append(Member(key, random(&generator, depth: depth + 1)))
            }
            return .object(members)
        }
    }

    private static func randomText(_ generator: inout SeededGenerator) -> String {
        let traps = [
            "", "null", "~", "yes", "off", "y", "0x1F", "010", "1e3", "-", "- a", "a: b", "a #b", "#", "<<", "---",
            "...",
            " lead", "trail ", "a\nb", "a\n", "\n", "tab\there", "quote\"", "back\\slash", "'single'", "{", "[a]", "&a",
            "*a",
            "!t", "|", ">", "%", "@", "`", "a:", ":", "::", "1:20", "2026-11-21", ".5", "+1", "1_000", "=", "a\u{0}b",
            "\u{7F}",
            "\u{85}", "\u{2028}", "\u{FEFF}", "\u{FFFF}", "é", "日本語", "👩‍🚀", "\u{1F}", "\r", "a\r\nb", "a  b", ", ", "?",
            "? a",
            "metadata", "kubernetes.io/service-name", String(repeating: "long", count: 300),
        ]
        guard Bool.random(using: &generator) else {
            return traps[Int.random(in: 0..<traps.count, using: &generator)]
        }
        var text = ""
        for _ in 0..<Int.random(in: 0..<12, using: &generator) {
            let value = UInt32.random(in: Bool.random(using: &generator) ? 0..<0x80 : 0..<0x11_0000, using: &generator)
            text.unicodeScalars.append(UnicodeScalar(value) ?? "x")
        }
        return text
    }
}
