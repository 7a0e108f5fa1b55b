import LibP2P
import LibP2PRelay
import Multiformats

/// What a dial that failed has tried, in one line that a person reads.
enum DialSummary {
    static let maximumAttempts = 4

    /// - Parameter name: of the node of a relay.
    static func text(_ error: any Error, name: (PeerID) -> String?) -> String {
        guard let error = error as? LibP2PError else { return "\(error)" }
        guard !error.attempts.isEmpty else {
            return error.code == .noAddresses ? "no address of it is known, and no relay" : error.message
        }
        // Direct attempts first: they say more of the node itself.
        let attempts = error.attempts.filter { !$0.address.isCircuit } + error.attempts.filter(\.address.isCircuit)
        var texts = attempts.prefix(Self.maximumAttempts).map { Self.text($0, name: name) }
        if attempts.count > texts.count { texts.append("and \(attempts.count - texts.count) more") }
        return texts.joined(separator: "; ")
    }

    private static func text(_ attempt: DialAttempt, name: (PeerID) -> String?) -> String {
        let reason =
            switch attempt.error {
            case let error as LibP2PError: error.description
            case let error as LibP2PRelayError: error.message
            default: "\(attempt.error)"
            }
        let brief = reason.utf8.count > 240 ? "\(reason.prefix(240))…" : reason
        guard let relay = attempt.address.relay?.address.peerID else { return "\(attempt.address): \(brief)" }
        return "by relay \(name(relay) ?? relay.description): \(brief)"
    }
}
