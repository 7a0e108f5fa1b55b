import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// Answers every HTTP request with the same text, in clear or over TLS.
final class HTTPTextServer: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    struct TLSFiles: Sendable {
        var certificateFile: String
        var keyFile: String

        func makeContext() throws -> NIOSSLContext {
            do {
                let chain = try NIOSSLCertificate.fromPEMFile(self.certificateFile)
                let key = try NIOSSLPrivateKey(file: self.keyFile, format: .pem)
                return try NIOSSLContext(
                    configuration: .makeServerConfiguration(
                        certificateChain: chain.map { .certificate($0) },
                        privateKey: .privateKey(key)
                    )
                )
            } catch {
                throw LabError(
                    .file,
                    "cannot use certificate \(self.certificateFile) with key \(self.keyFile) (both PEM)",
                    cause: "\(error)"
                )
            }
        }
    }

    private let text: String
    private var keepsAlive = false

    init(text: String) {
        self.text = text
    }

    static func start(on address: SocketAddress, text: String, tls: TLSFiles? = nil) async throws -> any Channel {
        let tlsContext = try tls?.makeContext()
        return try await LabServer.bootstrap()
            // HTTP has no use for a half-closed connection, and NIO's pipelining handler closes on it.
            .childChannelOption(.allowRemoteHalfClosure, value: false)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    if let tlsContext { try pipeline.addHandler(NIOSSLServerHandler(context: tlsContext)) }
                    try pipeline.configureHTTPServerPipeline()
                    try pipeline.addHandler(HTTPTextServer(text: text))
                }
            }
            .bind(to: address).get()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.unwrapInboundIn(data) {
        case .head(let head):
            self.keepsAlive = head.isKeepAlive
        case .body:
            break
        case .end:
            self.respond(context: context)
        }
    }

    private func respond(context: ChannelHandlerContext) {
        var head = HTTPResponseHead(version: .http1_1, status: .ok)
        head.headers.add(name: "content-type", value: "text/plain")
        head.headers.add(name: "content-length", value: "\(self.text.utf8.count)")
        if !self.keepsAlive { head.headers.add(name: "connection", value: "close") }
        context.write(self.wrapOutboundOut(.head(head)), promise: nil)
        context.write(self.wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: self.text)))), promise: nil)
        let written = context.writeAndFlush(self.wrapOutboundOut(.end(nil)))
        if !self.keepsAlive {
            let channel = context.channel
            written.whenComplete { _ in channel.close(promise: nil) }
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}
