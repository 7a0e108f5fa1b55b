/// Why a datagram, or an agreement on keys, is of no use.
public struct DatagramError: Error, Sendable, Hashable, CustomStringConvertible {
    public enum Code: String, Sendable, Hashable, CaseIterable {
        /// Shorter than its header and its tag, or of another form.
        case malformed
        /// Its counter was there before, or is too old to tell.
        case replayed
        /// Its tag does not prove it.
        case forged
        /// The key has sealed as many datagrams as it may.
        case exhausted
        /// The keys of the two sides make no secret.
        case badKey
    }

    public let code: Code

    init(_ code: Code) { self.code = code }

    public var description: String {
        switch self.code {
        case .malformed: "a datagram of no known form"
        case .replayed: "a datagram that was there before, or came too late"
        case .forged: "a datagram that its tag does not prove"
        case .exhausted: "a key that has sealed as many datagrams as it may"
        case .badKey: "keys that make no secret"
        }
    }
}
