import Documents

extension IstioGatewaySpec {
    init(_ spec: FieldReader) throws(ObjectError) {
        self.selector = try spec["selector"].stringMap()
        for field in try spec["servers"].elements() {
            let port = try field["port"]
            self.servers.append(
                Server(
                    name: try field["name"].string() ?? "",
                    port: try port["number"].require(port["number"].port(), "a port from 1 to 65535"),
                    portProtocol: try port["protocol"].require(
                        port["protocol"].nonEmptyString(),
                        "HTTP, HTTPS, HTTP2, GRPC, TLS or TCP"
                    ),
                    bind: try field["bind"].nonEmptyString(),
                    hosts: try field["hosts"].strings(),
                    tls: try field["tls"].isPresent ? TLS(field["tls"]) : nil
                )
            )
        }
    }
}

extension IstioGatewaySpec.TLS {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.httpsRedirect = try field["httpsRedirect"].bool() ?? false
        self.mode = try field["mode"].choice(IstioGatewaySpec.TLSMode.allCases)
        self.credentialNames = try field["credentialNames"].strings()
        if let name = try field["credentialName"].nonEmptyString() { self.credentialNames.insert(name, at: 0) }
        for key in ["serverCertificate", "privateKey", "caCertificates"] where try field[key].nonEmptyString() != nil {
            self.namesFiles = true
        }
        self.subjectAltNames = try field["subjectAltNames"].strings()
        self.minimumVersion = try field["minProtocolVersion"].nonEmptyString()
        self.maximumVersion = try field["maxProtocolVersion"].nonEmptyString()
        self.cipherSuites = try field["cipherSuites"].strings()
    }
}

extension VirtualServiceSpec {
    init(_ spec: FieldReader) throws(ObjectError) {
        self.hosts = try spec["hosts"].strings()
        self.gateways = try spec["gateways"].strings()
        self.exportTo = try spec["exportTo"].strings()
        self.http = try spec["http"].map { field throws(ObjectError) in try HTTP(field) }
        self.tls = try spec["tls"].map { field throws(ObjectError) in try Stream(field, hasNames: true) }
        self.tcp = try spec["tcp"].map { field throws(ObjectError) in try Stream(field, hasNames: false) }
    }
}

extension VirtualServiceSpec.HTTP {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.name = try field["name"].string() ?? ""
        self.matches = try field["match"].map { match throws(ObjectError) in try VirtualServiceSpec.Match(match) }
        self.route = try field["route"].map { route throws(ObjectError) in try .init(route) }
        self.headers = try VirtualServiceSpec.Headers(field["headers"])
        self.redirect = try field["redirect"].isPresent ? .init(field["redirect"]) : nil
        self.directResponse = try field["directResponse"].isPresent ? .init(field["directResponse"]) : nil
        self.rewrite = try field["rewrite"].isPresent ? .init(field["rewrite"]) : nil
        self.timeout = try field["timeout"].duration()
        self.retries = try field["retries"].isPresent ? .init(field["retries"]) : nil
        self.fault = try field["fault"].isPresent ? .init(field["fault"]) : nil
        self.cors = try field["corsPolicy"].isPresent ? .init(field["corsPolicy"]) : nil
        let delegate = try field["delegate"]
        if delegate.isPresent { self.delegate = try delegate["name"].string() ?? "" }
        if try field["mirror"].isPresent {
            let older = try field["mirrorPercent"].number()
            let percentage = try field["mirrorPercentage"]["value"].number() ?? older
            self.mirrors.append(.init(destination: try .init(field["mirror"]), percentage: percentage))
        }
        for mirror in try field["mirrors"].elements() {
            let percentage = try mirror["percentage"]["value"].number()
            self.mirrors.append(.init(destination: try .init(mirror["destination"]), percentage: percentage))
        }
    }
}

extension VirtualServiceSpec.StringMatch {
    /// Nil if the field is absent.
    init?(_ field: FieldReader) throws(ObjectError) {
        guard field.isPresent else { return nil }
        var found: [Self] = []
        if let text = try field["exact"].string() { found.append(.exact(text)) }
        if let text = try field["prefix"].string() { found.append(.prefix(text)) }
        if let text = try field["regex"].string() { found.append(.regex(text)) }
        guard found.count <= 1 else { throw field.badValue("one of exact, prefix and regex (it has \(found.count))") }
        self = found.first ?? .present
    }
}

extension VirtualServiceSpec.Match {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        typealias StringMatch = VirtualServiceSpec.StringMatch
        self.uri = try StringMatch(field["uri"])
        self.ignoresUriCase = try field["ignoreUriCase"].bool() ?? false
        self.scheme = try StringMatch(field["scheme"])
        self.method = try StringMatch(field["method"])
        self.authority = try StringMatch(field["authority"])
        self.headers = try field["headers"].named { value throws(ObjectError) in try StringMatch(value) ?? .present }
        self.withoutHeaders = try field["withoutHeaders"].named { value throws(ObjectError) in
            try StringMatch(value) ?? .present
        }
        self.queryParams = try field["queryParams"].named { value throws(ObjectError) in
            try StringMatch(value) ?? .present
        }
        self.port = try field["port"].port()
        self.gateways = try field["gateways"].strings()
        let labels = try field["sourceLabels"].stringMap()
        let namespace = try field["sourceNamespace"].nonEmptyString()
        self.asksForSource = !labels.isEmpty || namespace != nil
    }
}

extension VirtualServiceSpec.Destination {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.host = try field["host"].require(field["host"].nonEmptyString(), "the name of a service")
        self.subset = try field["subset"].nonEmptyString()
        self.port = try field["port"]["number"].port()
    }
}

extension VirtualServiceSpec.WeightedDestination {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.destination = try VirtualServiceSpec.Destination(field["destination"])
        self.weight = try field["weight"].integer(in: 0...UInt32(Int32.max))
        self.headers = try VirtualServiceSpec.Headers(field["headers"])
    }
}

extension VirtualServiceSpec.Headers {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.request = try VirtualServiceSpec.HeaderOperations(field["request"])
        self.response = try VirtualServiceSpec.HeaderOperations(field["response"])
    }
}

extension VirtualServiceSpec.HeaderOperations {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.set = try field["set"].named { value throws(ObjectError) in try value.string() ?? "" }
        self.add = try field["add"].named { value throws(ObjectError) in try value.string() ?? "" }
        self.remove = try field["remove"].strings()
    }
}

extension VirtualServiceSpec.Redirect {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.uri = try field["uri"].nonEmptyString()
        self.authority = try field["authority"].nonEmptyString()
        self.scheme = try field["scheme"].nonEmptyString()
        self.port = try field["port"].port()
        self.derivePort = try field["derivePort"].nonEmptyString()
        self.code = try field["redirectCode"].integer(in: 0...599).flatMap { $0 == 0 ? nil : $0 }
    }
}

extension VirtualServiceSpec.DirectResponse {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.status = try field["status"].require(
            field["status"].integer(in: 200...599),
            "an HTTP status from 200 to 599"
        )
        let body = try field["body"]
        if try body["bytes"].nonEmptyString() != nil {
            throw try body["bytes"].badValue("nothing; write the body as text in body.string")
        }
        self.body = try body["string"].string() ?? ""
    }
}

extension VirtualServiceSpec.Rewrite {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.uri = try field["uri"].nonEmptyString()
        self.authority = try field["authority"].nonEmptyString()
        let regex = try field["uriRegexRewrite"]
        guard regex.isPresent else { return }
        guard self.uri == nil else { throw regex.badValue("nothing beside uri; remove one of the two") }
        self.regexMatch = try regex["match"].require(regex["match"].nonEmptyString(), "a regular expression")
        self.regexRewrite = try regex["rewrite"].string() ?? ""
    }
}

extension VirtualServiceSpec.Retries {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.attempts = try field["attempts"].integer(in: 0...100) ?? 2
        self.perTryTimeout = try field["perTryTimeout"].duration()
        self.backoff = try field["backoff"].duration()
        let conditions = try field["retryOn"].string() ?? ""
        self.conditions = conditions.split { $0 == "," || $0 == " " }.map(String.init)
    }
}

extension VirtualServiceSpec.Fault {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        let delay = try field["delay"]
        if delay.isPresent {
            self.delay = try delay["fixedDelay"].require(delay["fixedDelay"].duration(), "a duration such as 5s")
            let older = try delay["percent"].number()
            self.delayPercentage = try delay["percentage"]["value"].number() ?? older
        }
        let abort = try field["abort"]
        if abort.isPresent {
            self.abortStatus = try abort["httpStatus"].integer(in: 200...599)
            self.abortsOtherwise = self.abortStatus == nil
            self.abortPercentage = try abort["percentage"]["value"].number()
        }
    }
}

extension VirtualServiceSpec.CORS {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        self.origins = try field["allowOrigin"].strings().map { .exact($0) }
        for origin in try field["allowOrigins"].elements() {
            if let match = try VirtualServiceSpec.StringMatch(origin) { self.origins.append(match) }
        }
        self.methods = try field["allowMethods"].strings()
        self.headers = try field["allowHeaders"].strings()
        self.exposedHeaders = try field["exposeHeaders"].strings()
        self.maximumAge = try field["maxAge"].duration()
        self.allowsCredentials = try field["allowCredentials"].bool() ?? false
    }
}

extension VirtualServiceSpec.Stream {
    fileprivate init(_ field: FieldReader, hasNames: Bool) throws(ObjectError) {
        self.matches = try field["match"].map { field throws(ObjectError) in
            var match = VirtualServiceSpec.StreamMatch()
            match.sniHosts = try field["sniHosts"].strings()
            if hasNames, match.sniHosts.isEmpty {
                throw try field["sniHosts"].require(
                    nil as ObjectError?,
                    "the names of TLS clients, such as [\"a.example\"]"
                )
            }
            match.port = try field["port"].port()
            match.gateways = try field["gateways"].strings()
            let labels = try field["sourceLabels"].stringMap()
            let subnets = try field["destinationSubnets"].strings()
            let namespace = try field["sourceNamespace"].nonEmptyString()
            let subnet = try field["sourceSubnet"].nonEmptyString()
            match.asksForSource = !labels.isEmpty || !subnets.isEmpty || namespace != nil || subnet != nil
            return match
        }
        self.route = try field["route"].map { route throws(ObjectError) in try .init(route) }
    }
}

extension FieldReader {
    func strings() throws(ObjectError) -> [String] {
        try self.map { field throws(ObjectError) in try field.string() ?? "" }
    }

    func map<Value>(_ read: (FieldReader) throws(ObjectError) -> Value) throws(ObjectError) -> [Value] {
        var values: [Value] = []
        for element in try self.elements() { values.append(try read(element)) }
        return values
    }

    /// A number, with or without a fraction.
    func number() throws(ObjectError) -> Double? {
        switch self.document?.content {
        case nil: nil
        case .integer(let value): Double(value)
        case .number(let value): value
        default: throw self.badValue("a number")
        }
    }

    /// As `seconds`; ten years at most.
    func duration() throws(ObjectError) -> Duration? {
        guard let seconds = try self.seconds() else { return nil }
        guard seconds <= 315_360_000 else { throw self.badValue("a duration of at most 87600h") }
        return .nanoseconds(Int64((seconds * 1e9).rounded()))
    }

    /// The members of an object in order of their names.
    fileprivate func named<Value>(
        _ read: (FieldReader) throws(ObjectError) -> Value
    ) throws(ObjectError) -> [VirtualServiceSpec.Named<Value>] {
        var values: [VirtualServiceSpec.Named<Value>] = []
        // Throws if this is no object.
        _ = try self[""]
        for key in (self.document?.members ?? []).map(\.key).sorted() {
            values.append(VirtualServiceSpec.Named(name: key, value: try read(self[key])))
        }
        return values
    }
}
