import Documents
import Testing

@testable import Configuration

/// The manifests and the Helm chart under `deploy`, as far as no other program is needed; the rest is in `DeploymentTests`.
@Suite("Deployment")
struct DeploymentTests {
    private static let chart = "deploy/helm/edgemesh"
    private static let templates = ["rbac", "configmap", "daemonset", "node-identity", "psk"]

    private static func manifests() throws -> [Document] {
        try ["01-rbac", "02-configmap", "03-daemonset", "04-node-identity"].flatMap { name in
            let text = try #require(DocumentationTests.read("deploy/manifests/\(name).yaml"), "\(name)")
            return try Document.parseYAML(Array(text.utf8))
        }
    }

    private static func manifest(_ kind: String) throws -> Document {
        try #require(try self.manifests().first { $0["kind"]?.string == kind }, "\(kind)")
    }

    @Test("the agent's configuration in them has no problems, at the edge and in the cloud")
    func configuration() throws {
        let text = try #require(try Self.manifest("ConfigMap")["data"]?["edgemesh-agent.yaml"]?.string)
        for environment in [ConfigurationEnvironment.edge, .cloud] {
            let loaded = AgentConfiguration.load(Array(text.utf8), environment: environment)
            #expect(loaded.problems.isEmpty, "\(loaded.problems)")
            let modules = loaded.configuration.modules
            #expect(modules.edgeProxy.enable && modules.edgeDNS.enable && modules.edgeTunnel.enable)
        }
    }

    @Test("what they name is there: accounts, volumes, folders of the configuration")
    func references() throws {
        let documents = try Self.manifests()
        let labels = ["k8s-app": "kubeedge", "kubeedge": "edgemesh-agent"]
        for document in documents {
            let metadata = try #require(document["metadata"])
            for (key, value) in labels { #expect(metadata["labels"]?[key]?.string == value) }
            #expect(metadata["name"]?.string?.hasPrefix("edgemesh-agent") == true)
            let isOfCluster = ["ClusterRole", "ValidatingAdmission"].contains {
                document["kind"]?.string?.hasPrefix($0) == true
            }
            #expect(metadata["namespace"]?.string == (isOfCluster ? nil : "kubeedge"))
        }
        let pod = try #require(try Self.manifest("DaemonSet")["spec"]?["template"]?["spec"])
        #expect(pod["serviceAccountName"]?.string == "edgemesh-agent" && pod["hostNetwork"]?.bool == true)
        let container = try #require(pod["containers"]?.array?.first)
        let variables = (container["env"]?.array ?? []).compactMap { $0["name"]?.string }
        #expect(variables == ["NODE_NAME"])
        let mounts = container["volumeMounts"]?.array ?? []
        let volumes = (pod["volumes"]?.array ?? []).compactMap { $0["name"]?.string }
        #expect(mounts.compactMap { $0["name"]?.string } == volumes && !volumes.isEmpty)
        let paths = mounts.compactMap { $0["mountPath"]?.string }
        let defaults = AgentConfiguration.defaults(.edge)
        #expect(paths.contains("/etc/edgemesh/config") && paths.contains(defaults.commonConfig.stateDir))
        #expect(paths.contains { defaults.commonConfig.adminSocket.hasPrefix($0 + "/") })
        #expect(paths.contains(defaults.modules.edgeTunnel.psk.path))
        for probe in ["readinessProbe", "livenessProbe"] {
            let command = (container[probe]?["exec"]?["command"]?.array ?? []).compactMap(\.string)
            #expect(
                command.prefix(4) == [
                    "/usr/local/bin/edgemesh", "probe", "--socket", defaults.commonConfig.adminSocket,
                ]
            )
        }
    }

    @Test("the gateway's manifests hold together, and its configuration has no problems")
    func gateway() throws {
        let documents = try ["01-rbac", "02-configmap", "03-deployment"].flatMap { name in
            let text = try #require(DocumentationTests.read("deploy/gateway/\(name).yaml"), "\(name)")
            return try Document.parseYAML(Array(text.utf8))
        }
        for document in documents {
            #expect(document["metadata"]?["name"]?.string?.hasPrefix("edgemesh-gateway") == true)
            #expect(document["metadata"]?["labels"]?["kubeedge"]?.string == "edgemesh-gateway")
        }
        func manifest(_ kind: String) throws -> Document {
            try #require(documents.first { $0["kind"]?.string == kind })
        }
        let text = try #require(try manifest("ConfigMap")["data"]?["edgemesh-gateway.yaml"]?.string)
        for environment in [ConfigurationEnvironment.edge, .cloud] {
            let loaded = AgentConfiguration.load(Array(text.utf8), environment: environment, role: .gateway)
            #expect(loaded.problems.isEmpty, "\(loaded.problems)")
            #expect(loaded.configuration.modules.edgeGateway.enable && loaded.configuration.modules.edgeTunnel.enable)
        }
        let pod = try #require(try manifest("Deployment")["spec"]?["template"]?["spec"])
        let container = try #require(pod["containers"]?.array?.first)
        let mounts = container["volumeMounts"]?.array ?? []
        #expect(
            mounts.compactMap { $0["name"]?.string } == (pod["volumes"]?.array ?? []).compactMap { $0["name"]?.string }
        )
        let paths = mounts.compactMap { $0["mountPath"]?.string }
        let own = AgentConfiguration(role: .gateway)
        #expect(paths.contains("/etc/edgemesh/config") && paths.contains(own.commonConfig.stateDir))
        #expect(paths.contains { own.commonConfig.adminSocket.hasPrefix($0 + "/") })
        #expect(paths.contains(own.modules.edgeTunnel.psk.path))
        for probe in ["readinessProbe", "livenessProbe"] {
            let command = (container[probe]?["exec"]?["command"]?.array ?? []).compactMap(\.string)
            #expect(command.dropFirst(3).first == own.commonConfig.adminSocket)
        }
    }

    @Test("each template of the chart is closed, and uses only values that there are", arguments: templates)
    func template(name: String) throws {
        let text = try #require(DocumentationTests.read("\(Self.chart)/templates/\(name).yaml"))
        let values = try #require(DocumentationTests.read("\(Self.chart)/values.yaml"))
        let agent = try #require(try Document.parseYAML(Array(values.utf8)).first?["agent"])
        var depth = 0
        for piece in text.split(separator: "{{", omittingEmptySubsequences: false).dropFirst() {
            let end = try #require(piece.firstRange(of: "}}"), "an action without its end: \(piece.prefix(40))")
            let action = piece[..<end.lowerBound].drop { $0 == "-" || $0 == " " }
            switch action.prefix(while: { $0.isLetter }) {
            case "if", "with", "range": depth += 1
            case "end": depth -= 1
            default: break
            }
            #expect(depth >= 0)
            for use in action.split(separator: "$agent.", omittingEmptySubsequences: false).dropFirst() {
                let key = String(use.prefix { $0.isLetter })
                #expect(agent[key] != nil, "the values have no agent.\(key)")
            }
        }
        #expect(depth == 0, "an if or with without its end")
        #expect(!text.contains("\t"))
    }
}
