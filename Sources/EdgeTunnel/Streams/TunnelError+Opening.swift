import LibP2P
import MeshInterfaces
import Multiformats
import Yamux

extension TunnelError {
    static func late(_ target: TunnelTarget) -> TunnelError {
        TunnelError(
            code: .timedOut,
            message: "no answer in time from the agent of \(target.node) about \(target.address): "
                + "check its path (edgemesh ping \(target.node)) and that the target runs"
        )
    }

    /// What an agent of v1.17 answers, whatever the reason.
    static func failedThere(_ target: TunnelTarget) -> TunnelError {
        TunnelError(
            code: .refused,
            message: "the agent of \(target.node) could not connect to \(target.address); "
                + "as it is one of v1.17, only its own log tells why",
            isAnswer: true
        )
    }

    /// Tells what an agent of ours has answered.
    init(_ reply: OpenReply, opening target: TunnelTarget) {
        let code: TunnelError.Code =
            switch reply.code {
            case .refused: .refused
            case .unreachable: .unreachable
            case .notAllowed: .notAllowed
            case .overloaded: .overloaded
            case .timedOut: .timedOut
            case .wrongNode: .unknownNode
            case .ok, .badRequest, nil: .badAnswer
            }
        let said = reply.message.isEmpty ? "\(reply.code.map { "\($0)" } ?? "an unknown code")" : reply.message
        self.init(code: code, message: "\(target.address) at \(target.node): \(said)", isAnswer: true)
    }

    /// Tells why there is no flow, for whatever stood in its way.
    init(_ error: any Error, opening target: TunnelTarget) {
        if case PreambleError.late = error {
            self = .late(target)
        } else {
            self.init(error, with: target.node)
        }
    }

    /// Tells why there is no channel of packets.
    init(_ error: any Error, openingPacketsTo node: String) {
        if case PreambleError.late = error {
            self.init(
                code: .timedOut,
                message:
                    "no answer in time from the agent of \(node) about packets: check its path (edgemesh ping \(node))"
            )
        } else {
            self.init(error, with: node)
        }
    }

    private init(_ error: any Error, with node: String) {
        let agent = "the agent of \(node)"
        switch error {
        case let error as TunnelError:
            self = error
        case let error as LibP2PError:
            self.init(code: Self.code(of: error.code), message: "\(agent): \(error)")
        case is MultiformatsError:
            self.init(code: .badAnswer, message: "\(agent) answers what this one does not understand: \(error)")
        case let error as YamuxError where error.code == .streamReset:
            self.init(
                code: .overloaded,
                message: "\(agent) reset the stream without an answer: it is at a limit, or stopping (\(error))"
            )
        case let error as YamuxError where error.code == .limitExceeded:
            self.init(code: .overloaded, message: "the connection to \(node) is at a limit: \(error)")
        default:
            self.init(code: .noPath, message: "the stream to \(agent) was lost before it answered: \(error)")
        }
    }

    private static func code(of code: LibP2PError.Code) -> TunnelError.Code {
        switch code {
        case .limitExceeded: .overloaded
        case .timedOut: .timedOut
        case .shutDown: .notRunning
        case .protocolNotSupported, .malformed: .badAnswer
        case .notAllowed: .notAllowed
        case .dialFailed, .noAddresses, .connectionClosed, .resolutionFailed, .peerMismatch, .wrongPreSharedKey,
            .handshakeFailed, .listenFailed, .selfDial:
            .noPath
        }
    }
}
