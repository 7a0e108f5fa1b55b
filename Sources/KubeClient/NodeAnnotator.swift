import Documents
public import NIOCore
import NIOHTTP1

/// Writes annotations of Node objects: the one thing that an agent changes in the cluster.
public struct NodeAnnotator: Sendable {
    private let transport: KubeTransport

    private static let limit = Duration.seconds(30)

    /// - Parameter version: shown to the server as `edgemesh/VERSION`.
    public init(_ configuration: KubeConfiguration, version: String, group: any EventLoopGroup) {
        self.transport = KubeTransport(
            endpoint: configuration.endpoint,
            credentials: CredentialStore(configuration),
            group: group,
            userAgent: "edgemesh/\(version)"
        )
    }

    /// Sets one annotation of a node, and leaves all else as it is (a merge patch, RFC 7386).
    /// - Throws: `KubeError`, `.status(403)` if the account may not patch nodes.
    @concurrent
    public func annotate(node: String, key: String, value: String) async throws {
        let patch: Document = ["metadata": ["annotations": .object([.init(key, .string(value))])]]
        let request = KubeRequest(
            path: "/api/v1/nodes/\(node)",
            body: .mergePatch(patch.jsonBytes()),
            idleLimit: Self.limit,
            totalLimit: Self.limit
        )
        try await self.transport.withConnection { connection in
            let response = try await connection.send(request)
            guard response.status.code != 200 else {
                while try await connection.nextChunk() != nil {}
                return
            }
            let status = ServerStatus(body: try await connection.collect(limit: Reflector.errorBodyLimit))
            throw KubeError(
                .status(Int(response.status.code)),
                "\(self.transport.endpoint.url) did not annotate node \(node): \(status.message)"
            )
        }
    }
}
