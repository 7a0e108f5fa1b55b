public import MeshCore

extension AgentConfiguration {
    /// The keys of `modules.edgeGateway`.
    static var gatewayKeys: [ConfigurationKey<AgentConfiguration>] {
        let root = "modules.edgeGateway"
        let blocks = ValueForm<String>.text("addresses and blocks with commas between them, or \"*\"") {
            Self.blocks($0) != nil
        }
        let label = ValueForm<String>.text("a label as KEY=VALUE") { $0.dropFirst().contains("=") }
        return [
            Key("\(root).enable", \.modules.edgeGateway.enable, .flag, .restart),
            Key("\(root).nic", \.modules.edgeGateway.nic, .text, .live),
            Key("\(root).includeIP", \.modules.edgeGateway.includeIP, blocks, .live),
            Key("\(root).excludeIP", \.modules.edgeGateway.excludeIP, blocks, .live),
        ] + self.ringKeys(root, \.modules.edgeGateway.loadBalancer) + [
            Key(
                "\(root).controllerName",
                \.modules.edgeGateway.controllerName,
                .text("a domain and a path, such as example.com/gateway") { name in
                    name.utf8.count <= 253 && !name.hasPrefix("/") && !name.hasSuffix("/") && name.contains("/")
                },
                .live
            ),
            Key("\(root).selectorLabels", \.modules.edgeGateway.selectorLabels, .list(of: label), .live),
            Key("\(root).strictMutualTLS", \.modules.edgeGateway.strictMutualTLS, .flag, .live),
            Key("\(root).updateStatus", \.modules.edgeGateway.updateStatus, .flag, .restart),
            Key("\(root).clusterDomain", \.modules.edgeGateway.clusterDomain, Self.domain, .live),
            Key("\(root).routableCIDRs", \.modules.edgeGateway.routableCIDRs, .list(of: .block), .restart),
            Key(
                "\(root).accessLogInterval",
                \.modules.edgeGateway.accessLogInterval,
                .integer(0...1_000_000_000),
                .restart
            ),
            Key("\(root).showReasons", \.modules.edgeGateway.showReasons, .flag, .restart),
            Key("\(root).maxConnections", \.modules.edgeGateway.maxConnections, .integer(1...10_000_000), .live),
            Key(
                "\(root).maxConnectionsPerClient",
                \.modules.edgeGateway.maxConnectionsPerClient,
                .integer(1...10_000_000),
                .live
            ),
            Key(
                "\(root).maxBodyBytes",
                \.modules.edgeGateway.maxBodyBytes,
                .integer(0...1_000_000_000_000),
                .live
            ),
            Key("\(root).idleTimeout", \.modules.edgeGateway.idleTimeout, .seconds(0.05...86400), .live),
            Key("\(root).dialTimeout", \.modules.edgeGateway.dialTimeout, .seconds(0.05...300), .live),
            Key("\(root).drainTimeout", \.modules.edgeGateway.drainTimeout, .seconds(0...18), .restart),
        ]
    }

    /// The parts of a list with commas; none for `*` and for an empty one.
    public static func names(_ text: String) -> [String] {
        let names = text.split(separator: ",").map { name in
            String(name.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
        }.filter { !$0.isEmpty }
        return names == ["*"] ? [] : names
    }

    /// The blocks of such a list; nil if one is none.
    public static func blocks(_ text: String) -> [CIDR]? {
        let names = Self.names(text)
        let blocks = names.compactMap { CIDR($0) }
        return blocks.count == names.count ? blocks : nil
    }
}
