/// What a rule's policy for requests of other sites says of one request (Fetch, section 3.2).
public enum CORSDecision: Sendable, Hashable {
    /// Not such a request: it goes its way, and nothing is added to the answer.
    case none
    /// To be answered with 204 and these headers.
    case preflight([HeaderEdits.Field])
    /// To be answered with 403.
    case refusedPreflight
    /// It goes its way; the answer's own `access-control-allow-origin`, `-allow-credentials` and `-expose-headers` give way to these.
    case actual([HeaderEdits.Field])
}

extension CORSPolicy {
    /// Once the budget is used up, no origin is allowed.
    public func decision(for request: some GatewayRequest, within budget: MatchBudget = MatchBudget()) -> CORSDecision {
        guard let origin = request.header("origin") else { return .none }
        let isAllowed = self.origins.contains { $0.holds(for: origin, within: budget) }
        let method = request.method == "OPTIONS" ? request.header("access-control-request-method") : nil
        guard isAllowed else {
            if self.forwardsUnmatchedPreflights { return .none }
            return method == nil ? .actual([]) : .refusedPreflight
        }
        var fields = [HeaderEdits.Field(name: "access-control-allow-origin", value: origin)]
        fields.append(HeaderEdits.Field(name: "vary", value: "Origin"))
        if self.allowsCredentials {
            fields.append(HeaderEdits.Field(name: "access-control-allow-credentials", value: "true"))
        }
        func add(_ name: String, _ values: [String], any: String?) {
            // Browsers take `*` for a name in requests with credentials, so what was asked for is said instead.
            let text = values.contains("*") ? any : values.joined(separator: ", ")
            if let text, !text.isEmpty { fields.append(HeaderEdits.Field(name: name, value: text)) }
        }
        add("access-control-expose-headers", self.exposedHeaders, any: self.allowsCredentials ? nil : "*")
        guard let method else { return .actual(fields) }
        add("access-control-allow-methods", self.methods, any: method)
        add("access-control-allow-headers", self.headers, any: request.header("access-control-request-headers"))
        if let age = self.maximumAge {
            fields.append(HeaderEdits.Field(name: "access-control-max-age", value: "\(age.components.seconds)"))
        }
        return .preflight(fields)
    }
}
