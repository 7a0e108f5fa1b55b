import Configuration
import Documents
import MeshCore
import Testing

/// What `helm install` makes of the chart.
@Suite struct ChartTests {
    private let deployment: Deployment

    init() throws { self.deployment = try Deployment() }

    private func render(
        _ values: String = "",
        objects: [Document] = [],
        apis: [String] = []
    ) throws -> [Document] {
        let rendered = try self.deployment.render(values, objects: objects, apis: apis)
        #expect(try self.deployment.validate(rendered) == rendered.count)
        return rendered
    }

    private static func configuration(of rendered: [Document]) throws -> AgentConfiguration {
        let text = try #require(rendered.first("ConfigMap")?["data"]?["edgemesh-agent.yaml"]?.string)
        let loaded = AgentConfiguration.load(
            Array(text.utf8),
            environment: ConfigurationEnvironment(variables: ["NODE_NAME": "n1"])
        )
        #expect(loaded.problems.isEmpty, "\(loaded.problems)")
        return loaded.configuration
    }

    @Test func withoutValuesItIsThePlainManifests() throws {
        defer { self.deployment.remove() }
        let plain = try ["01-rbac", "02-configmap", "03-daemonset"].flatMap { try Deployment.manifest($0) }
        let rendered = try self.render().filter { $0["kind"]?.string != "Secret" }
        #expect(rendered.sortedByName.map(\.canonical) == plain.sortedByName.map(\.canonical))

        let policy = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"
        let identity = "agent: {modules: {edgeTunnel: {identity: node}}}"
        let added = try self.render(identity, apis: [policy]).filter {
            $0["metadata"]?["name"]?.string == "edgemesh-agent-node-identity"
        }
        let written = try Deployment.manifest("04-node-identity")
        #expect(added.sortedByName.map(\.canonical) == written.sortedByName.map(\.canonical))
        // Clusters before 1.30 do not know the policy.
        #expect(try self.render(identity).first("ValidatingAdmissionPolicy") == nil)
    }

    /// A gateway within the agents needs what a gateway of its own may do, and the agents' account has it then.
    @Test func aGatewayWithinTheAgentsHasItsRights() throws {
        defer { self.deployment.remove() }
        func own(_ values: String) throws -> [Document] {
            try self.render(values).filter { $0["metadata"]?["name"]?.string == "edgemesh-agent-gateway" }
        }
        #expect(try own("").isEmpty)
        #expect(try own("agent: {modules: {edgeGateway: {enable: false}}}").isEmpty)
        let values = "agent: {psk: fixed, modules: {edgeGateway: {enable: true}}}"
        let objects = try own(values)
        let role = try #require(objects.first("ClusterRole"))
        let plain = try #require(try Deployment.manifest("01-rbac", in: "gateway").first("ClusterRole"))
        #expect(role["rules"] != nil && role["rules"]?.jsonText() == plain["rules"]?.jsonText())
        let binding = try #require(objects.first("ClusterRoleBinding"))
        #expect(binding["roleRef"]?["name"]?.string == "edgemesh-agent-gateway")
        #expect(binding["subjects"]?.array?.first?["name"]?.string == "edgemesh-agent")
    }

    // MARK: Pre-shared key

    private static func psk(_ rendered: [Document]) -> String? {
        rendered.first("Secret")?["stringData"]?["psk"]?.string
    }

    private static func mountsKey(_ rendered: [Document]) -> String? {
        let pod = rendered.first("DaemonSet")?["spec"]?["template"]?["spec"]
        let mounts = pod?["containers"]?.array?.first?["volumeMounts"]?.array ?? []
        guard mounts.contains(where: { $0["name"]?.string == "psk" }) else { return nil }
        let volume = pod?["volumes"]?.array?.first { $0["name"]?.string == "psk" }
        return volume?["secret"]?["secretName"]?.string
    }

    @Test func aKeyIsGeneratedOnceUnlessOneIsGiven() throws {
        defer { self.deployment.remove() }
        let (one, other) = (try self.render(), try self.render())
        let generated = try #require(Self.psk(one))
        // 32 bytes in base64.
        #expect(generated.utf8.count == 44 && generated.hasSuffix("="))
        #expect(Self.psk(other) != generated)
        #expect(Self.mountsKey(one) == "edgemesh-agent-psk")

        let present: Document = [
            "apiVersion": "v1", "kind": "Secret",
            "metadata": ["name": "edgemesh-agent-psk", "namespace": "kubeedge"],
            // What `kept-from-before` is in base64.
            "data": ["psk": "a2VwdC1mcm9tLWJlZm9yZQ=="],
        ]
        #expect(try Self.psk(self.render(objects: [present])) == "kept-from-before")
        let given = try self.render("agent: {psk: given}", objects: [present])
        #expect(Self.psk(given) == "given")
        let annotations = given.first("DaemonSet")?["spec"]?["template"]?["metadata"]?["annotations"]
        #expect(annotations?["checksum/psk"]?.string?.utf8.count == 64)
        let own = try self.render("agent: {pskSecret: mine}")
        #expect(Self.psk(own) == nil && Self.mountsKey(own) == "mine")
        for off in ["{psk: {enable: false}}", "{enable: false}"] {
            let without = try self.render("agent: {modules: {edgeTunnel: \(off)}}")
            #expect(Self.psk(without) == nil && Self.mountsKey(without) == nil, "\(off)")
        }
    }

    // MARK: Values

    /// The values that the chart of v1.17 has, with those that its templates cannot express: what is false or 0.
    private static let valuesOfTheOriginal = """
        agent:
          image: registry.example/edgemesh-agent:v1
          affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: edge, operator: Exists}]}]}}}
          nodeSelector: {role: edge}
          tolerations: [{key: edge, operator: Exists, effect: NoSchedule}]
          resources: {limits: {cpu: 1, memory: 256Mi}, requests: {cpu: 0.5, memory: 128Mi}}
          psk: a key of the cluster
          relayNodes:
            - {nodeName: relay-1, advertiseAddress: [192.0.2.1, 192.0.2.2]}
          metaServerSecret: metaserver-certs
          kubeAPIConfig:
            burst: 150
            contentType: application/json
            kubeConfig: ""
            master: ""
            qps: 70
            deleteKubeConfig: true
            metaServer:
              server: https://127.0.0.1:10550
              security:
                requireAuthorization: true
                insecureSkipTLSVerify: false
                tlsCaFile: /etc/edgemesh/metaserver/rootCA.crt
                tlsCertFile: /etc/edgemesh/metaserver/server.crt
                tlsPrivateKeyFile: /etc/edgemesh/metaserver/server.key
          commonConfig: {bridgeDeviceName: edgemesh1, bridgeDeviceIP: 169.254.96.17}
          modules:
            edgeDNS:
              enable: false
              listenPort: 5353
              cacheDNS: {enable: true, autoDetect: false, upstreamServers: [192.0.2.53], cacheTTL: 60}
            edgeProxy:
              enable: true
              serviceFilterMode: FilterIfLabelDoesNotExists
              socks5Proxy: {enable: true, listenPort: 10801}
              loadBalancer: {consistentHash: {partitionCount: 200, replicationFactor: 20, load: 1.5}}
            edgeTunnel:
              enable: true
              listenPort: 20007
              transport: ws
              rendezvous: OURS
              enableIpfsLog: true
              maxCandidates: 5
              heartbeatPeriod: 60
              finderPeriod: 30
              psk: {enable: false, path: /etc/edgemesh/psk}
              tunnelLimitConfig:
                enable: false
                tunnelBaseStreamIn: 1
                tunnelBaseStreamOut: 2
                tunnelPeerBaseStreamIn: 3
                tunnelPeerBaseStreamOut: 4
              listenInterfaces: eth0
              extraFilteredInterfaces: virbr
            edgeCNI: {enable: false}
          cloudCIDR: [10.244.0.0/17]
          edgeCIDR: [10.244.128.0/17]
        spiderpool:
          coordinator: {enabled: false}
          multus: {enableMultusConfig: false, multusCNI: {install: false}}
          plugins: {installCNI: false, installRdmaCNI: false, installOvsCNI: false, installibSriovCNI: false, installIpoibCNI: false}
          sriov: {install: false}
        """

    @Test func everyValueOfTheOriginalArrives() throws {
        defer { self.deployment.remove() }
        let rendered = try self.render(Self.valuesOfTheOriginal)
        let configuration = try Self.configuration(of: rendered)
        let (modules, api) = (configuration.modules, configuration.kubeAPIConfig)
        #expect(api.burst == 150 && api.qps == 70 && api.contentType == "application/json" && api.deleteKubeConfig)
        #expect(api.metaServer.requireAuthorization && !api.metaServer.insecureSkipTLSVerify)
        #expect(configuration.commonConfig.bridgeDeviceName == "edgemesh1")
        #expect("\(configuration.commonConfig.bridgeDeviceIP)" == "169.254.96.17")
        #expect(!modules.edgeDNS.enable && modules.edgeDNS.listenPort == 5353)
        #expect(modules.edgeDNS.cacheDNS.enable && !modules.edgeDNS.cacheDNS.autoDetect)
        #expect(modules.edgeDNS.cacheDNS.cacheTTL == 60 && modules.edgeDNS.cacheDNS.upstreamServers.count == 1)
        #expect(modules.edgeProxy.serviceFilterMode == .ifLabelDoesNotExist)
        #expect(modules.edgeProxy.socks5Proxy.enable && modules.edgeProxy.socks5Proxy.listenPort == 10801)
        #expect(modules.edgeProxy.loadBalancer.partitionCount == 200 && modules.edgeProxy.loadBalancer.load == 1.5)
        let tunnel = modules.edgeTunnel
        #expect(tunnel.listenPort == 20007 && tunnel.transport == .ws && tunnel.rendezvous == "OURS")
        #expect(tunnel.maxCandidates == 5 && tunnel.heartbeatPeriod == 60 && tunnel.finderPeriod == 30)
        #expect(!tunnel.psk.enable && !tunnel.tunnelLimitConfig.enable)
        #expect(tunnel.tunnelLimitConfig.tunnelPeerBaseStreamOut == 4)
        #expect(tunnel.listenInterfaces == "eth0" && tunnel.extraFilteredInterfaces == "virbr")
        #expect(tunnel.relayNodes.map(\.nodeName) == ["relay-1"] && tunnel.relayNodes[0].advertiseAddress.count == 2)
        #expect(modules.edgeCNI.cloudCIDR.map(\.description) == ["10.244.0.0/17"])
        #expect(modules.edgeCNI.edgeCIDR.map(\.description) == ["10.244.128.0/17"])
        let pod = rendered.first("DaemonSet")?["spec"]?["template"]?["spec"]
        #expect(pod?["nodeSelector"]?["role"]?.string == "edge" && pod?["affinity"]?["nodeAffinity"] != nil)
        #expect(pod?["tolerations"]?.array?.count == 1)
        let container = pod?["containers"]?.array?.first
        #expect(container?["image"]?.string == "registry.example/edgemesh-agent:v1")
        let mounts = (container?["volumeMounts"]?.array ?? []).compactMap { $0["mountPath"]?.string }
        #expect(mounts.contains("/etc/edgemesh/metaserver"))
    }

    /// For each value of `values.yaml` another one, which makes another object.
    private static let others: [String: String] = [
        "image": "other:1", "imagePullPolicy": "Always", "affinity": "{podAffinity: {}}", "nodeSelector": "{a: b}",
        "tolerations": "[]", "priorityClassName": "''", "updateStrategy": "{type: OnDelete, rollingUpdate: null}",
        "resources": "{limits: {cpu: 2}}", "readinessProbe": "{periodSeconds: 11}",
        "livenessProbe": "{periodSeconds: 31}", "psk": "given", "pskSecret": "mine",
        "relayNodes": "[{nodeName: r, advertiseAddress: [192.0.2.1]}]", "metaServerSecret": "certs",
        "kubeAPIConfig": "{qps: 1}", "commonConfig": "{bridgeDeviceName: br9}",
        "modules": "{edgeDNS: {enable: false}}", "cloudCIDR": "[10.0.0.0/8]", "edgeCIDR": "[10.0.0.0/8]",
    ]

    @Test func everyValueIsDocumentedAndUsed() throws {
        defer { self.deployment.remove() }
        let text = try Deployment.read("deploy/helm/edgemesh/values.yaml")
        let values = try #require(try Document.parseYAML(Array(text.utf8)).first)
        #expect((values.members ?? []).map(\.key) == ["agent"])
        let keys = (values["agent"]?.members ?? []).map(\.key)
        #expect(Set(keys) == Set(Self.others.keys))
        // A generated key differs each time.
        let fixed = "psk: fixed"
        let before = try self.deployment.renderText("agent: {\(fixed)}")
        for key in keys {
            let other = try #require(Self.others[key])
            let changed = key == "psk" ? "agent: {psk: \(other)}" : "agent: {\(fixed), \(key): \(other)}"
            #expect(try self.deployment.renderText(changed) != before, "\(key) changes nothing")
            #expect(try self.deployment.validate(self.deployment.render(changed)) > 0, "\(key)")
        }
        // Each group of keys begins with what it is about.
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        var isDocumented = false
        for (former, line) in zip([""] + lines, lines) {
            if line.hasPrefix("  #") { isDocumented = true }
            if former.isEmpty, !line.hasPrefix("  #") { isDocumented = false }
            guard line.hasPrefix("  "), let key = line.dropFirst(2).first, key.isLetter else { continue }
            #expect(isDocumented, "\(line) has no comment")
        }
    }
}

extension Document {
    /// The same for objects that differ only in the order of their members.
    var canonical: String {
        func sorted(_ document: Document) -> Document {
            if let members = document.members {
                return .object(members.sorted { $0.key < $1.key }.map { Member($0.key, sorted($0.value)) })
            }
            if let array = document.array { return .array(array.map(sorted)) }
            return document
        }
        // The configuration is a text; what counts is what it says.
        let file = self["data"]?.members?.first { $0.key.hasSuffix(".yaml") }
        guard let text = file?.value.string,
            let configuration = try? Document.parseYAML(Array(text.utf8)).first
        else { return sorted(self).jsonText() }
        return "\(self["metadata"]?.jsonText() ?? "") \(sorted(configuration).jsonText())"
    }
}
