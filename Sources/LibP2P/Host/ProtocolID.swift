/// The name of a protocol that streams speak, such as `/ipfs/ping/1.0.0`.
public struct ProtocolID: Hashable, Sendable, Comparable, ExpressibleByStringLiteral, CustomStringConvertible {
    public let rawValue: String

    public init(_ rawValue: String) {
        self.rawValue = rawValue
    }

    public init(stringLiteral value: String) {
        self.rawValue = value
    }

    public var description: String { self.rawValue }

    public static func < (lhs: ProtocolID, rhs: ProtocolID) -> Bool { lhs.rawValue < rhs.rawValue }

    public static let identify: ProtocolID = "/ipfs/id/1.0.0"
    public static let identifyPush: ProtocolID = "/ipfs/id/push/1.0.0"
    public static let ping: ProtocolID = "/ipfs/ping/1.0.0"
}
