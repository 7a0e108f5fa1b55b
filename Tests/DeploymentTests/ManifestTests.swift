import Documents
import Glibc
import MeshTesting
import Testing

/// The plain manifests, the definitions of Istio's kinds, and the recipe of the image.
@Suite struct ManifestTests {
    private static let files = [
        "deploy/manifests/01-rbac.yaml", "deploy/manifests/02-configmap.yaml", "deploy/manifests/03-daemonset.yaml",
        "deploy/manifests/04-node-identity.yaml", "deploy/helm/edgemesh/crds/networking.istio.io.yaml",
        "deploy/gateway/01-rbac.yaml", "deploy/gateway/02-configmap.yaml", "deploy/gateway/03-deployment.yaml",
    ]

    @Test(arguments: files)
    func objectsFitTheSchemasOfKubernetes(file: String) throws {
        let deployment = try Deployment()
        defer { deployment.remove() }
        let objects = try Document.parseYAML(Array(Deployment.read(file).utf8))
        #expect(!objects.isEmpty)
        #expect(try deployment.validate(["\(Deployment.root)/\(file)"]) == objects.count)
    }

    /// The check itself: it finds what is misspelt, missing and of another type.
    @Test(arguments: [
        ("hostNetwork:", "hostNetwrok:"), ("  selector:", "  selectors:"), ("hostNetwork: true", "hostNetwork: 1"),
    ])
    func whatDoesNotFitIsFound(text: String, wrong: String) throws {
        let deployment = try Deployment()
        defer { deployment.remove() }
        let manifest = try Deployment.read("deploy/manifests/03-daemonset.yaml")
        #expect(manifest.contains(text))
        let file = try deployment.write("wrong.yaml", manifest.replacing(text, with: wrong, maxReplacements: 1))
        #expect(throws: ShellError.self) { try deployment.validate([file]) }
    }

    @Test func definitionsAreOfTheKindsThatAgentsAndGatewaysFollow() throws {
        let definitions = try Document.parseYAML(Array(Deployment.read(Self.files[4]).utf8))
        let names = definitions.compactMap { $0["metadata"]?["name"]?.string }
        #expect(names == ["destinationrules", "gateways", "virtualservices"].map { "\($0).networking.istio.io" })
        for definition in definitions {
            let versions = definition["spec"]?["versions"]?.array ?? []
            // The original's first two, stored as it stores them, so that its objects stay readable.
            #expect(versions.compactMap { $0["name"]?.string } == ["v1alpha3", "v1beta1", "v1"])
            #expect(versions.map { $0["storage"]?.bool } == [true, false, false])
            #expect(Set(versions.map { $0["schema"]?.jsonText() }).count == 1)
        }
    }

    /// Without a builder at hand: stages are made before they are used, and what is copied is there or made.
    @Test func theRecipeOfTheImageHoldsTogether() throws {
        let lines = try Deployment.read("deploy/Dockerfile").split(separator: "\n").map(String.init)
        let made = try Deployment.read("Makefile")
        let ignored = try Deployment.read(".dockerignore").split(separator: "\n").map(String.init)
        var stages: [String] = []
        var variables: Set<Substring> = []
        for words in lines.map({ $0.split(separator: " ") }) {
            switch words.first {
            case "ARG": variables.insert(words[1].prefix { $0 != "=" })
            case "FROM":
                #expect(variables.contains(words[1].dropFirst(2).dropLast()), "\(words[1]) has no default")
                stages.append(words.count > 3 ? String(words[3]) : "final")
            case "COPY":
                if let from = words[1].hasPrefix("--from=") ? words[1].dropFirst(7) : nil {
                    #expect(stages.dropLast().contains(String(from)))
                    #expect(words[2] == "/src/build/" && made.contains("RELEASE_DIR := build\n"))
                } else {
                    #expect(access("\(Deployment.root)/\(words[1])", F_OK) == 0 && !ignored.contains(String(words[1])))
                }
            case "RUN":
                #expect(
                    words[1] == "make"
                        ? made.contains("\n\(words[2]):")
                        : access("\(Deployment.root)/\(words[1])", X_OK) == 0
                )
            case "ENTRYPOINT": #expect(lines.last?.contains("/usr/local/bin/edgemesh-agent") == true)
            default: #expect(words.isEmpty || words[0] == "#" || words[0] == "WORKDIR", "\(words)")
            }
        }
        #expect(stages == ["build", "final"])
    }
}
