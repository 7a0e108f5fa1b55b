public import Admin
import Configuration
import Glibc
import KubeClient
import Logging
import MeshCore
import NIOPosix

/// `edgemesh check`: the checks of the machine, and those that need the configuration and the API.
public enum NodeCheck {
    /// Beyond this, certificates and tokens are refused or expire early.
    private static let tolerableSkew = Duration.seconds(30)

    /// - Parameter socket: where the agent is asked; nil for where the configuration has it listen.
    public static func run(_ options: AgentOptions, socket: String?) async -> CheckReport {
        let source = ConfigSource(options: options)
        var results: [CheckResult] = []
        var configuration = AgentConfiguration.defaults(source.environment, role: options.role)
        configuration.commonConfig.manifestsDir = options.manifestFolder ?? ""
        do {
            let reading = try source.read()
            configuration = reading.configuration
            results.append(
                reading.warnings.isEmpty
                    ? CheckResult("config", .pass, source.description)
                    : CheckResult(
                        "config",
                        .warn,
                        reading.warnings.joined(separator: "; "),
                        mend: "edit \(options.configFile)"
                    )
            )
        } catch {
            results.append(
                CheckResult(
                    "config",
                    .fail,
                    error.description,
                    mend: "edit \(options.configFile), or name it with --config-file"
                )
            )
        }
        let client = AdminClient(socketPath: socket ?? configuration.commonConfig.adminSocket)
        let isRunning = client.isAnswered
        results.append(Self.agent(client, isRunning: isRunning))
        let modules = configuration.modules
        results += await SystemChecks(
            host: LiveHost(),
            expectation: .init(
                bridgeAddress: .v4(configuration.commonConfig.bridgeDeviceIP),
                dnsPort: modules.edgeDNS.listenPort,
                isDNSEnabled: modules.edgeDNS.enable,
                isProxyEnabled: modules.edgeProxy.enable,
                isAgentRunning: isRunning,
                agentProcess: client.agentProcess,
                kernelBackend: modules.edgeProxy.kernelBackend.rawValue,
                podFamilies: modules.edgeCNI.enable
                    ? Set((modules.edgeCNI.cloudCIDR + modules.edgeCNI.edgeCIDR).map(\.address.family)) : []
            )
        ).run()
        results += await Self.source(of: configuration)
        return CheckReport(results)
    }

    private static func agent(_ client: AdminClient, isRunning: Bool) -> CheckResult {
        guard isRunning else {
            return CheckResult(
                "agent",
                .warn,
                "no agent answers on \(client.socketPath)",
                mend: "start edgemesh-agent; the checks below do not need it"
            )
        }
        do {
            let (status, body) = try client.request(.get, "/readyz")
            guard status == 200 else {
                let words = String(decoding: body, as: UTF8.self).split(separator: "\n").joined(separator: "; ")
                return CheckResult("agent", .fail, words, mend: "see `edgemesh status` and the agent's log")
            }
            let complaints = StatusText.complaints(try client.json(.get, "/status?limit=0"))
            guard complaints.isEmpty else {
                return CheckResult("agent", .warn, complaints.joined(separator: "; "), mend: "see the agent's log")
            }
            return CheckResult("agent", .pass, "runs and is ready")
        } catch {
            return CheckResult("agent", .fail, "\(error)", mend: "see the agent's log")
        }
    }

    /// Where cluster objects come from.
    private static func source(of configuration: AgentConfiguration) async -> [CheckResult] {
        var results: [CheckResult] = []
        let folder = configuration.commonConfig.manifestsDir
        if !folder.isEmpty {
            results.append(
                access(folder, R_OK | X_OK) == 0
                    ? CheckResult("manifests", .pass, folder)
                    : CheckResult(
                        "manifests",
                        .fail,
                        "the folder \(folder) cannot be read: \(String(cString: strerror(errno)))",
                        mend: "make the folder, or name another with --manifests"
                    )
            )
        }
        guard configuration.followsAPI else { return results }
        do {
            let api = try configuration.kubeConfiguration(variable: ProcessEnvironment.variable)
            var options = KubernetesSource.Options()
            options.followsGateway = configuration.modules.edgeGateway.enable
            let source = KubernetesSource(
                api,
                options: options,
                group: MultiThreadedEventLoopGroup.singleton,
                logger: Logger(label: "check") { _ in SwiftLogNoOpLogHandler() }
            )
            // A MetaServer has no rights of its own to tell of.
            let rights = options.followsGateway && !api.isMetaServer ? Self.gatewayRights(configuration) : []
            let probe = await source.probe(rights: rights)
            results += Self.results(of: probe, isMetaServer: api.isMetaServer)
            results += Self.gatewayResults(of: probe)
        } catch {
            results.append(CheckResult("api", .fail, "\(error)", mend: "mend kubeAPIConfig"))
        }
        return results
    }

    static func results(of probe: KubeProbe, isMetaServer: Bool) -> [CheckResult] {
        if let failure = probe.failure {
            return [
                CheckResult(
                    "api",
                    .fail,
                    "\(probe.origin): \(failure)",
                    mend: isMetaServer
                        ? "see that edgecore runs with metaManager.metaServer.enable: true"
                        : "see that the API server is up, and that its address and certificates in kubeAPIConfig are right"
                )
            ]
        }
        var results = [CheckResult("api", .pass, "\(probe.origin) \(probe.serverVersion ?? "")")]
        for check in probe.resources {
            let name = "api-\(check.resource)"
            switch check.permission {
            case .allowed: results.append(CheckResult(name, .pass, "may be listed"))
            case .absent:
                results.append(CheckResult(name, .pass, "the server does not have it; the mesh goes on without"))
            case .denied(let reason):
                results.append(
                    CheckResult(
                        name,
                        .fail,
                        "may not be listed: \(reason)",
                        mend: "give the ServiceAccount get, list and watch on \(check.resource)"
                    )
                )
            case .failed(let reason):
                results.append(CheckResult(name, .warn, reason, mend: "see the API server's log"))
            }
        }
        if let skew = probe.clockSkew {
            let seconds = Int(skew.inSeconds.rounded())
            results.append(
                abs(seconds) <= Int(Self.tolerableSkew.inSeconds)
                    ? CheckResult("clock", .pass, "\(seconds) s off the API server")
                    : CheckResult(
                        "clock",
                        .fail,
                        "\(seconds) s off the API server: certificates and tokens will be refused",
                        mend: "set the clock: run an NTP client such as systemd-timesyncd or chrony"
                    )
            )
        }
        return results
    }

    // MARK: The gateway

    private static func gatewayRights(_ configuration: AgentConfiguration) -> [AccessRight] {
        GatewayRights.credentials + GatewayRights.pods + (configuration.writesGatewayStatus ? GatewayRights.status : [])
    }

    /// What a gateway lacks is told with what it does without. None of it keeps it from serving.
    static func gatewayResults(of probe: KubeProbe) -> [CheckResult] {
        let parts: [(name: String, rights: [AccessRight], without: String, mend: String)] = [
            (
                "gateway-secrets", GatewayRights.credentials,
                "only Secrets and ConfigMaps that Roles allow one by one can be used for TLS",
                "apply the role of the gateway, or see that the Roles name every Secret that Gateways name"
            ),
            (
                "gateway-pods", GatewayRights.pods,
                "routes to subsets of DestinationRules lead to all endpoints",
                "apply the role of the gateway"
            ),
            (
                "gateway-status", GatewayRights.status,
                "the status of Gateways, routes and policies is not written",
                "apply the role of the gateway, or set modules.edgeGateway.updateStatus: false"
            ),
        ]
        return parts.compactMap { part in
            let asked = probe.rights.filter { part.rights.contains($0.right) }
            guard !asked.isEmpty else { return nil }
            let missing = asked.filter { $0.isAllowed == false }.map(\.right.description)
            guard missing.isEmpty else {
                let list = missing.joined(separator: ", ")
                return CheckResult(part.name, .warn, "may not \(list): \(part.without)", mend: part.mend)
            }
            guard asked.allSatisfy({ $0.isAllowed == true }) else {
                let unknown = "the server does not say what this account may do"
                return CheckResult(
                    part.name,
                    .warn,
                    unknown,
                    mend: "allow selfsubjectaccessreviews, as system:basic-user does"
                )
            }
            return CheckResult(part.name, .pass, "all rights are there")
        }
    }
}
