public import Documents
import Glibc
import MeshCore

/// What the process environment adds to a configuration.
public struct ConfigurationEnvironment: Sendable {
    /// `NODE_NAME`
    public var nodeName: String?
    /// Whether `KUBERNETES_PORT` is set: the kubelet sets it in every pod, KubeEdge's edged does not.
    public var isInCluster: Bool
    /// Whether a file can be read.
    public var isReadable: @Sendable (String) -> Bool = { access($0, R_OK) == 0 }

    public init(variables: [String: String]) {
        func value(_ name: String) -> String? { variables[name].flatMap { $0.isEmpty ? nil : $0 } }
        self.nodeName = value("NODE_NAME")
        self.isInCluster = variables["KUBERNETES_PORT"] != nil
    }
}

/// A configuration as it was read. With errors, `configuration` holds what could be read and is not to be used.
public struct LoadedConfiguration: Sendable {
    public var configuration: AgentConfiguration
    /// In the order of the file.
    public var problems: [ConfigurationProblem]

    public var isUsable: Bool { !self.problems.contains { $0.severity == .error } }
}

extension AgentConfiguration {
    /// The defaults, which depend on where the agent runs: DNS is on at the edge.
    public static func defaults(_ environment: ConfigurationEnvironment, role: Role = .agent) -> AgentConfiguration {
        var configuration = AgentConfiguration(role: role)
        configuration.kubeAPIConfig.mode = environment.isInCluster ? .cloud : .edge
        if !environment.isInCluster { configuration.kubeAPIConfig.contentType = "application/json" }
        configuration.modules.edgeDNS.enable = role == .agent && !environment.isInCluster
        return configuration
    }

    /// Reads a configuration file (YAML or JSON) over the defaults and checks it. All problems are collected.
    public static func load(
        _ bytes: [UInt8],
        environment: ConfigurationEnvironment,
        role: Role = .agent
    ) -> LoadedConfiguration {
        var configuration = Self.defaults(environment, role: role)
        var report = ConfigurationReport()
        do throws(DocumentError) {
            // The original's Helm chart writes serviceFilterMode twice.
            let limits = DocumentLimits(bytes: 1 << 20, allowsEqualRepeats: true)
            let documents = try Document.parseYAML(bytes, limits: limits)
            if let second = documents.dropFirst().first {
                report.add(.error, "", at: second.position, "the file has several documents; a configuration is one")
            }
            if let document = documents.first {
                ConfigurationReader(keys: Self.schema(of: role)).read(document, into: &configuration, report: &report)
            } else {
                report.add(.warning, "", "the file is empty; the defaults hold")
            }
        } catch {
            report.add(.error, "", at: error.position, error.message)
        }
        configuration.settle(environment, report: &report)
        configuration.check(environment, report: &report)
        let ordered = report.problems.enumerated().sorted {
            ($0.element.position, $0.offset) < ($1.element.position, $1.offset)
        }
        return LoadedConfiguration(configuration: configuration, problems: ordered.map(\.element))
    }

    /// Fills in what the environment says.
    private mutating func settle(_ environment: ConfigurationEnvironment, report: inout ConfigurationReport) {
        if !self.kubeAPIConfig.master.isEmpty || !self.kubeAPIConfig.kubeConfig.isEmpty {
            self.kubeAPIConfig.mode = .manual
        } else if self.kubeAPIConfig.mode == .manual {
            report.add(
                .error,
                "kubeAPIConfig.mode",
                "kubeAPIConfig.mode is ManualMode; set kubeAPIConfig.master or kubeAPIConfig.kubeConfig too"
            )
        }
        if self.commonConfig.nodeName.isEmpty { self.commonConfig.nodeName = environment.nodeName ?? "" }
        if self.commonConfig.nodeName.isEmpty {
            report.add(
                .error,
                "commonConfig.nodeName",
                "the name of this node is not known; set the environment variable NODE_NAME, or commonConfig.nodeName"
            )
        }
    }

    /// The checks that look at more than one value, or beyond the file.
    private func check(_ environment: ConfigurationEnvironment, report: inout ConfigurationReport) {
        // The original looks at these two only where they matter.
        if !self.modules.edgeTunnel.enable { report.forgive("modules.edgeTunnel.transport") }
        if !self.modules.edgeProxy.enable { report.forgive("modules.edgeProxy.serviceFilterMode") }
        if self.apiVersion != self.role.apiVersion || self.kind != self.role.kind {
            report.add(
                .warning,
                self.kind == self.role.kind ? "apiVersion" : "kind",
                "this is \(self.apiVersion) \(self.kind), read as \(self.role.apiVersion) \(self.role.kind)"
            )
        }
        let file = self.kubeAPIConfig.kubeConfig
        if !file.isEmpty, !environment.isReadable(file) {
            report.add(
                .error,
                "kubeAPIConfig.kubeConfig",
                "kubeAPIConfig.kubeConfig is \"\(file)\", which cannot be read; check the path, its mount and its mode"
            )
        }
        let address = self.commonConfig.bridgeDeviceIP
        if address.isLoopback || address == .any || address.octets.0 >= 224 {
            report.add(
                .error,
                "commonConfig.bridgeDeviceIP",
                "commonConfig.bridgeDeviceIP is \"\(address)\"; allowed: a unicast address that no host has, such as 169.254.96.16"
            )
        }
        let (dns, proxy) = (self.modules.edgeDNS, self.modules.edgeProxy)
        if dns.enable, dns.cacheDNS.enable, !dns.cacheDNS.autoDetect, dns.cacheDNS.upstreamServers.isEmpty {
            report.add(
                .error,
                "modules.edgeDNS.cacheDNS.upstreamServers",
                "modules.edgeDNS.cacheDNS has nobody to ask; list upstreamServers or set autoDetect: true"
            )
        }
        if dns.enable, proxy.enable, proxy.socks5Proxy.enable, dns.listenPort == proxy.socks5Proxy.listenPort {
            report.add(
                .error,
                "modules.edgeProxy.socks5Proxy.listenPort",
                "modules.edgeProxy.socks5Proxy.listenPort is \(dns.listenPort), as is modules.edgeDNS.listenPort; both listen on the bridge device"
            )
        }
        let tunnel = self.modules.edgeTunnel
        if tunnel.enable, tunnel.transport == .quic, tunnel.psk.enable {
            report.add(
                .error,
                "modules.edgeTunnel.transport",
                "modules.edgeTunnel.transport is \"quic\", which cannot carry a pre-shared key; use tcp or ws, or set psk.enable: false"
            )
        }
        if tunnel.enable, tunnel.transport == .quic, !tunnel.psk.enable {
            report.add(
                .warning,
                "modules.edgeTunnel.transport",
                "modules.edgeTunnel.transport is \"quic\", which this agent does not speak, so there will be no tunnel; set tcp or ws on all nodes"
            )
        }
        if tunnel.enable, tunnel.livenessTimeout < tunnel.livenessInterval {
            report.add(
                .error,
                "modules.edgeTunnel.livenessTimeout",
                "modules.edgeTunnel.livenessTimeout is shorter than livenessInterval, after which a peer is asked for the first time; set it to twice that or more"
            )
        }
        let cni = self.modules.edgeCNI
        if cni.enable, cni.cloudCIDR.isEmpty || cni.edgeCIDR.isEmpty {
            report.add(
                .error,
                "modules.edgeCNI.meshCIDRConfig",
                "modules.edgeCNI is enabled without meshCIDRConfig.cloudCIDR and meshCIDRConfig.edgeCIDR; list both"
            )
        }
        if cni.enable, !tunnel.enable {
            report.add(
                .error,
                "modules.edgeCNI.enable",
                "modules.edgeCNI is enabled without the tunnel that carries its packets; set modules.edgeTunnel.enable: true"
            )
        }
        let gateway = self.modules.edgeGateway
        if tunnel.enable, self.role == .gateway, tunnel.listenPort == .max {
            report.add(
                .error,
                "modules.edgeTunnel.listenPort",
                "modules.edgeTunnel.listenPort is \(tunnel.listenPort), and a gateway listens on the next one; set a lower one"
            )
        }
        if self.role == .gateway, !gateway.enable {
            report.add(
                .warning,
                "modules.edgeGateway.enable",
                "the gateway is off, and nothing is served; set modules.edgeGateway.enable: true"
            )
        } else if !dns.enable, !proxy.enable, !tunnel.enable, !cni.enable, !gateway.enable {
            report.add(
                .warning,
                "modules",
                "no module is enabled; set modules.edgeDNS.enable or modules.edgeProxy.enable"
            )
        }
    }

    // MARK: Printing

    /// What `--defaultconfig` prints: every key with its default.
    public static func defaultDocument(
        _ environment: ConfigurationEnvironment,
        role: Role = .agent
    ) -> Document {
        ConfigurationReader(keys: Self.schema(of: role)).document(of: .defaults(environment, role: role))
    }

    /// What `--minconfig` prints: the least that is worth running.
    public static func minimalDocument(role: Role = .agent) -> Document {
        [
            "apiVersion": .string(role.apiVersion),
            "kind": .string(role.kind),
            "modules": [
                role == .agent ? "edgeProxy" : "edgeGateway": ["enable": true],
                "edgeTunnel": [
                    "enable": true, "relayNodes": [["nodeName": "k8s-master", "advertiseAddress": ["192.0.2.1"]]],
                ],
            ],
        ]
    }

    /// This configuration as a file would have it.
    public var document: Document { ConfigurationReader(keys: Self.schema(of: self.role)).document(of: self) }
}

extension AgentConfiguration {
    /// This configuration with the values of `new` for the keys that can change live.
    public func takingLiveValues(of new: AgentConfiguration) -> AgentConfiguration {
        var result = self
        for key in Self.schema(of: self.role) where key.effect == .live { key.copy(new, &result) }
        return result
    }
}

/// The keys whose values differ between two configurations.
public struct ConfigurationDiff: Sendable, Hashable {
    /// Taken over by a reload.
    public var live: [String] = []
    /// In force after a restart only.
    public var restart: [String] = []

    public init(from old: AgentConfiguration, to new: AgentConfiguration) {
        for key in AgentConfiguration.schema(of: old.role) where !key.isSame(old, new) {
            switch key.effect {
            case .live: self.live.append(key.path)
            case .restart: self.restart.append(key.path)
            case .none: break
            }
        }
    }

    public var isEmpty: Bool { self.live.isEmpty && self.restart.isEmpty }
}
