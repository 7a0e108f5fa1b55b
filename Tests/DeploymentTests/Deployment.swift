import Documents
import Glibc
import MeshTesting
import Testing

/// The files under `deploy`, and the programs that check them: a renderer of charts, which is built for the tests, and a validator
/// with Kubernetes' own schemas, which `scripts/bootstrap --peers` installs.
struct Deployment {
    static let root = "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
    private static let kubernetes = "1.32"

    /// Files of one test.
    let folder: String
    private let renderer: String
    /// The chart, and the name of its release.
    private let chart: String

    init(_ chart: String = "edgemesh") throws {
        self.chart = chart
        self.folder = "/tmp/edgemesh-deployment-\(getpid())-\(UInt64.random(in: .min ... .max))"
        self.renderer = try Self.builtRenderer.get()
        mkdir(self.folder, 0o700)
    }

    func remove() { _ = try? shell("rm -rf \(self.folder)") }

    // MARK: Rendering

    /// Go's compiler and the libraries of which Helm is made are Debian packages.
    private static let builtRenderer = Result {
        let folder = "/tmp/edgemesh-renderer-\(getpid())"
        try shell(
            """
            mkdir -p \(folder) && cd \(Self.root)/scripts/chart &&
            GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=\(folder)/cache GOFLAGS= go build -o \(folder)/renderer main.go &&
            rm -rf \(folder)/cache
            """
        )
        return "\(folder)/renderer"
    }

    /// The objects of the chart as a release of its name in the namespace `kubeedge`.
    /// - Parameters:
    ///   - values: over those of the chart.
    ///   - objects: that are in the cluster.
    ///   - apis: that the cluster has.
    func render(_ values: String = "", objects: [Document] = [], apis: [String] = []) throws -> [Document] {
        let rendered = try self.renderText(values, objects: objects, apis: apis)
        return try Document.parseYAML(Array(rendered.utf8)).filter { $0.members?.isEmpty == false }
    }

    func renderText(_ values: String = "", objects: [Document] = [], apis: [String] = []) throws -> String {
        let valuesFile = try self.write("values.yaml", values)
        let list: Document = ["items": .array(objects)]
        let objectsFile = try self.write("objects.yaml", list.jsonText())
        let options = apis.map { " -api \($0)" }.joined()
        return try shell(
            "\(self.renderer) \(Self.root)/deploy/helm/\(self.chart) \(self.chart) kubeedge -objects \(objectsFile)\(options) \(valuesFile)"
        )
    }

    // MARK: Validation

    /// Throws, with what is wrong, if an object does not fit its kind's schema or has fields that the kind does not have.
    /// - Returns: how many objects there were.
    @discardableResult
    func validate(_ files: [String]) throws -> Int {
        let tools = variable("EDGEMESH_KUBERNETES") ?? "\(variable("HOME") ?? "/root")/.cache/edgemesh/kubernetes"
        let program = "\(tools)/bin/kubernetes-validate"
        try #require(access(program, X_OK) == 0, "\(program) is not there: run scripts/bootstrap --peers")
        let said = try shell("\(program) -k \(Self.kubernetes) --strict \(files.joined(separator: " ")) 2>&1")
        return said.split(separator: "\n").count { $0.contains(" passed for resource ") }
    }

    func validate(_ objects: [Document]) throws -> Int {
        try self.validate([self.write("objects.yaml", objects.map { $0.yamlText() }.joined(separator: "---\n"))])
    }

    func write(_ name: String, _ text: String) throws -> String {
        let path = "\(self.folder)/\(name)"
        let file = try #require(fopen(path, "w"))
        defer { fclose(file) }
        fputs(text, file)
        return path
    }

    static func read(_ path: String) throws -> String { try shell("cat \(Self.root)/\(path)") }

    static func manifest(_ name: String, in folder: String = "manifests") throws -> [Document] {
        try Document.parseYAML(Array(Self.read("deploy/\(folder)/\(name).yaml").utf8))
    }
}

func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

extension [Document] {
    func first(_ kind: String) -> Document? { self.first { $0["kind"]?.string == kind } }

    /// In an order of their own.
    var sortedByName: [Document] {
        self.sorted { one, other in
            let key = { (object: Document) in
                "\(object["kind"]?.string ?? "") \(object["metadata"]?["name"]?.string ?? "")"
            }
            return key(one) < key(other)
        }
    }
}
