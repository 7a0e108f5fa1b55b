import Glibc
import Logging
import MeshCore
import NIOCore
import NIOPosix
import Testing

@testable import Admin

@Suite(.timeLimit(.minutes(1))) struct AdminServerTests {
    private static func temporaryPath() -> String {
        "/tmp/edgemesh-admin-\(getpid())-\(UInt32.random(in: 0...(.max)))/a/agent.sock"
    }

    /// Runs a server on a socket of its own while `body` runs off the cooperative pool.
    private func withServer(
        at path: String,
        respond: @escaping @Sendable (AdminRequest) async -> AdminResponse,
        _ body: @escaping @Sendable (AdminClient) throws -> Void
    ) async throws {
        let server = AdminServer(
            listener: .unixSocket(path: path),
            eventLoop: MultiThreadedEventLoopGroup.singleton.next(),
            logger: Logger(label: "test"),
            respond: respond
        )
        let running = Task { try await server.run() }
        let client = AdminClient(socketPath: path, timeoutSeconds: 20)
        try await NIOThreadPool.singleton.runIfActive {
            while !client.isAnswered { usleep(2000) }
            try body(client)
        }
        running.cancel()
        try? await running.value
        #expect(access(path, F_OK) != 0, "the socket is removed at the end")
    }

    @Test func answersOnASocketThatOnlyItsOwnerMayUse() async throws {
        let path = Self.temporaryPath()
        try await self.withServer(at: path) { request in
            AdminResponse(
                status: 200,
                body: "\(request.method.rawValue) \(request.path) \(request.query["service"] ?? "-")"
            )
        } _: { client in
            var status = stat()
            #expect(stat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
            let (code, body) = try client.request(.get, "/status?service=default%2Fweb")
            #expect(code == 200)
            #expect(String(decoding: body, as: UTF8.self) == "GET /status default/web")
            let (reloaded, _) = try client.request(.post, "/reload")
            #expect(reloaded == 200)
        }
    }

    @Test func aSocketLeftByACrashIsReplacedAndALiveOneIsNot() async throws {
        let path = Self.temporaryPath()
        try await self.withServer(at: path) { _ in
            AdminResponse(status: 200, body: "first")
        } _: { _ in
        }
        // What a crash leaves: a socket file that nobody serves.
        let left = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .bind(unixDomainSocketPath: path).get()
        try await left.close()
        try await self.withServer(at: path) { _ in
            AdminResponse(status: 200, body: "second")
        } _: { client in
            let body = try client.request(.get, "/").1
            #expect(body == Array("second".utf8))
            let other = AdminServer(
                listener: .unixSocket(path: path),
                eventLoop: MultiThreadedEventLoopGroup.singleton.next(),
                logger: Logger(label: "test")
            ) { _ in AdminResponse(status: 200, body: "intruder") }
            let outcome = MultiThreadedEventLoopGroup.singleton.next().makeFutureWithTask { try await other.run() }
            #expect { try outcome.wait() } throws: { ($0 as? AdminError)?.code == .cannotListen }
            let unchanged = try client.request(.get, "/").1
            #expect(unchanged == Array("second".utf8))
        }
    }

    @Test func connectionsAndBodiesAreBounded() async throws {
        let path = Self.temporaryPath()
        try await self.withServer(at: path) { _ in
            AdminResponse(status: 200, body: "ok")
        } _: { client in
            let held = try (0..<AdminServer.connectionLimit).map { _ in
                try ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                    .connect(unixDomainSocketPath: path).wait()
            }
            #expect(throws: AdminError.self) { try client.request(.get, "/status") }
            for channel in held { try channel.close().wait() }
            while (try? client.request(.get, "/status").0) != 200 { usleep(2000) }
        }
    }

    @Test(arguments: ["DELETE", "BREW"])
    func otherMethodsAreRefused(method: String) {
        #expect(AdminRequest(method: method, target: "/status") == nil)
    }

    @Test func noAgentIsSaidInWords() {
        let client = AdminClient(socketPath: "/tmp/edgemesh-no-such.sock")
        #expect { try client.request(.get, "/status") } throws: { error in
            (error as? AdminError)?.code == .notRunning && "\(error)".contains("is edgemesh-agent running")
        }
    }
}
