import Documents
import MeshCore

private let gatewayGroup = "gateway.networking.k8s.io"

extension GatewayClassSpec {
    init(_ spec: FieldReader) throws(ObjectError) {
        let controller = try spec["controllerName"]
        self.controllerName = try controller.require(controller.nonEmptyString(), "the name of a controller")
        self.hasParameters = try spec["parametersRef"].isPresent
    }
}

extension ObjectReference {
    init(_ field: FieldReader, group: String = "", kind: String = "") throws(ObjectError) {
        self.group = try field["group"].string() ?? group
        self.kind = try field["kind"].nonEmptyString() ?? kind
        self.namespace = try field["namespace"].nonEmptyString()
        self.name = try field["name"].require(field["name"].nonEmptyString(), "the name of an object")
    }
}

extension GatewaySpec {
    init(_ spec: FieldReader) throws(ObjectError) {
        let name = try spec["gatewayClassName"]
        self.className = try name.require(name.nonEmptyString(), "the name of a GatewayClass")
        var names: Set<String> = []
        for field in try spec["listeners"].elements() {
            let listener = try Listener(field)
            guard names.insert(listener.name).inserted else { throw try field["name"].duplicate("another listener") }
            self.listeners.append(listener)
        }
        self.addresses = try spec["addresses"].map { field throws(ObjectError) -> IPAddress? in
            let type = try field["type"].nonEmptyString() ?? "IPAddress"
            return type == "IPAddress" ? IPAddress(try field["value"].string() ?? "") : nil
        }
        self.hasParameters = try spec["infrastructure"]["parametersRef"].isPresent
        let frontend = try spec["tls"]["frontend"]
        self.clientValidation = try ClientValidation(frontend["default"]["validation"])
        for field in try frontend["perPort"].elements() {
            let port = try field["port"].require(field["port"].port(), "a port from 1 to 65535")
            self.clientValidationByPort[port] = try ClientValidation(field["tls"]["validation"])
        }
    }
}

extension GatewaySpec.ClientValidation {
    /// Nil if the field is absent.
    fileprivate init?(_ field: FieldReader) throws(ObjectError) {
        guard field.isPresent else { return nil }
        self.authorities = try field["caCertificateRefs"].map { field throws(ObjectError) in
            try ObjectReference(field, kind: "ConfigMap")
        }
        self.allowsInsecure = try field["mode"].string() == "AllowInsecureFallback"
    }
}

extension GatewaySpec.Listener {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.name = try field["name"].require(field["name"].nonEmptyString(), "a name, each listener another one")
        self.port = try field["port"].require(field["port"].port(), "a port from 1 to 65535")
        let allowed = "HTTP, HTTPS, TLS, TCP or UDP"
        self.portProtocol = try field["protocol"].require(field["protocol"].nonEmptyString(), allowed)
        self.hostname = try field["hostname"].nonEmptyString()
        let tls = try field["tls"]
        if tls.isPresent {
            self.tls = GatewaySpec.TLS(
                mode: try tls["mode"].choice(GatewaySpec.TLS.Mode.allCases) ?? .terminate,
                certificates: try tls["certificateRefs"].map { field throws(ObjectError) in
                    try ObjectReference(field, kind: "Secret")
                },
                options: try tls["options"].stringMap()
            )
            self.clientValidation = try GatewaySpec.ClientValidation(tls["frontendValidation"])
        }
        let routes = try field["allowedRoutes"]
        self.from = try routes["namespaces"]["from"].choice(GatewaySpec.From.allCases) ?? .same
        self.selector = try GatewaySpec.Selector(routes["namespaces"]["selector"])
        self.kinds = try routes["kinds"].map { field throws(ObjectError) in
            GatewaySpec.RouteKind(
                group: try field["group"].string() ?? gatewayGroup,
                kind: try field["kind"].require(field["kind"].nonEmptyString(), "the kind of a route")
            )
        }
    }
}

extension GatewaySpec.Selector {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.labels = try field["matchLabels"].stringMap()
        self.requirements = try field["matchExpressions"].map { field throws(ObjectError) in
            let operation = try field["operator"]
            return Requirement(
                key: try field["key"].require(field["key"].nonEmptyString(), "the key of a label"),
                operation: try operation.require(
                    operation.choice(Requirement.Operator.allCases),
                    "In, NotIn, Exists or DoesNotExist"
                ),
                values: try field["values"].strings()
            )
        }
    }
}

extension ParentReference {
    init(_ field: FieldReader) throws(ObjectError) {
        self.target = try ObjectReference(field, group: gatewayGroup, kind: "Gateway")
        self.sectionName = try field["sectionName"].nonEmptyString()
        self.port = try field["port"].port()
    }
}

extension BackendReference {
    init(_ field: FieldReader) throws(ObjectError) {
        self.target = try ObjectReference(field, kind: "Service")
        self.port = try field["port"].port()
        self.weight = try field["weight"].integer(in: 0...1_000_000) ?? 1
        self.filters = try field["filters"].map { field throws(ObjectError) in try RouteFilter(field) }
    }
}

extension RouteFilter {
    init(_ field: FieldReader) throws(ObjectError) {
        let type = try field["type"].require(field["type"].nonEmptyString(), "the type of the filter")
        switch type {
        case "RequestHeaderModifier": self = .requestHeaders(try HeaderModifier(field["requestHeaderModifier"]))
        case "ResponseHeaderModifier": self = .responseHeaders(try HeaderModifier(field["responseHeaderModifier"]))
        case "RequestRedirect": self = .redirect(try Redirect(field["requestRedirect"]))
        case "URLRewrite":
            let rewrite = try field["urlRewrite"]
            self = .rewrite(hostname: try rewrite["hostname"].nonEmptyString(), path: try PathModifier(rewrite["path"]))
        case "RequestMirror": self = .mirror(try Mirror(field["requestMirror"]))
        case "CORS": self = .cors(try CORS(field["cors"]))
        default: self = .unsupported(type)
        }
    }
}

extension RouteFilter.HeaderModifier {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        func headers(_ field: FieldReader) throws(ObjectError) -> [RouteFilter.Header] {
            try field.map { field throws(ObjectError) in
                RouteFilter.Header(
                    name: try field["name"].require(field["name"].nonEmptyString(), "the name of a header"),
                    value: try field["value"].string() ?? ""
                )
            }
        }
        self.set = try headers(field["set"])
        self.add = try headers(field["add"])
        self.remove = try field["remove"].strings()
    }
}

extension RouteFilter.PathModifier {
    fileprivate init?(_ field: FieldReader) throws(ObjectError) {
        guard field.isPresent else { return nil }
        switch try field["type"].string() {
        case "ReplaceFullPath": self = .full(try field["replaceFullPath"].string() ?? "")
        case "ReplacePrefixMatch": self = .prefix(try field["replacePrefixMatch"].string() ?? "")
        default: throw try field["type"].badValue("ReplaceFullPath, ReplacePrefixMatch")
        }
    }
}

extension RouteFilter.Redirect {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.scheme = try field["scheme"].nonEmptyString()
        self.hostname = try field["hostname"].nonEmptyString()
        self.port = try field["port"].port()
        self.path = try RouteFilter.PathModifier(field["path"])
        self.status = try field["statusCode"].integer(in: 300...399) ?? 302
    }
}

extension RouteFilter.Mirror {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        let backend = try field["backendRef"]
        self.target = try ObjectReference(backend, kind: "Service")
        self.port = try backend["port"].port()
        self.share = 1_000_000
        if let percent = try field["percent"].integer(in: 0...UInt32(100)) { self.share = percent * 10_000 }
        let fraction = try field["fraction"]
        if fraction.isPresent {
            let numerator = try fraction["numerator"].integer(in: 0...Int64(Int32.max)) ?? 0
            let denominator = try fraction["denominator"].integer(in: 1...Int64(Int32.max)) ?? 100
            guard numerator <= denominator else { throw fraction.error(.badValue, "a fraction must be at most 1") }
            self.share = UInt32(numerator * 1_000_000 / denominator)
        }
    }
}

extension RouteFilter.CORS {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.origins = try field["allowOrigins"].strings()
        self.methods = try field["allowMethods"].strings()
        self.headers = try field["allowHeaders"].strings()
        self.exposedHeaders = try field["exposeHeaders"].strings()
        self.maximumAge = .seconds(try field["maxAge"].integer(in: 0...Int32.max) ?? 5)
        self.allowsCredentials = try field["allowCredentials"].bool() ?? false
    }
}

extension RouteSpec {
    init(_ spec: FieldReader, isGRPC: Bool) throws(ObjectError) {
        self.isGRPC = isGRPC
        self.parents = try spec["parentRefs"].map { field throws(ObjectError) in try ParentReference(field) }
        self.hostnames = try spec["hostnames"].strings()
        self.rules = try spec["rules"].map { field throws(ObjectError) in try Rule(field, isGRPC: isGRPC) }
    }
}

extension RouteSpec.Rule {
    fileprivate init(_ field: FieldReader, isGRPC: Bool) throws(ObjectError) {
        self.name = try field["name"].nonEmptyString()
        self.matches = try field["matches"].map { field throws(ObjectError) in
            try RouteSpec.Match(field, isGRPC: isGRPC)
        }
        self.filters = try field["filters"].map { field throws(ObjectError) in try RouteFilter(field) }
        self.backends = try field["backendRefs"].map { field throws(ObjectError) in try BackendReference(field) }
        self.requestTimeout = try field["timeouts"]["request"].duration()
        self.backendTimeout = try field["timeouts"]["backendRequest"].duration()
        let retry = try field["retry"]
        if retry.isPresent {
            self.retry = RouteSpec.Retry(
                codes: try retry["codes"].map { field throws(ObjectError) in
                    try field.require(field.integer(in: 400...599), "an HTTP status from 400 to 599")
                },
                attempts: try retry["attempts"].integer(in: 0...100) ?? 1,
                backoff: try retry["backoff"].duration()
            )
        }
        let persistence = try field["sessionPersistence"]
        if persistence.isPresent {
            self.persistence = RouteSpec.Persistence(
                name: try persistence["sessionName"].nonEmptyString(),
                isHeader: try persistence["type"].string() == "Header",
                absoluteTimeout: try persistence["absoluteTimeout"].duration()
            )
        }
    }
}

extension RouteSpec.Match {
    fileprivate init(_ field: FieldReader, isGRPC: Bool) throws(ObjectError) {
        self.headers = try field["headers"].map { field throws(ObjectError) in try RouteSpec.Named(field) }
        guard !isGRPC else {
            let method = try field["method"]
            if method.isPresent { self.grpcMethod = try RouteSpec.GRPCMethod(method) }
            return
        }
        self.queryParams = try field["queryParams"].map { field throws(ObjectError) in try RouteSpec.Named(field) }
        self.method = try field["method"].nonEmptyString()
        let path = try field["path"]
        guard path.isPresent else { return }
        let value = try path["value"].nonEmptyString() ?? "/"
        switch try path["type"].nonEmptyString() ?? "PathPrefix" {
        case "Exact": self.path = .exact(value)
        case "PathPrefix": self.path = .prefix(value)
        case "RegularExpression": self.path = .regex(value)
        default: throw try path["type"].badValue("Exact, PathPrefix, RegularExpression")
        }
        if try path["type"].string() != "RegularExpression", value.utf8.first != UInt8(ascii: "/") {
            throw try path["value"].badValue("a path that begins with /")
        }
    }
}

extension RouteSpec.Named {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.name = try field["name"].require(field["name"].nonEmptyString(), "the name of what is matched")
        let value = try field["value"].string() ?? ""
        switch try field["type"].nonEmptyString() ?? "Exact" {
        case "Exact": self.value = .exact(value)
        case "RegularExpression": self.value = .regex(value)
        default: throw try field["type"].badValue("Exact, RegularExpression")
        }
    }
}

extension RouteSpec.GRPCMethod {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.service = try field["service"].nonEmptyString()
        self.method = try field["method"].nonEmptyString()
        self.isRegex = try field["type"].string() == "RegularExpression"
        guard self.service != nil || self.method != nil else {
            throw field.badValue("an object with service, method or both")
        }
    }
}

extension StreamRouteSpec {
    init(_ spec: FieldReader) throws(ObjectError) {
        self.parents = try spec["parentRefs"].map { field throws(ObjectError) in try ParentReference(field) }
        self.hostnames = try spec["hostnames"].strings()
        self.rules = try spec["rules"].map { rule throws(ObjectError) in
            try rule["backendRefs"].map { field throws(ObjectError) in try BackendReference(field) }
        }
    }
}

extension ReferenceGrantSpec {
    init(_ spec: FieldReader) throws(ObjectError) {
        self.from = try spec["from"].map { field throws(ObjectError) in
            From(
                group: try field["group"].string() ?? "",
                kind: try field["kind"].require(field["kind"].nonEmptyString(), "the kind that refers"),
                namespace: try field["namespace"].require(field["namespace"].nonEmptyString(), "a namespace")
            )
        }
        self.to = try spec["to"].map { field throws(ObjectError) in
            To(
                group: try field["group"].string() ?? "",
                kind: try field["kind"].require(field["kind"].nonEmptyString(), "the kind that is referred to"),
                name: try field["name"].nonEmptyString()
            )
        }
    }
}

extension BackendTLSPolicySpec {
    init(_ spec: FieldReader) throws(ObjectError) {
        self.targets = try spec["targetRefs"].map { field throws(ObjectError) in
            Target(
                group: try field["group"].string() ?? "",
                kind: try field["kind"].nonEmptyString() ?? "Service",
                name: try field["name"].require(field["name"].nonEmptyString(), "the name of a service"),
                sectionName: try field["sectionName"].nonEmptyString()
            )
        }
        let validation = try spec["validation"]
        let hostname = try validation["hostname"]
        self.hostname = try hostname.require(hostname.nonEmptyString(), "the name in the backend's certificate")
        self.authorities = try validation["caCertificateRefs"].map { field throws(ObjectError) in
            try ObjectReference(field, kind: "ConfigMap")
        }
        self.usesSystemAuthorities = try validation["wellKnownCACertificates"].string() == "System"
        self.subjectAltNames = try validation["subjectAltNames"].map { field throws(ObjectError) in
            let hostname = try field["hostname"].nonEmptyString()
            let uri = try field["uri"].string()
            return hostname ?? uri ?? ""
        }
    }
}
