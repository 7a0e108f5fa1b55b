import KubeModel
import MeshCore

/// The filters of a rule, taken apart.
struct CompiledFilters {
    var filters = HTTPFilters()
    var redirect: HTTPRedirect?
    var mirrors: [Mirror] = []
    var cors: CORSPolicy?
    /// Nothing may get past a filter that cannot be carried out.
    var problem: GatewayCondition?
}

extension GatewayCompiler {
    mutating func compile(
        _ filters: [RouteFilter],
        into compiled: inout CompiledFilters,
        _ resource: GatewayResource,
        _ policies: inout BackendPolicies,
        _ condition: inout GatewayCondition,
        _ field: String
    ) {
        var hasRewrite = false
        for (index, filter) in filters.enumerated() {
            let field = "\(field)[\(index)]"
            switch filter {
            case .requestHeaders(let modifier): compiled.filters.request.merge(self.edits(modifier, resource, field))
            case .responseHeaders(let modifier): compiled.filters.response.merge(self.edits(modifier, resource, field))
            case .redirect(let redirect):
                guard [301, 302, 303, 307, 308].contains(redirect.status) else {
                    compiled.problem = GatewayCondition(
                        "Accepted",
                        false,
                        "UnsupportedValue",
                        "\(redirect.status) is no redirect; allowed: 301, 302, 303, 307, 308"
                    )
                    continue
                }
                compiled.redirect = Self.redirect(redirect)
            case .rewrite(let hostname, let path):
                hasRewrite = true
                compiled.filters.authority = hostname ?? compiled.filters.authority
                compiled.filters.path = path.map(Self.rewrite) ?? compiled.filters.path
            case .mirror(let mirror):
                if let backend = self.backend(mirror.target, mirror.port, of: resource, &policies, &condition, field) {
                    compiled.mirrors.append(Mirror(backend: backend, share: mirror.share))
                }
            case .cors(let cors): compiled.cors = self.policy(cors, resource, field)
            case .unsupported(let type):
                compiled.problem = GatewayCondition(
                    "ResolvedRefs",
                    false,
                    "InvalidKind",
                    "the filter \(type) is not known: requests are answered with 500; take it out"
                )
            }
        }
        if compiled.redirect != nil, hasRewrite {
            compiled.problem = GatewayCondition(
                "Accepted",
                false,
                "IncompatibleFilters",
                "RequestRedirect and URLRewrite exclude each other"
            )
        }
    }

    private mutating func edits(
        _ modifier: RouteFilter.HeaderModifier,
        _ resource: GatewayResource,
        _ field: String
    ) -> HeaderEdits {
        self.edits(
            set: modifier.set.map { ($0.name, $0.value) },
            add: modifier.add.map { ($0.name, $0.value) },
            remove: modifier.remove,
            resource,
            field
        )
    }

    private static func rewrite(_ path: RouteFilter.PathModifier) -> PathRewrite {
        switch path {
        case .full(let text): .full(text.utf8.first == UInt8(ascii: "/") ? text : "/" + text)
        case .prefix(let text): .prefix(text)
        }
    }

    private static func redirect(_ redirect: RouteFilter.Redirect) -> HTTPRedirect {
        var compiled = HTTPRedirect(status: redirect.status)
        compiled.scheme = redirect.scheme?.lowercased()
        compiled.host = redirect.hostname?.lowercased()
        if let port = redirect.port { compiled.port = .number(port) }
        compiled.path = redirect.path.map(Self.rewrite)
        return compiled
    }

    private mutating func policy(_ cors: RouteFilter.CORS, _ resource: GatewayResource, _ field: String) -> CORSPolicy {
        var origins: [TextMatch] = []
        for origin in cors.origins {
            if origin == "*" {
                origins.append(.present)
            } else if origin.contains("*") {
                let parts = origin.split(separator: "*", omittingEmptySubsequences: false).map { "\\Q\($0)\\E" }
                if let regex = self.regex(parts.joined(separator: "[^/]+"), resource, field) {
                    origins.append(.regex(regex))
                }
            } else {
                origins.append(.exact(origin))
            }
        }
        var policy = CORSPolicy(origins: origins)
        policy.methods = cors.methods
        policy.headers = cors.headers
        policy.exposedHeaders = cors.exposedHeaders
        policy.maximumAge = cors.maximumAge
        policy.allowsCredentials = cors.allowsCredentials
        return policy
    }
}

extension HeaderEdits {
    fileprivate mutating func merge(_ other: HeaderEdits) {
        self.set += other.set
        self.add += other.add
        self.remove += other.remove
    }
}
