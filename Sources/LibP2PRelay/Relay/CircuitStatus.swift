/// How a request of the circuit protocols has ended (circuit v2, `Status`). Codes that are not known here are kept.
struct CircuitStatus: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    let rawValue: UInt64

    static let ok = CircuitStatus(rawValue: 100)
    static let reservationRefused = CircuitStatus(rawValue: 200)
    static let resourceLimitExceeded = CircuitStatus(rawValue: 201)
    static let permissionDenied = CircuitStatus(rawValue: 202)
    static let connectionFailed = CircuitStatus(rawValue: 203)
    static let noReservation = CircuitStatus(rawValue: 204)
    static let malformedMessage = CircuitStatus(rawValue: 400)
    static let unexpectedMessage = CircuitStatus(rawValue: 401)

    var description: String {
        switch self {
        case .ok: "OK"
        case .reservationRefused: "RESERVATION_REFUSED"
        case .resourceLimitExceeded: "RESOURCE_LIMIT_EXCEEDED"
        case .permissionDenied: "PERMISSION_DENIED"
        case .connectionFailed: "CONNECTION_FAILED"
        case .noReservation: "NO_RESERVATION"
        case .malformedMessage: "MALFORMED_MESSAGE"
        case .unexpectedMessage: "UNEXPECTED_MESSAGE"
        default: "status \(self.rawValue)"
        }
    }
}

extension LibP2PRelayError {
    /// What a relay's refusal means, and what can be done about it.
    /// - Parameter request: what was asked of whom, as the beginning of a sentence.
    init(_ status: CircuitStatus, request: String) {
        let (code, advice): (Code, String) =
            switch status {
            case .reservationRefused:
                (.reservationRefused, "it has no free slot: raise its limits of reservations, or name another relay")
            case .resourceLimitExceeded:
                (
                    .resourceLimitExceeded,
                    "it carries too many circuits of one of the peers: raise its limits, or use another relay"
                )
            case .permissionDenied:
                (.permissionDenied, "its access rules, or that the way to it is itself relayed, do not allow it")
            case .connectionFailed:
                (
                    .connectionFailed,
                    "it could not reach the peer: check that the peer is connected to it and accepts circuits"
                )
            case .noReservation:
                (.noReservation, "the peer has no reservation with it: check that the peer uses this relay")
            case .malformedMessage: (.malformed, "it did not understand the request")
            case .unexpectedMessage: (.unexpected, "it did not expect the request")
            default: (.unexpected, "a status that is not known")
            }
        self.init(code: code, message: "\(request) was answered with \(status): \(advice)")
    }
}
