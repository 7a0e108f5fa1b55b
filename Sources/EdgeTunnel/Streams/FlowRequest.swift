import ByteStreams
import Glibc
import LibP2P
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore

/// Which protocol a flow is asked for in, and how its answers look.
enum FlowDialect: Sendable, CaseIterable {
    case own
    /// That of v1.17.
    case original

    var protocolID: ProtocolID {
        switch self {
        case .own: TunnelProtocol.flow
        case .original: TunnelProtocol.proxy
        }
    }

    func refusal(_ code: OpenReply.Code, _ message: String) -> ByteBuffer {
        switch self {
        case .own: OpenReply(code, message).framed
        case .original: ProxyMessage.failed.framed
        }
    }
}

/// What a peer wants to be dialled, in whichever protocol it said so.
struct FlowRequest {
    let dialect: FlowDialect
    let transport: TransportProtocol
    let node: String
    let target: TransportAddress
    let client: TransportAddress?
    let service: ObjectName?
    /// Nil if the protocol does not tell.
    let purpose: TunnelTarget.Purpose?
    let timeout: TimeAmount?
    /// The answer that lets the flow begin.
    let acceptance: ByteBuffer

    init(_ message: ByteBuffer, _ dialect: FlowDialect) throws(MultiformatsError) {
        self.dialect = dialect
        switch dialect {
        case .own:
            let request = try OpenRequest(message)
            self.transport = request.transport
            self.node = request.node
            self.target = TargetPolicy.normalized(request.target)
            self.client = request.client
            self.service = request.service
            self.purpose = request.purpose
            let milliseconds = Int64(request.timeoutMilliseconds)
            self.timeout = milliseconds > 0 ? .milliseconds(milliseconds) : nil
            self.acceptance = OpenReply.ok.framed
        case .original:
            let request = try ProxyMessage(message)
            guard request.kind == .connect, let transport = request.transport, let target = request.target else {
                throw MultiformatsError(code: .malformed, message: "no request to connect to a TCP or UDP target")
            }
            self.transport = transport
            self.node = request.nodeName ?? ""
            self.target = TargetPolicy.normalized(target)
            self.client = nil
            self.service = nil
            self.purpose = nil
            self.timeout = nil
            self.acceptance = request.success.framed
        }
    }
}

/// Why a target could not be dialled.
struct DialFailure: Sendable, Hashable {
    let code: OpenReply.Code
    let message: String

    init(_ error: any Error, dialling target: TransportAddress) {
        switch error {
        case let error as ByteStreamsError where error.code == .deadlineExceeded:
            self.code = .timedOut
        case let error as IOError:
            switch error.errnoCode {
            case ECONNREFUSED: self.code = .refused
            case ETIMEDOUT: self.code = .timedOut
            case EMFILE, ENFILE, ENOBUFS, ENOMEM, EAGAIN: self.code = .overloaded
            default: self.code = .unreachable
            }
        default:
            self.code = .unreachable
        }
        self.message = "\(target): \(error)"
    }
}
