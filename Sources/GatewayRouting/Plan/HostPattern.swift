/// A host name, `*.name`, or `*`: lower case, without a final dot.
public struct HostPattern: Sendable, Hashable, CustomStringConvertible {
    public let text: String

    /// Nil if it is no host name with at most one `*`, in front.
    public init?(_ text: String) {
        guard let text = Self.normalized(text) else { return nil }
        self.text = text
    }

    private init(checked text: String) {
        self.text = text
    }

    public static let any = HostPattern(checked: "*")

    public var description: String { self.text }

    var isWildcard: Bool { self.text.utf8.first == UInt8(ascii: "*") }

    private static func normalized(_ text: String) -> String? {
        var bytes = Array(text.utf8)
        if bytes.last == UInt8(ascii: ".") { bytes.removeLast() }
        guard (1...253).contains(bytes.count) else { return nil }
        if bytes == [UInt8(ascii: "*")] { return "*" }
        var labels = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        if labels[0].elementsEqual("*".utf8) { labels.removeFirst() }
        guard labels.allSatisfy(Self.isLabel) else { return nil }
        return String(decoding: bytes.map(Self.lower), as: UTF8.self)
    }

    private static func isLabel(_ label: ArraySlice<UInt8>) -> Bool {
        guard (1...63).contains(label.count) else { return false }
        return label.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                true
            default: false
            }
        }
    }

    private static func lower(_ byte: UInt8) -> UInt8 { (0x41...0x5A).contains(byte) ? byte | 0x20 : byte }

    /// - Parameter host: in lower case, without port or final dot.
    public func matches(_ host: some StringProtocol) -> Bool {
        if self.text == "*" { return true }
        guard self.isWildcard else { return self.text == host }
        let suffix = self.text.dropFirst()
        return host.utf8.count > suffix.utf8.count && host.hasSuffix(suffix)
    }

    /// Orders most specific first: names before wildcards, longer wildcards before shorter ones, `*` last.
    public static func isMoreSpecific(_ first: HostPattern, than second: HostPattern) -> Bool {
        let ranks = [first, second].map { ($0.isWildcard ? 1 : 0, -$0.text.utf8.count) }
        return ranks[0] == ranks[1] ? first.text < second.text : ranks[0] < ranks[1]
    }
}
