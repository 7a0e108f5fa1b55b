import Admin
import Configuration
public import Documents
import GatewayRouting
import HashTreeCollections
import KubeClient
import KubeModel
import Logging
import MeshCore
import NIOPosix
import ServiceCatalog

/// `edgemesh analyze`: what is to be known of Gateways and routes, without serving them.
public struct GatewayAnalysis: Sendable {
    /// For a source to list everything, and for Secrets after it.
    private static let limit = Duration.seconds(20)

    let findings: [GatewayFinding]
    /// Why it is not whole.
    public let failures: [String]

    public var hasErrors: Bool { !self.failures.isEmpty || self.findings.contains { $0.severity == .error } }

    public var document: Document {
        [
            "findings": .array(self.findings.map(\.document)),
            "counts": .object(
                [GatewayFinding.Severity.error, .warning, .note].map { severity in
                    .init(severity.rawValue, .integer(self.findings.count { $0.severity == severity }))
                }
            ),
            "failures": .array(self.failures.map { .string($0) }),
        ]
    }

    /// For people.
    public var text: String {
        let counts = [GatewayFinding.Severity.error, .warning, .note].map { severity in
            let count = self.findings.count { $0.severity == severity }
            return "\(count) \(severity.rawValue)\(count == 1 ? "" : "s")"
        }
        let table = self.findings.isEmpty ? "" : GatewayText.findings(self.findings.map(\.document)) + "\n"
        return self.failures.map { "\($0)\n" }.joined() + table + counts.joined(separator: ", ") + "\n"
    }

    /// Reads a folder or the cluster as the gateway with this configuration would. Throws if that cannot be read, in words.
    public static func run(_ options: AgentOptions) async throws -> GatewayAnalysis {
        let configuration = try ConfigSource(options: options).read().configuration
        let logger = Logger(label: "analyze") { _ in SwiftLogNoOpLogHandler() }
        let group = MultiThreadedEventLoopGroup.singleton
        let folder = configuration.commonConfig.manifestsDir
        let catalog = ClusterCatalog(
            settings: configuration.catalogSettings,
            authority: configuration.followsAPI ? .api : .manifests,
            followsManifests: !folder.isEmpty
        )
        let vault = CredentialVault(followsCluster: configuration.followsAPI)
        return try await withThrowingTaskGroup(of: Void.self) { tasks in
            defer { tasks.cancelAll() }
            if !folder.isEmpty {
                tasks.addTask {
                    let source = ManifestSource(folder: folder, logger: logger, readsCredentials: true)
                    try await source.run { catalog.apply(vault.take($0), from: .manifests) }
                }
            }
            if configuration.followsAPI {
                var options = configuration.sourceOptions
                options.followsGateway = true
                let (api, told) = (
                    try configuration.kubeConfiguration(variable: ProcessEnvironment.variable), options
                )
                tasks.addTask {
                    let source = KubernetesSource(api, options: told, group: group, logger: logger)
                    try await source.run { catalog.apply($0, from: .api) }
                }
                tasks.addTask {
                    let source = NamedObjectSource(api, options: told, group: group, logger: logger)
                    try await source.run(vault.requests()) { vault.take($1, of: $0) }
                }
            }
            return await Self.analyze(
                catalog,
                vault,
                configuration.compilerSettings,
                sources: (folder.isEmpty ? 0 : 1) + (configuration.followsAPI ? 1 : 0)
            )
        }
    }

    private static func analyze(
        _ catalog: ClusterCatalog,
        _ vault: CredentialVault,
        _ settings: CompilerSettings,
        sources expected: Int
    ) async -> GatewayAnalysis {
        var failures: [String] = []
        let isRead = {
            let sources = catalog.freshness.sources
            return sources.count >= expected
                && sources.allSatisfy { $0.status.state != .connecting || $0.status.message != nil }
        }
        _ = await Self.wait(until: isRead)
        if catalog.freshness.state == .connecting {
            failures = catalog.freshness.sources.filter { $0.status.state != .synced }.map { source in
                "\(source.status.origin) has not been read whole: \(source.status.message ?? "it does not answer")"
            }
        }
        let snapshot = catalog.snapshot
        var compilation = GatewayCompilation()
        var named: Set<CredentialVault.Reference>?
        // What is found in Secrets may name others.
        while named != compilation.credentials {
            named = compilation.credentials
            vault.want(compilation.credentials)
            _ = await Self.wait { vault.isSettled }
            compilation = GatewayCompiler.compile(GatewayInput(snapshot, vault), settings: settings)
        }
        failures += vault.problems
        let rejected = snapshot.rejected.values.map { rejection in
            GatewayFinding(
                severity: .error,
                kind: rejection.kind,
                name: rejection.name,
                field: rejection.field,
                message: "the object is refused: \(rejection.reason)"
            )
        }
        let findings =
            (rejected.sorted { ($0.kind.rawValue, $0.name) < ($1.kind.rawValue, $1.name) })
            + compilation.findings
        return GatewayAnalysis(findings: findings.sorted { $0.severity.rank < $1.severity.rank }, failures: failures)
    }

    /// False if it does not come to be in time.
    private static func wait(until condition: () -> Bool) async -> Bool {
        let began = MonotonicTime.now()
        while !condition() {
            guard MonotonicTime.now() - began < Self.limit, !Task.isCancelled else { return false }
            try? await Task.sleep(for: .milliseconds(20))
        }
        return true
    }
}

extension GatewayCompilation {
    /// What it names, or lacks.
    var credentials: Set<CredentialVault.Reference> {
        Set(self.secrets.map { .init(.secret, $0) }).union(self.configMaps.map { .init(.configMap, $0) })
    }
}

extension GatewayInput {
    init(_ snapshot: CatalogSnapshot, _ vault: CredentialVault) {
        self.init(
            resources: Array(snapshot.gatewayResources.values),
            destinationRules: Array(snapshot.destinationRules.values),
            namespaceLabels: Dictionary(uniqueKeysWithValues: snapshot.namespaceLabels.map { ($0.key, $0.value) }),
            service: { snapshot.facts(ofService: $0) },
            secret: { vault.facts(ofSecret: $0) },
            hasAuthority: { vault.hasAuthority(inConfigMap: $0) }
        )
    }
}

extension CatalogSnapshot {
    func facts(ofService name: ObjectName) -> ServiceFacts? {
        self.services[name].map { ServiceFacts(ports: $0.object.ports, subsets: $0.subsetNames) }
    }
}
