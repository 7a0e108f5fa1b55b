import Configuration

extension FuzzTarget {
    /// Configuration files. A usable one is written and read back as the same.
    static let configuration = FuzzTarget(name: "configuration") { data, count in
        let bytes = Array(UnsafeBufferPointer(start: data, count: count))
        var environment = ConfigurationEnvironment(variables: ["NODE_NAME": "n", "NAMESPACE": "kubeedge"])
        environment.isReadable = { _ in true }
        let loaded = AgentConfiguration.load(bytes, environment: environment)
        guard loaded.isUsable else { return 0 }
        let text = Array(loaded.configuration.document.yamlText().utf8)
        let again = AgentConfiguration.load(text, environment: environment)
        guard again.configuration == loaded.configuration else { fatalError("\(again.problems)") }
        return 0
    }
}
