/// What the command line and the environment say to the agent.
public struct AgentOptions: Hashable, Sendable {
    public var configFile: String
    /// Whether a missing file is an error; otherwise the defaults serve.
    public var isConfigFileRequired: Bool
    /// Manifests to serve; nil for a Kubernetes API only.
    public var manifestFolder: String?
    /// Instead of `$NODE_NAME`.
    public var nodeName: String?
    /// klog's `-v`.
    public var verbosity: Int

    public init(
        configFile: String,
        isConfigFileRequired: Bool = true,
        manifestFolder: String? = nil,
        nodeName: String? = nil,
        verbosity: Int = 0
    ) {
        self.configFile = configFile
        self.isConfigFileRequired = isConfigFileRequired
        self.manifestFolder = manifestFolder
        self.nodeName = nodeName
        self.verbosity = verbosity
    }
}
