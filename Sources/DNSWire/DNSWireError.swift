/// Bytes that are no DNS message, or text that is no domain name.
public struct DNSWireError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// The message ends inside a field.
        case truncated
        /// A label over 63 octets, a name over 255, or a label type other than text and pointer.
        case invalidName
        /// A compression pointer that does not point backwards.
        case invalidPointer
        /// Record data that does not fit its type.
        case invalidRecord
        /// More than one OPT record, or one in the wrong section or with a name.
        case invalidEDNS
    }

    public var code: Code
    /// What was read when it failed.
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { "\(self.code): \(self.message)" }
}
