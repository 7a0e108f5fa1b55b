public import Configuration

/// What the command line and the environment say to the agent, or to the gateway.
public struct AgentOptions: Hashable, Sendable {
    public var role: AgentConfiguration.Role
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
        role: AgentConfiguration.Role = .agent,
        configFile: String,
        isConfigFileRequired: Bool = true,
        manifestFolder: String? = nil,
        nodeName: String? = nil,
        verbosity: Int = 0
    ) {
        self.role = role
        self.configFile = configFile
        self.isConfigFileRequired = isConfigFileRequired
        self.manifestFolder = manifestFolder
        self.nodeName = nodeName
        self.verbosity = verbosity
    }
}
