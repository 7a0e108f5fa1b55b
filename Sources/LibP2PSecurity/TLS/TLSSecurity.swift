import Crypto
import Glibc
public import Multiformats
public import NIOCore
import NIOSSL
public import PeerIdentity
import Synchronization

/// TLS 1.3 as libp2p uses it (libp2p/specs, tls): `/tls/1.0.0`. Mutual, without server names, AES-GCM where the processor
/// computes AES.
///
/// Key and certificate are made once, for all connections.
public struct TLSSecurity: SecurityProtocol {
    public static let protocolID = "/tls/1.0.0"
    /// What is negotiated within TLS when the muxer is negotiated afterwards.
    static let plainApplicationProtocol = "libp2p"

    private let contexts: TLSContexts
    private let wallClock: @Sendable () -> Int64

    public var protocolID: String { Self.protocolID }

    /// - Parameter wallClock: seconds since 1970, against which certificates of peers are checked; the system's by default.
    public init(
        identity: KeyPair,
        wallClock: (@Sendable () -> Int64)? = nil
    ) throws(LibP2PSecurityError) {
        do {
            let key = P256.Signing.PrivateKey()
            let certificate = try HostCertificate.make(identity: identity, key: key)
            self.contexts = try TLSContexts(certificate: certificate, key: Array(key.derRepresentation))
            self.wallClock = wallClock ?? { Int64(time(nil)) }
        } catch {
            throw .handshake(error, "the certificate for libp2p's TLS cannot be made")
        }
    }

    public func secure(
        _ channel: any Channel,
        role: ConnectionRole,
        expectedPeer: PeerID?,
        muxers: [String],
        received: ByteBuffer?
    ) -> EventLoopFuture<SecuredPeer> {
        let promise = channel.eventLoop.makePromise(of: SecuredPeer.self)
        let connection = TLSConnectionHandler(promise: promise)
        do {
            let wallClock = self.wallClock
            let handler = try self.contexts.handler(role: role, muxers: muxers) { certificates, verified in
                do {
                    let key = try HostCertificate.verify(
                        certificates.map { try $0.toDERBytes() },
                        now: wallClock()
                    )
                    try LibP2PSecurityError.check(key, is: expectedPeer)
                    connection.verification = .success(key)
                    verified.succeed(.certificateVerified)
                } catch {
                    connection.verification = .failure(.handshake(error, "the peer's TLS certificate is unreadable"))
                    verified.succeed(.failed)
                }
            }
            let pipeline = channel.pipeline.syncOperations
            // First the handler that hears of the end: the other may begin and end the handshake as it is added.
            try pipeline.addHandler(connection)
            try pipeline.addHandler(handler, position: .before(connection))
            if let received {
                let context = try pipeline.context(handler: handler)
                handler.channelRead(context: context, data: NIOAny(received))
                handler.channelReadComplete(context: context)
            }
        } catch {
            promise.fail(LibP2PSecurityError.handshake(error, "the TLS handshake cannot begin"))
        }
        return promise.futureResult
    }
}

/// The configurations of TLS for one certificate. They depend on the muxers that are offered, which are nearly always the same.
private final class TLSContexts: Sendable {
    private struct Pair {
        var muxers: [String]
        var client: NIOSSLContext
        var server: NIOSSLContext
    }

    /// The most sets of muxers that are kept; the oldest is made anew when it is asked for again.
    private static let maximumCount = 4

    private let certificate: NIOSSLCertificate
    private let key: NIOSSLPrivateKey
    private let pairs = Mutex<[Pair]>([])

    init(certificate: [UInt8], key: [UInt8]) throws {
        self.certificate = try NIOSSLCertificate(bytes: certificate, format: .der)
        self.key = try NIOSSLPrivateKey(bytes: key, format: .der)
    }

    func handler(
        role: ConnectionRole,
        muxers: [String],
        verify: @escaping NIOSSLCustomVerificationCallback
    ) throws -> NIOSSLHandler {
        let pair = try self.pairs.withLock { pairs in
            if let pair = pairs.first(where: { $0.muxers == muxers }) { return pair }
            let pair = try self.makePair(muxers)
            if pairs.count == Self.maximumCount { pairs.removeFirst() }
            pairs.append(pair)
            return pair
        }
        return switch role {
        case .initiator:
            try NIOSSLClientHandler(context: pair.client, serverHostname: nil, customVerificationCallback: verify)
        case .responder:
            NIOSSLServerHandler(context: pair.server, customVerificationCallback: verify)
        }
    }

    private func makePair(_ muxers: [String]) throws -> Pair {
        var client = TLSConfiguration.makeClientConfiguration()
        client.certificateChain = [.certificate(self.certificate)]
        client.privateKey = .privateKey(self.key)
        var server = TLSConfiguration.makeServerConfiguration(
            certificateChain: client.certificateChain,
            privateKey: .privateKey(self.key)
        )
        Self.restrict(&client, muxers)
        Self.restrict(&server, muxers)
        return Pair(
            muxers: muxers,
            client: try NIOSSLContext(configuration: client),
            server: try NIOSSLContext(configuration: server)
        )
    }

    private static func restrict(_ configuration: inout TLSConfiguration, _ muxers: [String]) {
        configuration.minimumTLSVersion = .tlsv13
        // Also makes the server ask for the client's certificate. What it proves, the callback decides; the system's
        // authorities have no part in it.
        configuration.certificateVerification = .noHostnameVerification
        configuration.trustRoots = .certificates([])
        configuration.applicationProtocols = muxers + [TLSSecurity.plainApplicationProtocol]
        // How long closing waits for the peer's notice.
        configuration.shutdownTimeout = .seconds(1)
    }
}
