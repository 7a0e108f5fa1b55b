import Multiformats
import NIOCore
import NIOHTTP1
import NIOWebSocket

/// Adds what turns an HTTP connection into a WebSocket and leaves only `WebSocketByteHandler` and NIO's codec behind.
enum WebSocketUpgrade {
    /// On the channel's loop. The future completes on it, before the first frame's bytes are passed on.
    static func addClient(
        to channel: any Channel,
        host: String,
        configuration: WebSocketTransport.Configuration,
        layers: [Multiaddr.Component]
    ) throws -> EventLoopFuture<RawConnection> {
        let upgrader = NIOTypedWebSocketClientUpgrader<RawConnection>(
            maxFrameSize: configuration.maximumFrameBytes,
            enableAutomaticErrorHandling: false
        ) { channel, _ in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(WebSocketByteHandler(isServer: false))
                return try RawConnection(tcp: channel, layers: layers)
            }
        }
        let request = HTTPRequestHead(
            version: .http1_1,
            method: .GET,
            uri: configuration.path,
            headers: ["host": host, "content-length": "0"]
        )
        var pipeline = NIOUpgradableHTTPClientPipelineConfiguration(
            upgradeConfiguration: NIOTypedHTTPClientUpgradeConfiguration(
                upgradeRequestHead: request,
                upgraders: [upgrader],
                notUpgradingCompletionHandler: { channel in
                    channel.eventLoop.makeFailedFuture(
                        LibP2PError(
                            code: .handshakeFailed,
                            message: "\(host) refuses to become a WebSocket: check the address's port and transport"
                        )
                    )
                }
            )
        )
        pipeline.leftOverBytesStrategy = .forwardBytes
        return try channel.pipeline.syncOperations.configureUpgradableHTTPClientPipeline(configuration: pipeline)
    }

    /// On the channel's loop. Other requests than an upgrade of the configured path are answered with an error and closed.
    static func addServer(
        to channel: any Channel,
        configuration: WebSocketTransport.Configuration,
        layers: [Multiaddr.Component]
    ) throws -> EventLoopFuture<RawConnection> {
        let path = configuration.path
        let upgrader = NIOTypedWebSocketServerUpgrader<RawConnection>(
            maxFrameSize: configuration.maximumFrameBytes,
            enableAutomaticErrorHandling: false,
            shouldUpgrade: { channel, head in
                channel.eventLoop.makeSucceededFuture(head.uri == path ? HTTPHeaders() : nil)
            },
            upgradePipelineHandler: { channel, _ in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(WebSocketByteHandler(isServer: true))
                    return try RawConnection(tcp: channel, layers: layers)
                }
            }
        )
        var pipeline = NIOUpgradableHTTPServerPipelineConfiguration(
            upgradeConfiguration: NIOTypedHTTPServerUpgradeConfiguration(
                upgraders: [upgrader],
                notUpgradingCompletionHandler: { channel in
                    let head = HTTPResponseHead(
                        version: .http1_1,
                        status: .upgradeRequired,
                        headers: ["upgrade": "websocket", "content-length": "0", "connection": "close"]
                    )
                    channel.write(HTTPServerResponsePart.head(head), promise: nil)
                    return channel.writeAndFlush(HTTPServerResponsePart.end(nil)).flatMapThrowing {
                        throw LibP2PError(code: .handshakeFailed, message: "the client did not ask for a WebSocket")
                    }
                }
            )
        )
        pipeline.enablePipelining = false
        return try channel.pipeline.syncOperations.configureUpgradableHTTPServerPipeline(configuration: pipeline)
    }
}
