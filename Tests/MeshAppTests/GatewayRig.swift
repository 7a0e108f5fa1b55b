import Configuration
import Documents
import FakeKube
import Glibc
import KubeModel
import Logging
import MeshTesting
import NIOCore
import NIOHTTP1
import NIOPosix
import ServiceLifecycle

@testable import MeshApp

/// A gateway as `edgemesh-gateway` runs it, which follows a cluster, without the machine below it.
final class GatewayRig {
    let kube = FakeKube()
    let parts: AgentParts
    /// Of loopback, and this rig's alone, so that ports on it are free.
    let address: String
    let folder: String
    let configuration: AgentConfiguration
    private let group: ServiceGroup
    private let running: Task<Void, any Error>
    private let backend: any Channel
    let backendPort: Int

    /// - Parameter number: tells this rig's address from that of others.
    init(
        _ number: Int,
        role: AgentConfiguration.Role
    ) async throws {
        self.address = "127.88.\(number).1"
        self.folder = "/tmp/edgemesh-gateway-\(number)-\(getpid())"
        mkdir(self.folder, 0o700)
        try await self.kube.start()
        self.backend = try await Self.startBackend()
        self.backendPort = self.backend.localAddress?.port ?? 0
        var configuration = AgentConfiguration(role: role)
        configuration.commonConfig.nodeName = "n1"
        configuration.commonConfig.stateDir = self.folder
        configuration.kubeAPIConfig.mode = .manual
        configuration.kubeAPIConfig.master = self.kube.url
        configuration.modules.edgeGateway.enable = true
        self.configuration = configuration
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        self.parts = AgentParts(
            configuration: configuration,
            platform: .nothing,
            group: MultiThreadedEventLoopGroup.singleton,
            logger: logger
        )
        let group = ServiceGroup(configuration: .init(services: self.parts.services(admin: []), logger: logger))
        self.group = group
        self.running = Task { try await group.run() }
    }

    func stop() async {
        await self.group.triggerGracefulShutdown()
        _ = await self.running.result
        await self.kube.stop()
        try? await self.backend.close()
        _ = try? shell("rm -rf \(self.folder)")
    }

    static func with(
        _ number: Int,
        role: AgentConfiguration.Role = .gateway,
        _ body: (GatewayRig) async throws -> Void
    ) async throws {
        let rig = try await GatewayRig(number, role: role)
        do {
            try await body(rig)
        } catch {
            await rig.stop()
            throw error
        }
        await rig.stop()
    }

    /// Answers every request with its path.
    private static func startBackend() async throws -> any Channel {
        try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.pipeline.configureHTTPServerPipeline().flatMapThrowing {
                    try channel.pipeline.syncOperations.addHandler(PathEcho())
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    private final class PathEcho: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            guard case .head(let request) = self.unwrapInboundIn(data) else { return }
            let body = ByteBuffer(string: "backend \(request.uri)")
            let head = HTTPResponseHead(
                version: .http1_1,
                status: .ok,
                headers: ["content-length": "\(body.readableBytes)"]
            )
            context.write(self.wrapOutboundOut(.head(head)), promise: nil)
            context.write(self.wrapOutboundOut(.body(.byteBuffer(body))), promise: nil)
            context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
        }
    }

    // MARK: Objects

    /// The service `web` of the namespace `shop`, whose endpoint is the backend.
    func addService(_ name: String = "web") {
        self.kube.apply(FakeObjects.service(namespace: "shop", name: name, clusterIP: "10.96.0.10"))
        self.addEndpoints(name, ["127.0.0.1"])
    }

    func addEndpoints(_ name: String, _ addresses: [String]) {
        self.kube.apply(
            FakeObjects.endpointSlice(
                namespace: "shop",
                service: name,
                addresses: addresses,
                port: self.backendPort,
                node: "n1"
            )
        )
    }

    func apply(_ yaml: String) throws {
        for document in try Document.parseYAML(Array(yaml.utf8)) { self.kube.apply(document) }
    }

    /// An Istio Gateway with one port, and a VirtualService that leads everything to `web`.
    func istio(port: Int, secret: String? = nil) -> String {
        let tls = secret.map { ", tls: {mode: SIMPLE, credentialName: \($0)}" } ?? ""
        return """
            apiVersion: networking.istio.io/v1
            kind: Gateway
            metadata: {name: edge, namespace: shop}
            spec:
              servers:
              - {port: {number: \(port), name: web, protocol: \(secret == nil ? "HTTP" : "HTTPS")}, bind: \(self.address), hosts: ["*"]\(tls)}
            ---
            apiVersion: networking.istio.io/v1
            kind: VirtualService
            metadata: {name: web, namespace: shop}
            spec:
              hosts: ["*"]
              gateways: [edge]
              http: [{route: [{destination: {host: web, port: {number: 80}}}]}]
            """
    }

    /// A Secret of the kind `kubernetes.io/tls`, as a server keeps it.
    static func secret(_ name: String, _ identity: FakeKubeCertificates.Identity) -> Document {
        [
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": ["name": .string(name), "namespace": "shop"],
            "data": [
                "tls.crt": .string(Base64.encode(Array(identity.certificatePEM.utf8))),
                "tls.key": .string(Base64.encode(Array(identity.keyPEM.utf8))),
            ],
        ]
    }

    // MARK: Looking

    var status: Document {
        get async { await self.parts.gateway?.status() ?? [:] }
    }

    /// Addresses that are listened on.
    func waitForListener(_ port: Int) async throws {
        try await eventually("the gateway listens on \(port)") {
            await self.status["listeners"]?.array?.contains {
                $0["address"]?.string == "\(self.address):\(port)/tcp" && $0["problem"] == nil
            } == true
        }
    }

    func curl(_ path: String, port: Int, _ options: String = "", scheme: String = "http") throws -> String {
        try shell("curl -s -m 30 \(options) \(scheme)://\(self.address):\(port)\(path)")
    }
}
