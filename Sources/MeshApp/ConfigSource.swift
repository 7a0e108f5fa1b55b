import Configuration
import Documents
import Glibc

/// The configuration file of an agent or a gateway, read together with its flags and environment.
struct ConfigSource: Sendable {
    let options: AgentOptions
    let environment: ConfigurationEnvironment

    /// A read that failed, in lines for the operator, each with its file and line.
    struct Failure: Error, CustomStringConvertible {
        var lines: [String]
        var description: String { self.lines.joined(separator: "; ") }
    }

    struct Reading: Sendable {
        var configuration: AgentConfiguration
        var warnings: [String]
        /// The file as it was just before it was read; nil if there was none.
        var file: FileIdentity?
    }

    /// What serves a folder of manifests when there is no configuration file at all.
    private var manifestDefaults: String {
        switch self.options.role {
        case .agent: "modules: {edgeDNS: {enable: true}, edgeProxy: {enable: true}}"
        case .gateway: "modules: {edgeGateway: {enable: true}}"
        }
    }
    private static let sizeBound = 1 << 20

    init(options: AgentOptions, variables: (String) -> String? = ProcessEnvironment.variable) {
        self.options = options
        var known: [String: String] = [:]
        for name in ["NODE_NAME", "KUBERNETES_PORT"] { known[name] = variables(name) }
        if let name = options.nodeName { known["NODE_NAME"] = name }
        if known["NODE_NAME"]?.isEmpty ?? true, options.manifestFolder != nil {
            // Without a cluster there is nobody to disagree about the node's name.
            known["NODE_NAME"] = ProcessEnvironment.hostName
        }
        self.environment = ConfigurationEnvironment(variables: known)
    }

    /// For people: the file, or that there is none.
    var description: String {
        self.isFileUsed ? self.options.configFile : "defaults (there is no \(self.options.configFile))"
    }

    private var isFileUsed: Bool { self.options.isConfigFileRequired || self.fileIdentity != nil }

    func read() throws(Failure) -> Reading {
        let identity = self.fileIdentity
        let file = self.options.configFile
        let bytes: [UInt8]
        if self.isFileUsed {
            bytes = try Self.readFile(file)
        } else {
            bytes = Array(self.manifestDefaults.utf8)
        }
        let loaded = AgentConfiguration.load(bytes, environment: self.environment, role: self.options.role)
        let lines = { (severity: ConfigurationProblem.Severity) in
            loaded.problems.filter { $0.severity == severity }.map { $0.describe(in: file) }
        }
        guard loaded.isUsable else { throw Failure(lines: lines(.error)) }
        var configuration = loaded.configuration
        if let folder = self.options.manifestFolder { configuration.commonConfig.manifestsDir = folder }
        return Reading(
            configuration: configuration,
            warnings: lines(.warning) + Self.unservedParts(of: configuration),
            file: identity
        )
    }

    /// Parts of the schema that are accepted, so that existing files load, and that this build has no code for.
    static func unservedParts(of configuration: AgentConfiguration) -> [String] {
        let parts = [
            (configuration.commonConfig.pprof.enableProfiling, "commonConfig.pprofConfig")
        ]
        return parts.filter(\.0).map { "this version does not serve \($0.1)" }
    }

    /// - Parameter advice: what to do if there is no such file.
    static func readFile(
        _ path: String,
        advice: String = "name the file with --config-file"
    ) throws(Failure) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            let reason = String(cString: strerror(errno))
            throw Failure(lines: ["\(path): error: cannot be opened (\(reason)); \(advice)"])
        }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 * 1024)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else {
                throw Failure(lines: ["\(path): error: cannot be read (\(String(cString: strerror(errno))))"])
            }
            if count == 0 { return bytes }
            bytes += chunk[..<count]
            guard bytes.count <= Self.sizeBound else {
                throw Failure(lines: ["\(path): error: larger than \(Self.sizeBound) bytes; this is no configuration"])
            }
        }
    }

    /// What tells one state of the file from the next. It follows symbolic links, which is how a mounted ConfigMap
    /// changes.
    struct FileIdentity: Hashable, Sendable {
        var device: UInt64
        var inode: UInt64
        var size: Int64
        var seconds: Int
        var nanoseconds: Int
    }

    /// Nil if there is no file.
    var fileIdentity: FileIdentity? {
        var status = stat()
        guard stat(self.options.configFile, &status) == 0 else { return nil }
        return FileIdentity(
            device: UInt64(status.st_dev),
            inode: UInt64(status.st_ino),
            size: Int64(status.st_size),
            seconds: status.st_mtim.tv_sec,
            nanoseconds: status.st_mtim.tv_nsec
        )
    }
}

/// What the process was started with.
enum ProcessEnvironment {
    static func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }
    }

    static var hostName: String {
        var system = utsname()
        guard uname(&system) == 0 else { return "localhost" }
        return withUnsafeBytes(of: &system.nodename) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}
