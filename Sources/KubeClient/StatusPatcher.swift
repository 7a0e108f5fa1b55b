public import Documents
public import KubeModel
public import MeshCore
public import NIOCore
import NIOHTTP1

/// Writes the status of objects of the edge gateway. What somebody else wrote meanwhile is never lost: the object is read, and
/// written only as long as nobody has changed it.
public struct StatusPatcher: Sendable {
    private static let limit = Duration.seconds(30)
    private static let largestObject = 4 << 20
    /// How often it is read anew because somebody else was faster.
    private static let mostAttempts = 4

    private let transport: KubeTransport
    private let gate: RequestGate

    public init(_ configuration: KubeConfiguration, options: KubernetesSource.Options, group: any EventLoopGroup) {
        self.transport = KubeTransport(
            endpoint: configuration.endpoint,
            credentials: CredentialStore(configuration),
            group: group,
            userAgent: "edgemesh/\(options.version)"
        )
        self.gate = RequestGate(rate: options.requestsPerSecond, burst: options.burst)
    }

    /// - Parameter change: the members of `status` to be written, made of the object as it is; nil if it is as it should be.
    /// - Returns: whether it was written. An object that is gone needs no status.
    /// - Throws: `KubeError`, `.status(403)` if the account may not do it.
    @concurrent
    public func update(
        _ kind: ObjectKind,
        _ name: ObjectName,
        _ change: @Sendable (Document) -> Document?
    ) async throws -> Bool {
        let candidates = WatchedResource.gateway.flatMap(\.candidates).filter { $0.kind == kind }
        for candidate in candidates {
            let path = candidate.path(of: name)
            for _ in 0..<Self.mostAttempts {
                let (code, body) = try await self.send(
                    KubeRequest(path: path, idleLimit: Self.limit, totalLimit: Self.limit)
                )
                // The server has it at another version, or not at all.
                if code == 404 { break }
                guard code == 200 else { throw self.error(code, body, "tell the status of \(candidate) \(name)") }
                let object = try Document.parseJSON(body)
                guard let status = change(object) else { return false }
                let patch: Document = [
                    "metadata": ["resourceVersion": .string(object.resourceVersion ?? "")], "status": status,
                ]
                let (answer, words) = try await self.send(
                    KubeRequest(
                        path: "\(path)/status",
                        body: .mergePatch(patch.jsonBytes()),
                        idleLimit: Self.limit,
                        totalLimit: Self.limit
                    )
                )
                switch answer {
                case 200: return true
                case 404: return false
                case 409: continue
                default: throw self.error(answer, words, "take the status of \(candidate) \(name)")
                }
            }
        }
        return false
    }

    private func error(_ code: UInt, _ body: [UInt8], _ what: String) -> KubeError {
        KubeError(
            .status(Int(code)),
            "\(self.transport.endpoint.url) did not \(what): \(ServerStatus(body: body).message)"
        )
    }

    @concurrent
    private func send(_ request: KubeRequest) async throws -> (code: UInt, body: [UInt8]) {
        try await self.gate.pass()
        return try await self.transport.withConnection { connection in
            let response = try await connection.send(request)
            return (response.status.code, try await connection.collect(limit: Self.largestObject))
        }
    }
}
