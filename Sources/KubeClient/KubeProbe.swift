import Documents
import Glibc
import MeshCore
import NIOHTTP1

/// What `edgemesh check` learns about an API server.
public struct KubeProbe: Sendable {
    public enum Permission: Hashable, Sendable {
        case allowed
        /// With the server's reason.
        case denied(String)
        /// The server does not have the resource.
        case absent
        case failed(String)
    }

    public struct ResourceCheck: Hashable, Sendable {
        /// As in RBAC rules, such as `endpointslices.discovery.k8s.io`.
        public var resource: String
        public var version: String
        public var permission: Permission
        public var latency: Duration
    }

    public struct RightCheck: Hashable, Sendable {
        public var right: AccessRight
        /// Nil if the server does not say.
        public var isAllowed: Bool?
    }

    /// The server's URL.
    public var origin: String
    /// `gitVersion`; nil if the server does not say (the MetaServer does not).
    public var serverVersion: String?
    /// From request to answer on a connection that stands.
    public var latency: Duration?
    /// The server's clock less this machine's, to within a second; nil without a `Date` header.
    public var clockSkew: Duration?
    public var resources: [ResourceCheck] = []
    /// Of what was asked for.
    public var rights: [RightCheck] = []
    /// Why the server could not be asked, if it could not.
    public var failure: KubeError?
}

extension KubernetesSource {
    /// Asks the server for its version and for one object of each resource that is followed. Takes at most about 10 seconds per
    /// resource; never throws but reports what failed.
    /// - Parameter rights: are asked for in words; nothing is done that needs them.
    public func probe(rights: [AccessRight] = []) async -> KubeProbe {
        do {
            var probe = try await self.transport.withConnection { connection in
                try await self.probe(on: &connection)
            }
            for right in rights {
                let isAllowed = try await self.transport.withConnection { try await Self.review(right, on: &$0) }
                probe.rights.append(KubeProbe.RightCheck(right: right, isAllowed: isAllowed))
            }
            return probe
        } catch {
            var probe = KubeProbe(origin: self.configuration.endpoint.url)
            probe.failure = error as? KubeError ?? KubeError(.disconnected, "the probe was broken off", cause: error)
            return probe
        }
    }

    @concurrent
    private func probe(on connection: inout KubeConnection) async throws -> KubeProbe {
        var probe = KubeProbe(origin: self.configuration.endpoint.url)
        let limit = Duration.seconds(10)
        let began = MonotonicTime.now()
        let response = try await connection.send(KubeRequest(path: "/version", idleLimit: limit, totalLimit: limit))
        probe.latency = .now() - began
        probe.clockSkew = response.headers.first(name: "Date").flatMap(Timestamp.httpDate).map {
            .seconds($0 - Int64(time(nil)))
        }
        let body = try await connection.collect(limit: Reflector.errorBodyLimit)
        if response.status.code == 200 {
            probe.serverVersion = (try? Document.parseJSON(body))?["gitVersion"]?.string
        }
        let always = WatchedResource.all(isMetaServer: self.configuration.isMetaServer)
        for resource in always.filter({ !$0.hasVersions }).flatMap(\.candidates) {
            if connection.isReusable {
                probe.resources.append(try await Self.check(resource, on: &connection))
            } else {
                let check = try await self.transport.withConnection { try await Self.check(resource, on: &$0) }
                probe.resources.append(check)
            }
        }
        for resource in always.filter(\.hasVersions) + (self.options.followsGateway ? WatchedResource.gateway : []) {
            probe.resources += try await self.firstPresent(of: resource)
        }
        return probe
    }

    /// What is known of the candidate that would be followed; of the last one if the server has none.
    @concurrent
    private func firstPresent(of resource: WatchedResource) async throws -> [KubeProbe.ResourceCheck] {
        var found: KubeProbe.ResourceCheck?
        for candidate in resource.candidates {
            found = try await self.transport.withConnection { try await Self.check(candidate, on: &$0) }
            if found?.permission != .absent { break }
        }
        return found.map { [$0] } ?? []
    }

    @concurrent
    private static func review(_ right: AccessRight, on connection: inout KubeConnection) async throws -> Bool? {
        let limit = Duration.seconds(10)
        let response = try await connection.send(
            KubeRequest(
                path: AccessRight.reviewPath,
                body: .json(right.review.jsonBytes()),
                idleLimit: limit,
                totalLimit: limit
            )
        )
        let body = try await connection.collect(limit: Reflector.errorBodyLimit)
        guard [200, 201].contains(response.status.code) else { return nil }
        return (try? Document.parseJSON(body))?["status"]?["allowed"]?.bool
    }

    @concurrent
    private static func check(
        _ resource: APIResource,
        on connection: inout KubeConnection
    ) async throws -> KubeProbe.ResourceCheck {
        let limit = Duration.seconds(10)
        let began = MonotonicTime.now()
        let request = ReflectorStateMachine.ListRequest(resource: resource, limit: 1, resourceVersion: "")
        let response = try await connection.send(
            KubeRequest(path: request.path, acceptsGzip: true, idleLimit: limit, totalLimit: limit)
        )
        let permission: KubeProbe.Permission
        if response.status.code == 200 {
            // Servers that ignore the limit send all of it; what is not needed is read and dropped.
            while try await connection.nextChunk() != nil {}
            permission = .allowed
        } else {
            let status = ServerStatus(body: try await connection.collect(limit: Reflector.errorBodyLimit))
            switch response.status.code {
            case 401, 403: permission = .denied(status.message)
            case 404: permission = .absent
            default: permission = .failed("\(response.status.code): \(status.message)")
            }
        }
        return KubeProbe.ResourceCheck(
            resource: resource.description,
            version: resource.version,
            permission: permission,
            latency: .now() - began
        )
    }
}
