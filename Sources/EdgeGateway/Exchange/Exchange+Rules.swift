import EndpointBalancing
import GatewayRouting
import MeshCore
import NIOCore

extension Exchange {
    /// Finds the rule and does what it says.
    func findRoute() {
        guard let place = self.client.rules.place(of: self.head.authority) else {
            return self.refuse(400, "the request names no host")
        }
        let name = place.name
        guard place.isServed else {
            return self.refuse(421, "\(name) is not served on this connection: TLS was asked for another name")
        }
        guard let (table, host) = place.rules else { return self.hasNoRoute(name) }
        if table.redirectsToHTTPS(host), !self.client.isSecure {
            self.log.rule = "httpsRedirect"
            return self.redirect(.toHTTPS)
        }
        let budget = self.worker.budget
        budget.renew()
        let found = table.route(of: host, for: self.head, within: budget)
        guard !budget.isExhausted else { return self.isTooComplex(name) }
        guard let route = found else { return self.hasNoRoute(name) }
        self.route = route
        self.log.rule = route.origin
        if let timeout = route.timeout { self.after(TimeAmount(timeout)) { $0.timedOut() } }
        switch route.cors?.decision(for: self.head, within: budget) ?? .none {
        case .none: break
        case .preflight(let fields):
            return self.respond(GatewayAnswer(head: ResponseHead(status: 204, fields: HeaderFields(fields))))
        case .refusedPreflight: return self.refuse(403, "the route allows no requests of this origin")
        case .actual(let fields): self.crossOriginFields = fields
        }
        self.injectFault(route.fault)
    }

    private func hasNoRoute(_ name: String) {
        self.worker.counters.requestsWithoutRoute += 1
        self.refuse(404, "no route for \(name)\(self.head.path)")
    }

    private func isTooComplex(_ name: String) {
        self.worker.counters.requestsTooComplex += 1
        self.refuse(431, "the request is too long for the regular expressions of the rules for \(name)")
    }

    private func injectFault(_ fault: FaultInjection?) {
        guard let fault else { return self.act() }
        let isAborted = fault.abortShare.ofMillionFalls(using: &self.worker.generator)
        let status = isAborted ? fault.abortStatus : nil
        func go(_ exchange: Exchange) {
            if let status { exchange.refuse(Int(status), "a fault that the route injects") } else { exchange.act() }
        }
        if let delay = fault.delay, fault.delayShare.ofMillionFalls(using: &self.worker.generator) {
            self.after(TimeAmount(delay)) { go($0) }
        } else {
            go(self)
        }
    }

    private func act() {
        guard let route = self.route else { return }
        switch route.action {
        case .redirect(let redirect): self.redirect(redirect)
        case .respond(let response):
            let body = ByteBuffer(bytes: response.body)
            let head = ResponseHead(status: Int(response.status), body: .known(UInt64(body.readableBytes)))
            self.respond(GatewayAnswer(head: self.finished(head), body: body))
        case .forward: self.forward(by: route)
        }
    }

    private func forward(by route: Route) {
        let choice = route.persistence.flatMap {
            SessionChoice.find($0, self.head, among: route.targets, self.worker.backends)
        }
        guard let target = choice?.target ?? route.target(using: &self.worker.generator) else {
            return self.refuse(503, "every backend of the route has the weight 0")
        }
        guard target.backend != nil else {
            return self.refuse(500, "the route's backend does not exist or may not be used")
        }
        guard let outgoing = self.outgoing(to: target, by: route) else {
            if let choice { choice.balancer.end(choice.pick) }
            return self.refuse(500, "the route's rewriting leads to no path")
        }
        self.forward(target, outgoing, to: choice)
    }

    private func redirect(_ redirect: HTTPRedirect) {
        guard let location = redirect.location(for: self.head, match: self.match), ASCII.isValue(location) else {
            return self.refuse(500, "the route's redirect leads nowhere")
        }
        let fields = HeaderFields([("location", location)])
        let head = ResponseHead(status: Int(redirect.status), fields: fields, body: .known(0))
        self.respond(GatewayAnswer(head: self.finished(head)))
    }

    /// What the backend gets; nil if a rewriting makes no path.
    private func outgoing(to target: RouteTarget, by route: Route) -> RequestHead? {
        // Rules see the request as it came; from here on nobody asks for that, and its own fields are added to, not a copy of them.
        let match = target.changesRequests ? self.match : nil
        let earlier = self.head.fields.values("x-forwarded-for")
        self.head.fields.set(
            "x-forwarded-for",
            earlier.isEmpty ? self.client.host : earlier.joined(separator: ", ") + ", " + self.client.host
        )
        self.head.fields.set("x-forwarded-proto", self.client.isSecure ? "https" : "http")
        self.head.fields.set("x-forwarded-host", self.head.authority)
        var head = self.head
        if target.changesRequests {
            guard self.change(&head, by: [route.rule.filters, target.weighted.filters], match) else { return nil }
        }
        if target.backend?.application == .http2 {
            head.upgrade = nil
            head.scheme = target.backend?.tls == nil ? "http" : "https"
        } else {
            head.fields.remove("te")
        }
        return head
    }

    /// Does to a request what the rule wants; false if that makes no request.
    private func change(_ head: inout RequestHead, by all: [HTTPFilters], _ match: HTTPMatch?) -> Bool {
        for filters in all where !filters.isEmpty {
            if filters.path != nil {
                guard let text = filters.target(of: head, match: match), let target = try? RequestTarget(text)
                else {
                    return false
                }
                head.target = target
            }
            filters.request.apply(to: &head.fields)
            if let authority = filters.authority { head.authority = authority }
        }
        if let host = head.fields["host"] {
            // A rule may set the header by this name.
            head.authority = host
            head.fields.remove("host")
        }
        // What frames the message is not for rules to change.
        head.fields.remove("content-length")
        let trailers = head.fields["te"]
        head.fields.removeHopByHop()
        if let trailers { head.fields.add("te", trailers) }
        return ASCII.isAuthority(head.authority)
            && head.fields.fields.allSatisfy { ASCII.isToken($0.name) && ASCII.isValue($0.value) }
    }

    /// What the client gets of a backend's head.
    func finished(_ head: ResponseHead) -> ResponseHead {
        var head = head
        if let fields = self.crossOriginFields {
            for name in [
                "access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers",
            ] {
                head.fields.remove(name)
            }
            for field in fields { head.fields.add(field.name, field.value) }
        }
        if let persistence = self.route?.persistence, let session = self.session,
            SessionChoice.session(persistence, self.head) != session
        {
            head.fields.fields.append(
                SessionChoice.field(persistence, session, isSecure: self.client.isSecure)
            )
        }
        guard let route = self.route, self.target?.changesResponses ?? !route.responseEdits.isEmpty else {
            return head
        }
        route.responseEdits.apply(to: &head.fields)
        self.target?.weighted.filters.response.apply(to: &head.fields)
        head.fields.fields.removeAll { field in
            field.name == "content-length" || !ASCII.isToken(field.name) || !ASCII.isValue(field.value)
        }
        let upgrade = head.status == 101 ? head.fields["upgrade"] : nil
        head.fields.removeHopByHop()
        if let upgrade { head.fields.add("upgrade", upgrade) }
        return head
    }
}

extension HeaderFields {
    init(_ fields: [HeaderEdits.Field]) {
        self.init(fields.map { ($0.name, $0.value) })
    }
}
