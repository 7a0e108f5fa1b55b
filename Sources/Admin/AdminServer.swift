import ByteStreams
import Glibc
public import Logging
public import MeshCore
public import NIOCore
import NIOHTTP1
import NIOPosix
public import ServiceLifecycle

/// Where the admin interface listens.
public enum AdminListener: Hashable, Sendable, CustomStringConvertible {
    /// For `edgemesh status` and its like: only the socket's owner may use it.
    case unixSocket(path: String)
    /// For a metrics collector: serves what is read-only and harmless.
    case metrics(TransportAddress)

    public var description: String {
        switch self {
        case .unixSocket(let path): "unix:\(path)"
        case .metrics(let address): "http://\(address)"
        }
    }
}

/// The HTTP listener of the admin interface. Runs until the task is cancelled or shut down gracefully.
public struct AdminServer: Service {
    /// Connections at once; more are refused.
    public static let connectionLimit = 32

    private let listener: AdminListener
    private let eventLoop: any EventLoop
    private let logger: Logger
    private let respond: @Sendable (AdminRequest) async -> AdminResponse

    public init(
        listener: AdminListener,
        eventLoop: any EventLoop,
        logger: Logger,
        respond: @escaping @Sendable (AdminRequest) async -> AdminResponse
    ) {
        self.listener = listener
        self.eventLoop = eventLoop
        self.logger = logger
        self.respond = respond
    }

    public func run() async throws {
        let channel = try await self.bind()
        self.logger.info("Admin interface listens", metadata: ["address": "\(self.listener)"])
        try await withTaskCancellationOrGracefulShutdownHandler {
            try await channel.closeFuture.get()
        } onCancelOrGracefulShutdown: {
            channel.close(promise: nil)
        }
        if case .unixSocket(let path) = self.listener { unlink(path) }
    }

    private func bind() async throws -> any Channel {
        let respond = self.respond
        let (logger, listener) = (self.logger, self.listener)
        let bootstrap = ServerBootstrap(group: self.eventLoop)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pause = AcceptPause { error, isFirst in
                        guard isFirst else { return }
                        logger.error(
                            "the admin interface accepts nothing for a while: descriptors or memory are short; raise LimitNOFILE",
                            metadata: ["address": "\(listener)", "error": "\(error)"]
                        )
                    }
                    try channel.pipeline.syncOperations.addHandlers([
                        pause, ConnectionBound(limit: Self.connectionLimit),
                    ])
                }
            }
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline()
                    try channel.pipeline.syncOperations.addHandler(AdminHandler(respond: respond))
                }
            }
        do {
            switch self.listener {
            case .unixSocket(let path):
                return try await Self.bindUnixSocket(path, bootstrap)
            case .metrics(let address):
                let bindAddress = try SocketAddress(
                    ipAddress: address.address.description,
                    port: Int(address.port)
                )
                return try await bootstrap.bind(to: bindAddress).get()
            }
        } catch let error as AdminError {
            throw error
        } catch {
            throw AdminError(code: .cannotListen, message: "cannot listen on \(self.listener): \(error)")
        }
    }

    /// Takes the place of a socket that a crashed process left; a socket on which somebody answers is left alone. The
    /// socket gets its mode under another name, so that it is never open to others.
    private static func bindUnixSocket(_ path: String, _ bootstrap: ServerBootstrap) async throws -> any Channel {
        let newPath = path + ".new"
        guard newPath.utf8.count < AdminClient.maximumPathLength else {
            throw AdminError(
                code: .cannotListen,
                message: "the socket path \(path) is longer than \(AdminClient.maximumPathLength - 5) bytes"
            )
        }
        try self.makeFolder(of: path)
        if AdminClient(socketPath: path).isAnswered {
            throw AdminError(
                code: .cannotListen,
                message: "another agent answers on \(path): stop it first, or give this one a socket of its own"
            )
        }
        unlink(newPath)
        let channel = try await bootstrap.bind(unixDomainSocketPath: newPath).get()
        guard chmod(newPath, 0o600) == 0, rename(newPath, path) == 0 else {
            let reason = errno
            channel.close(promise: nil)
            throw AdminError(code: .cannotListen, message: "cannot put a socket at \(path): errno \(reason)")
        }
        return channel
    }

    private static func makeFolder(of path: String) throws {
        let folder = path.split(separator: "/").dropLast().reduce(path.hasPrefix("/") ? "" : ".") { made, part in
            let next = made + "/" + part
            mkdir(next, 0o755)
            return next
        }
        var status = stat()
        guard folder.isEmpty || (stat(folder, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR) else {
            throw AdminError(
                code: .cannotListen,
                message: "cannot make the folder \(folder) for \(path): errno \(errno)"
            )
        }
    }
}
