import Documents

extension DestinationRuleObject {
    /// `trafficPolicy.loadBalancer.localityLbSetting`, as written. Localities are `REGION/ZONE/SUBZONE`, the last parts of which
    /// may be left out or be `*`.
    public struct LocalitySetting: Hashable, Sendable {
        public struct Distribution: Hashable, Sendable {
            public var from: String
            /// Shares of localities, in percent.
            public var to: [String: UInt32]

            public init(from: String, to: [String: UInt32]) {
                self.from = from
                self.to = to
            }
        }

        public var isEnabled = true
        public var distribute: [Distribution] = []
        /// Regions by the region that they stand in for.
        public var failover: [String: String] = [:]
        /// Labels, or `label=value`.
        public var failoverPriority: [String] = []

        public init() {}
    }
}

extension DestinationRuleObject.LocalitySetting {
    /// Nil if there is none.
    init?(_ field: FieldReader) throws(ObjectError) {
        guard field.isPresent else { return nil }
        self.init()
        self.isEnabled = try field["enabled"].bool() ?? true
        for entry in try field["distribute"].elements() {
            var shares: [String: UInt32] = [:]
            for member in try entry["to"].document?.members ?? [] {
                shares[member.key] = try entry["to"][member.key].integer(in: 0...100)
            }
            let from = try entry["from"].require(entry["from"].nonEmptyString(), "a locality such as REGION/ZONE/*")
            self.distribute.append(Distribution(from: from, to: shares))
        }
        for entry in try field["failover"].elements() {
            let from = try entry["from"].require(entry["from"].nonEmptyString(), "a region")
            guard self.failover[from] == nil else { throw try entry["from"].duplicate("another entry") }
            self.failover[from] = try entry["to"].require(entry["to"].nonEmptyString(), "a region")
        }
        for entry in try field["failoverPriority"].elements() {
            self.failoverPriority.append(try entry.require(entry.nonEmptyString(), "a label"))
        }
    }

    var document: Document {
        var fields = KubeFields()
        if !self.isEnabled { fields.set("enabled", false as Document) }
        fields.set(
            "distribute",
            self.distribute.map { entry in
                let shares = entry.to.sorted { $0.key < $1.key }
                return [
                    "from": .string(entry.from),
                    "to": .object(shares.map { Document.Member($0.key, .integer(Int64($0.value))) }),
                ] as Document
            }
        )
        fields.set(
            "failover",
            self.failover.sorted { $0.key < $1.key }.map {
                ["from": .string($0.key), "to": .string($0.value)] as Document
            }
        )
        fields.set("failoverPriority", texts: self.failoverPriority)
        return fields.document
    }
}
