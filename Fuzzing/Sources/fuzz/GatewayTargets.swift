import Documents
import GatewayRouting
import KubeModel
import MeshCore

extension FuzzTarget {
    /// A pattern, a substitution, a request target, an authority, one to a line: nothing of it may trap, hang, or change its form when
    /// it is read a second time.
    static let gatewayMatch = FuzzTarget(name: "gateway-match") { data, count in
        let text = String(decoding: UnsafeBufferPointer(start: data, count: count), as: UTF8.self)
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        func line(_ index: Int) -> String { index < lines.count ? lines[index] : "" }
        if let regex = try? BoundedRegex(pattern: line(0)) {
            let matches = regex.matchesWhole(line(2))
            if let substitution = try? RegexSubstitution(line(1), groups: regex.groupCount) {
                _ = regex.replacing(in: line(2), with: substitution)
            }
            if matches, !line(2).contains("\u{1}"), let mark = try? RegexSubstitution("\u{1}", groups: 0),
                regex.replacing(in: line(2), with: mark) == line(2)
            {
                fatalError("the whole text matches, yet nothing in it is replaced")
            }
        }
        if let target = try? RequestTarget(line(2)) {
            guard let again = try? RequestTarget(target.path), again.path == target.path else {
                fatalError("the path has another form when it is read again: \(target.path)")
            }
            let elements = target.path.split(separator: "/")
            guard !elements.contains("."), !elements.contains("..") else { fatalError("dots are left: \(target.path)") }
        }
        if let host = RequestHost(line(3)), host.name.contains(where: \.isUppercase) { fatalError("capitals are left") }
        return 0
    }

    /// Objects of a gateway, compiled, and a request by the plan.
    static let gatewayObjects = FuzzTarget(name: "gateway-objects") { data, count in
        let bytes = Array(UnsafeBufferPointer(start: data, count: count))
        guard let documents = try? Document.parseYAML(bytes) else { return 0 }
        var resources: [GatewayResource] = []
        var rules: [DestinationRuleObject] = []
        for document in documents {
            for case .success(let object) in ClusterObject.decodeEach(document) {
                if case .gateway(let resource) = object { resources.append(resource) }
                if case .destinationRule(let rule) = object { rules.append(rule) }
            }
            checkObjects(document)
        }
        let input = GatewayInput(
            resources: resources,
            destinationRules: rules,
            service: { _ in ServiceFacts(ports: [ServiceObject.Port(port: 80)], subsets: ["v1"]) },
            secret: { _ in SecretFacts(hasCertificate: true, hasAuthority: true) }
        )
        let compilation = GatewayCompiler.compile(input, settings: CompilerSettings())
        for listener in compilation.plan.listeners {
            guard case .http(let hosts) = listener.service else { continue }
            let request = FuzzedRequest(port: listener.key.port)
            guard let rule = hosts.rule(for: request) else { continue }
            _ = rule.filters.target(of: request, match: rule.match(for: request))
            _ = rule.cors?.decision(for: request)
            if case .redirect(let redirect) = rule.action {
                _ = redirect.location(for: request, match: rule.match(for: request))
            }
        }
        return 0
    }
}

private struct FuzzedRequest: GatewayRequest {
    var method: String { "GET" }
    var path: String { "/a/b" }
    var query: String? { "a=b" }
    var authority: String { "a.b:80" }
    var scheme: String { "http" }
    var port: UInt16

    func header(_ name: String) -> String? { name == "origin" ? "https://a" : nil }
}
