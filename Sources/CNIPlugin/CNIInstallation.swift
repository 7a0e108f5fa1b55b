public import Documents
import Glibc

/// Puts the plugin where runtimes look for it, and takes it away. Every file appears whole or not at all.
public struct CNIInstallation: Sendable {
    public var programDirectory = "/opt/cni/bin"
    public var configurationDirectory = "/etc/cni/net.d"

    static let programName = NetworkConfiguration.ownType
    static let configurationName = "10-edgemesh-cni.conflist"
    private static let programLimit = 1 << 30

    public init(
        programDirectory: String = "/opt/cni/bin",
        configurationDirectory: String = "/etc/cni/net.d"
    ) {
        self.programDirectory = programDirectory
        self.configurationDirectory = configurationDirectory
    }

    private var program: String { "\(self.programDirectory)/\(Self.programName)" }
    private var configuration: String { "\(self.configurationDirectory)/\(Self.configurationName)" }

    /// The configuration of a network whose pods get a bridge, and addresses of `spiderpool` unless `addressPlugin` says otherwise.
    ///
    /// Pods need a default route to reach pods of other networks, hence `isDefaultGateway`.
    public static func configurationList(
        version: CNIVersion = .v100,
        name: String = "edgemesh-cni",
        addressPlugin: Document? = nil,
        mtu: Int? = nil
    ) -> Document {
        var delegate: [Document.Member] = [
            .init("type", .string(NetworkConfiguration.defaultDelegate)),
            .init("bridge", .string(NetworkConfiguration.defaultBridge)),
            .init("isDefaultGateway", true),
            .init("hairpinMode", true),
        ]
        if let mtu { delegate.append(.init("mtu", .integer(mtu))) }
        delegate.append(
            .init("ipam", addressPlugin ?? ["type": .string(NetworkConfiguration.defaultAddressPlugin)])
        )
        return [
            "cniVersion": .string(version.rawValue),
            "name": .string(name),
            "plugins": [
                ["type": .string(Self.programName), "delegate": .object(delegate)],
                ["type": "portmap", "capabilities": ["portMappings": true]],
            ],
        ]
    }

    /// Installs the program and then its configuration, so that no runtime finds the second without the first.
    ///
    /// A configuration of ours that is there stays, as somebody may have adapted it, unless `isReplacing`.
    /// - Parameter source: the program, as a path.
    /// - Returns: what an operator should know: other networks that come first, plugins that are missing.
    public func install(
        program source: String,
        configuration: Document,
        isReplacing: Bool = false
    ) throws(CNIError) -> [String] {
        for directory in [self.programDirectory, self.configurationDirectory] { try Self.makeDirectory(directory) }
        guard let bytes = Descriptor.readFile(source, limit: Self.programLimit), !bytes.isEmpty else {
            throw CNIError(.inputOutput, "cannot read the program \(source)")
        }
        try Self.replace(self.program, with: bytes, mode: 0o755)
        if !isReplacing, let present = self.presentConfiguration {
            return self.warnings(about: present)
        }
        let text = configuration.jsonText(pretty: true) + "\n"
        try Self.replace(self.configuration, with: Array(text.utf8), mode: 0o644)
        return self.warnings(about: configuration)
    }

    /// Nil if there is none, or none that calls this plugin.
    private var presentConfiguration: Document? {
        guard let bytes = Descriptor.readFile(self.configuration, limit: NetworkConfiguration.limits.bytes),
            let document = try? Document.parseJSON(bytes), Self.types(of: document).contains(Self.programName)
        else { return .none }
        return document
    }

    /// Takes away first what makes runtimes call the program, then the program. What is not there is fine.
    public func remove() throws(CNIError) {
        for path in [self.configuration, self.program] where unlink(path) != 0 && errno != ENOENT {
            throw CNIError(.inputOutput, "cannot remove \(path)", details: Self.errorText())
        }
    }

    private func warnings(about configuration: Document) -> [String] {
        var warnings: [String] = []
        let earlier = Self.names(in: self.configurationDirectory).filter { name in
            name < Self.configurationName && [".conf", ".conflist", ".json"].contains { name.hasSuffix($0) }
        }
        if let first = earlier.min() {
            warnings.append(
                "\(self.configurationDirectory)/\(first) comes first: runtimes take the first network by name"
            )
        }
        for type in Self.types(of: configuration)
        where access("\(self.programDirectory)/\(type)", X_OK) != 0 {
            warnings.append("the plugin \"\(type)\" is not in \(self.programDirectory)")
        }
        return warnings
    }

    /// The plugins that a list of configurations names, and those that they hand on to.
    private static func types(of configuration: Document) -> [String] {
        var types: [String] = []
        for plugin in configuration["plugins"]?.array ?? [] {
            types += [plugin["type"], plugin["delegate"]?["type"], plugin["delegate"]?["ipam"]?["type"]]
                .compactMap { $0?.string }
        }
        return types
    }

    // MARK: Files

    private static func makeDirectory(_ path: String) throws(CNIError) {
        var made = ""
        for part in path.split(separator: "/") {
            made += "/\(part)"
            guard mkdir(made, 0o755) == 0 || errno == EEXIST else {
                throw CNIError(.inputOutput, "cannot make the directory \(made)", details: Self.errorText())
            }
        }
    }

    /// Under another name first, which runtimes do not read.
    private static func replace(_ path: String, with bytes: [UInt8], mode: mode_t) throws(CNIError) {
        let temporary = "\(path).\(getpid()).new"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
        guard descriptor >= 0 else {
            throw CNIError(.inputOutput, "cannot write \(temporary)", details: Self.errorText())
        }
        // The mask of the process may have taken bits from the mode.
        let isWritten =
            Descriptor.write(descriptor, bytes) && fchmod(descriptor, mode) == 0 && fsync(descriptor) == 0
        let problem = Self.errorText()
        close(descriptor)
        guard isWritten else {
            unlink(temporary)
            throw CNIError(.inputOutput, "cannot write \(temporary)", details: problem)
        }
        guard rename(temporary, path) == 0 else {
            let problem = Self.errorText()
            unlink(temporary)
            throw CNIError(.inputOutput, "cannot replace \(path)", details: problem)
        }
    }

    private static func names(in directory: String) -> [String] {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            names.append(
                withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            )
        }
        return names
    }

    private static func errorText() -> String {
        var buffer = [CChar](repeating: 0, count: 128)
        let number = errno
        guard strerror_r(number, &buffer, buffer.count) == 0 else { return "errno \(number)" }
        return String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}
