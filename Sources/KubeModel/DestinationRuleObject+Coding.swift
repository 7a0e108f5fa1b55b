import Documents
import MeshCore

extension DestinationRuleObject {
    init(_ object: FieldReader, name: ObjectName) throws(ObjectError) {
        let spec = try object["spec"]
        // EdgeMesh matches rules by name, so a rule without a host is of use.
        self.init(name: name, host: try spec["host"].string() ?? "")
        let policy = try spec["trafficPolicy"]
        self.loadBalancer = try LoadBalancer(policy["loadBalancer"])
        self.tls = try TLS(policy["tls"])
        self.locality = try LocalitySetting(policy["loadBalancer"]["localityLbSetting"])
        for setting in try policy["portLevelSettings"].elements() {
            let field = try setting["port"]["number"]
            let port = try field.require(field.port(), "a service port from 1 to 65535")
            guard self.portLoadBalancers[port] == nil else { throw field.duplicate("another entry") }
            self.portLoadBalancers[port] = try LoadBalancer(setting["loadBalancer"])
            self.portTLS[port] = try TLS(setting["tls"])
        }
        for subset in try spec["subsets"].elements() {
            let field = try subset["name"]
            let name = try field.require(field.nonEmptyString(), "the name of the subset")
            guard self.subsets[name] == nil else { throw field.duplicate("another subset") }
            self.subsets[name] = try subset["labels"].stringMap()
        }
    }

    var fields: KubeFields {
        var policy = KubeFields()
        var balancer = self.loadBalancer?.document.members ?? []
        if let locality = self.locality { balancer.append(.init("localityLbSetting", locality.document)) }
        policy.set("loadBalancer", balancer.isEmpty ? nil : .object(balancer))
        policy.set("tls", self.tls?.fields ?? KubeFields())
        policy.set(
            "portLevelSettings",
            Set(self.portLoadBalancers.keys).union(self.portTLS.keys).sorted().map { port in
                var setting = KubeFields()
                setting.set("port", ["number": .integer(port)] as Document)
                setting.set("loadBalancer", self.portLoadBalancers[port]?.document)
                setting.set("tls", self.portTLS[port]?.fields ?? KubeFields())
                return setting.document
            }
        )
        var spec = KubeFields()
        spec.set("host", self.host)
        spec.set("trafficPolicy", policy)
        spec.set(
            "subsets",
            self.subsets.sorted { $0.key < $1.key }.map { name, labels in
                var subset = KubeFields()
                subset.set("name", name)
                subset.set("labels", labels)
                return subset.document
            }
        )
        var object = KubeFields()
        object.set("spec", spec)
        return object
    }
}

extension DestinationRuleObject.TLS {
    /// Nil if the field is absent.
    fileprivate init?(_ field: FieldReader) throws(ObjectError) {
        guard field.isPresent else { return nil }
        self.init(mode: try field["mode"].nonEmptyString() ?? "DISABLE")
        self.sni = try field["sni"].nonEmptyString()
        self.subjectAltNames = try field["subjectAltNames"].strings()
        self.credentialName = try field["credentialName"].nonEmptyString()
    }

    fileprivate var fields: KubeFields {
        var fields = KubeFields()
        fields.set("mode", self.mode)
        fields.set("sni", self.sni)
        fields.set("subjectAltNames", texts: self.subjectAltNames)
        fields.set("credentialName", self.credentialName)
        return fields
    }
}

extension DestinationRuleObject.LoadBalancer {
    /// Nil if it sets neither a simple policy nor a hash.
    fileprivate init?(_ field: FieldReader) throws(ObjectError) {
        if try field["consistentHash"].isPresent {
            if try field["simple"].isPresent {
                throw try field["simple"].badValue("nothing beside consistentHash; remove one of the two")
            }
            self = .consistentHash(try DestinationRuleObject.ConsistentHash(field["consistentHash"]))
        } else if let name = try field["simple"].nonEmptyString() {
            self = .simple(name)
        } else {
            return nil
        }
    }

    fileprivate var document: Document {
        switch self {
        case .simple(let name): ["simple": .string(name)]
        case .consistentHash(let hash): ["consistentHash": hash.fields.document]
        }
    }
}

extension DestinationRuleObject.ConsistentHash {
    fileprivate init(_ field: FieldReader) throws(ObjectError) {
        var keys: [Key] = []
        if let name = try field["httpHeaderName"].nonEmptyString() { keys.append(.httpHeader(name)) }
        if try field["httpCookie"].isPresent {
            let cookie = try field["httpCookie"]
            keys.append(
                .httpCookie(
                    name: try cookie["name"].require(cookie["name"].nonEmptyString(), "the name of the cookie"),
                    path: try cookie["path"].nonEmptyString(),
                    ttl: try cookie["ttl"].seconds()
                )
            )
        }
        if try field["useSourceIp"].bool() == true { keys.append(.sourceIP) }
        if let name = try field["httpQueryParameterName"].nonEmptyString() { keys.append(.httpQueryParameter(name)) }
        guard keys.count == 1 else {
            throw field.badValue(
                "exactly one of httpHeaderName, httpCookie, useSourceIp: true and httpQueryParameterName (it has \(keys.count))"
            )
        }
        let algorithm: Algorithm
        if try field["maglev"].isPresent {
            algorithm = .maglev(tableSize: try field["maglev"]["tableSize"].size())
        } else {
            let older = try field["minimumRingSize"].size()
            let size = try field["ringHash"]["minimumRingSize"].size()
            algorithm = .ring(minimumSize: size ?? older)
        }
        self.init(key: keys[0], algorithm: algorithm)
    }

    fileprivate var fields: KubeFields {
        var fields = KubeFields()
        switch self.key {
        case .sourceIP: fields.set("useSourceIp", true as Document)
        case .httpHeader(let name): fields.set("httpHeaderName", name)
        case .httpQueryParameter(let name): fields.set("httpQueryParameterName", name)
        case .httpCookie(let name, let path, let ttl):
            var cookie = KubeFields()
            cookie.set("name", name)
            cookie.set("path", path)
            cookie.set("ttl", ttl.map { "\($0)s" })
            fields.set("httpCookie", cookie)
        }
        func size(_ name: String, _ value: UInt64?) -> Document {
            .object(value.map { [Document.Member(name, .integer($0))] } ?? [])
        }
        switch self.algorithm {
        case .ring(nil): break
        case .ring(let value): fields.set("ringHash", size("minimumRingSize", value))
        case .maglev(let value): fields.set("maglev", size("tableSize", value))
        }
        return fields
    }
}

extension FieldReader {
    /// A size, which the API also takes as text.
    fileprivate func size() throws(ObjectError) -> UInt64? {
        guard let text = self.document?.string else { return try self.integer(in: 0...UInt64(Int64.max)) }
        guard let size = UInt64(text), size <= Int64.max else { throw self.badValue("a whole number") }
        return size
    }

    /// A duration such as `1h30m` or `0.5s`, in seconds.
    func seconds() throws(ObjectError) -> Double? {
        guard let text = try self.nonEmptyString() else { return nil }
        let units: [String: Double] = ["h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9]
        func isNumeric(_ character: Character) -> Bool { character.isASCII && (character.isNumber || character == ".") }
        var total = 0.0
        var rest = text[...]
        while !rest.isEmpty {
            let number = rest.prefix(while: isNumeric)
            let unit = rest.dropFirst(number.count).prefix { !isNumeric($0) }
            guard let value = Double(number), let factor = units[String(unit)] else {
                throw self.badValue("a duration such as 30s or 1h30m")
            }
            total += value * factor
            rest = rest.dropFirst(number.count + unit.count)
        }
        return total
    }
}
