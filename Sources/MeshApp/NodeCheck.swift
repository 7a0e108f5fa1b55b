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

    public static func run(_ options: AgentOptions, client: AdminClient) async -> CheckReport {
        let source = ConfigSource(options: options)
        var results: [CheckResult] = []
        var configuration = AgentConfiguration.defaults(source.environment)
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
            let source = KubernetesSource(
                api,
                group: MultiThreadedEventLoopGroup.singleton,
                logger: Logger(label: "check") { _ in SwiftLogNoOpLogHandler() }
            )
            results += Self.results(of: await source.probe(), isMetaServer: api.isMetaServer)
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
                        mend: "give the agent's ServiceAccount get, list and watch on \(check.resource)"
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
}
