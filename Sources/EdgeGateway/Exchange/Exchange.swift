import EndpointBalancing
import GatewayRouting
import LoadBalancing
import MeshCore
import MeshInterfaces
import NIOCore
import ServiceCatalog

/// One request from its head to the end of its response: finds the rule, chooses a backend, passes both ways what comes.
///
/// A side is read only while the other takes what is written, so that a slow one holds back the other. Content is kept, within
/// `GatewayLimits.retainedBytes`, for as long as the request may have to be sent again. Confined to its loop; it lives until
/// the response has ended or either side is gone.
final class Exchange: UpstreamObserver {
    let worker: GatewayWorker
    let client: ClientConnection
    var head: RequestHead
    var downstream: (any Downstream)?
    let started: NIODeadline
    var route: Route?
    var target: RouteTarget?
    var crossOriginFields: [HeaderEdits.Field]?
    var outgoing: RequestHead?

    private(set) var upstream: (any UpstreamStream)?
    private var balancer: SharedBalancer?
    private var pick: SharedBalancer.Pick?
    private var excluded: [Int] = []
    /// What the endpoint of the client's session is called, if it has one.
    private(set) var session: String?
    private var attempt = 0
    private var needsFreshConnection = false
    private var retriesLeft = 0
    private var backoff: Duration = .milliseconds(25)

    private(set) var retained: [ByteBuffer] = []
    private var retainedBytes = 0
    private var isRetaining = true
    private var requestEnded: Bool
    private var requestTrailers: HeaderFields?
    private(set) var requestBytes: UInt64 = 0
    private(set) var responseBytes: UInt64 = 0
    private(set) var hasAnswered = false
    private(set) var isFinished = false
    private var isReadingRequest = false
    /// The client waits to be told to send its content, and the backend is asked for that (RFC 9110 section 10.1.1).
    private var awaitsContinue = false
    private var hasMirrored = false

    private var timers: [Scheduled<Void>] = []
    private var tryTimer: Scheduled<Void>?
    var log = AccessLogEntry()

    init(worker: GatewayWorker, client: ClientConnection, head: RequestHead, downstream: any Downstream) {
        self.worker = worker
        self.client = client
        self.head = head
        self.downstream = downstream
        self.started = worker.loop.now
        self.requestEnded = head.body == .none
        worker.counters.requests += 1
        worker.counters.requestsOpen += 1
    }

    func begin() {
        self.downstream?.setDeadline(self.worker.limits.idleTimeout)
        self.log.requestID = RequestIdentity.identify(&self.head.fields, using: &self.worker.generator)
        if let limit = self.worker.limits.bodyBytes, case .known(let length) = self.head.body, length > limit {
            return self.refuse(413, "the content is longer than \(limit) bytes")
        }
        self.findRoute()
    }

    // MARK: From the client

    func requestSent(_ bytes: ByteBuffer) {
        guard !self.isFinished else { return }
        self.downstream?.setDeadline(self.worker.limits.idleTimeout)
        self.requestBytes += UInt64(bytes.readableBytes)
        if let limit = self.worker.limits.bodyBytes, self.requestBytes > limit {
            return self.refuse(413, "the content is longer than \(limit) bytes")
        }
        if self.isRetaining {
            self.retainedBytes += bytes.readableBytes
            if self.retainedBytes > self.worker.limits.retainedBytes {
                self.dropRetained()
            } else {
                self.retained.append(bytes)
            }
        }
        self.upstream?.write(bytes)
    }

    func requestReadComplete() {
        self.isReadingRequest = false
        guard !self.isFinished else { return }
        self.upstream?.flush()
        self.readRequest()
    }

    func requestCompleted(_ trailers: HeaderFields?) {
        guard !self.isFinished, !self.requestEnded else { return }
        self.requestEnded = true
        self.requestTrailers = trailers
        self.upstream?.end(trailers)
        self.upstream?.flush()
        self.mirror()
    }

    /// What came is no request after all.
    func requestBroke(_ error: HTTP1Error) { self.refuse(error.status, error.message) }

    func downstreamBecameWritable() {
        if !self.isFinished, self.hasAnswered { self.upstream?.read() }
    }

    /// The client is gone: nobody wants the answer.
    func downstreamClosed() {
        guard !self.isFinished else { return }
        self.log.reason = "the client closed the connection"
        if self.log.status == 0 { self.log.status = 499 }
        self.upstream?.cancel()
        self.finish(failed: false)
    }

    private func readRequest() {
        guard !self.requestEnded, !self.isReadingRequest, !self.awaitsContinue, let upstream = self.upstream,
            upstream.isWritable
        else {
            return
        }
        self.isReadingRequest = true
        self.downstream?.readRequest()
    }

    private func dropRetained() {
        self.isRetaining = false
        self.retained = []
    }

    // MARK: To the backend

    /// By which of the rule's matches the request came to it.
    var match: HTTPMatch? { self.route?.rule.match(for: self.head) }

    /// Passes the request on to one of the rule's backends.
    /// - Parameter choice: the endpoint of the client's session, if it has one.
    func forward(_ target: RouteTarget, _ outgoing: RequestHead, to choice: SessionChoice?) {
        self.target = target
        self.outgoing = outgoing
        self.balancer = choice?.balancer
        self.pick = choice?.pick
        if let upgrade = self.head.upgrade, let backend = target.backend, backend.application == .http2,
            ASCII.lowercased(upgrade.utf8) == "websocket"
        {
            return self.refuse(
                501,
                "service \(backend.service) port \(backend.port) speaks HTTP/2, over which no WebSocket is led to it; "
                    + "give the port the appProtocol kubernetes.io/ws"
            )
        }
        if let policy = self.route?.retries {
            self.retriesLeft = max(0, policy.attempts)
            self.backoff = policy.backoff
        }
        if self.requestEnded { self.mirror() }
        self.dial()
    }

    private func dial() {
        guard !self.isFinished, let target = self.target, let backend = target.backend, let outgoing = self.outgoing
        else { return }
        guard let pick = self.pick ?? self.choose(target, backend, outgoing) else { return }
        self.pick = pick
        if self.route?.persistence != nil {
            self.session = SessionChoice.name(of: pick.endpoint, of: backend.service)
        }
        self.attempt += 1
        let attempt = self.attempt
        self.log.upstream = pick.endpoint.transportAddress
        self.armTryTimer()
        if !self.needsFreshConnection, let stream = self.worker.pool.reuse(pick.endpoint, backend) {
            return self.connected(UpstreamPool.Opened(stream: stream, isReused: true), outgoing)
        }
        self.worker.pool.open(
            pick.endpoint,
            backend,
            origin: FlowOrigin(client: self.client.address, service: backend.service),
            deadline: .now() + self.worker.limits.dialTimeout
        ) { result in
            guard !self.isFinished, self.attempt == attempt else {
                if case .success(let opened) = result { opened.stream.cancel() }
                return
            }
            switch result {
            case .success(let opened): self.connected(opened, outgoing)
            case .failure(let error): self.failed(.connect("\(error)"))
            }
        }
    }

    /// The endpoint whose turn it is; without one the client is told so.
    private func choose(_ target: RouteTarget, _ backend: Backend, _ outgoing: RequestHead) -> SharedBalancer.Pick? {
        let found = target.pick(from: self.worker.backends) { balancer in
            balancer.begin(
                PickContext(
                    client: self.client.address.address,
                    now: .now(),
                    keyHash: self.worker.keyHash(balancer, outgoing),
                    excluded: self.excluded
                )
            )
        }
        if let found, let pick = found.pick {
            self.balancer = found.balancer
            return pick
        }
        self.worker.counters.requestsWithoutBackend += 1
        let (service, port) = (backend.service, backend.port)
        if found == nil {
            self.refuse(503, "service \(service) is not known, or has no port \(port)")
        } else {
            let subset = backend.subset.map { " in subset \($0)" } ?? ""
            self.refuse(503, "no endpoint of service \(service) port \(port)\(subset) is ready")
        }
        return nil
    }

    private func connected(_ opened: UpstreamPool.Opened, _ outgoing: RequestHead) {
        if opened.isReused { self.worker.counters.backendsReused += 1 }
        let stream = opened.stream
        self.upstream = stream
        stream.observer = self
        let isAsking = self.head.expectsContinue && !self.requestEnded && self.requestBytes == 0
        if isAsking, !self.isReadingRequest { self.ask(outgoing, stream) } else { stream.send(outgoing) }
        // It may have failed at once.
        guard self.upstream === stream else { return }
        for bytes in self.retained { stream.write(bytes) }
        if self.requestEnded, outgoing.body != .none { stream.end(self.requestTrailers) }
        if outgoing.body == .none { stream.end(nil) }
        stream.flush()
        stream.read()
        self.readRequest()
    }

    private func ask(_ outgoing: RequestHead, _ stream: any UpstreamStream) {
        var asking = outgoing
        asking.fields.set("expect", "100-continue")
        self.awaitsContinue = true
        let attempt = self.attempt
        self.after(self.worker.limits.continueTimeout) { if $0.attempt == attempt { $0.sendContent() } }
        stream.send(asking)
    }

    /// The backend wants the content, or does not know the question.
    private func sendContent() {
        guard self.awaitsContinue, !self.hasAnswered else { return }
        self.awaitsContinue = false
        self.readRequest()
    }

    private func armTryTimer() {
        self.tryTimer?.cancel()
        guard let timeout = self.route?.tryTimeout else { return }
        self.tryTimer = self.worker.loop.assumeIsolated().scheduleTask(in: TimeAmount(timeout)) {
            guard !self.hasAnswered, !self.isFinished else { return }
            self.failed(.timeout)
        }
    }

    /// This try is over without an answer. Another endpoint or another try, if that is safe; else the client is told.
    private func failed(_ failure: UpstreamFailure) {
        guard !self.isFinished else { return }
        self.tryTimer?.cancel()
        self.upstream?.cancel()
        self.upstream = nil
        let slot = self.pick?.slot
        self.release(failed: true)
        guard !self.hasAnswered else {
            self.worker.counters.answersBroken += 1
            self.log.reason = "the backend broke off"
            return self.giveUp()
        }
        if case .connect = failure {
            self.worker.counters.dialsFailed += 1
            if let slot { self.excluded.append(slot) }
            // Nothing has reached a backend: the next endpoint is as good.
            if self.excluded.count < self.worker.limits.maximumDials, self.hasOtherEndpoints { return self.dial() }
        }
        // What was read of the request is needed again.
        let canRepeat = self.isRetaining
        if canRepeat, self.retriesLeft > 0, let policy = self.route?.retries, policy.covers(failure) {
            return self.retry()
        }
        if case .reset(isStale: true) = failure, canRepeat, !self.needsFreshConnection, self.head.isIdempotent {
            self.needsFreshConnection = true
            return self.dial()
        }
        self.tell(failure)
    }

    private var hasOtherEndpoints: Bool { self.balancer.map { $0.endpointCount > self.excluded.count } ?? false }

    private func retry() {
        self.retriesLeft -= 1
        self.worker.counters.retries += 1
        self.log.retries += 1
        self.excluded = []
        self.needsFreshConnection = true
        let delay = TimeAmount(self.backoff)
        self.backoff = min(self.backoff * 2, .seconds(2))
        self.after(delay) { $0.dial() }
    }

    private func tell(_ failure: UpstreamFailure) {
        let service = self.target?.backend.map { "\($0.service)" } ?? ""
        let address = self.log.upstream.map { "\($0)" } ?? ""
        switch failure {
        case .connect(let why):
            self.log.detail = why
            self.refuse(502, "no endpoint of service \(service) could be reached")
        case .refused: self.refuse(503, "endpoint \(address) of service \(service) takes no more requests")
        case .reset:
            self.worker.counters.answersBroken += 1
            // One that has failed at each try is taken for one that is down.
            let status = self.log.retries > 0 ? 503 : 502
            self.refuse(status, "endpoint \(address) of service \(service) closed the connection without an answer")
        case .malformed(let what):
            self.worker.counters.answersBroken += 1
            self.log.detail = what
            self.refuse(502, "endpoint \(address) of service \(service) answered what is no HTTP")
        case .timeout: self.timedOut()
        }
    }

    // MARK: From the backend

    func upstreamInformed(_ head: ResponseHead) {
        if head.status == 100 { self.sendContent() }
        guard !self.hasAnswered, self.head.version != .http10, head.status != 100 else { return }
        self.downstream?.inform(head)
    }

    func upstreamAnswered(_ head: ResponseHead) {
        guard !self.isFinished else { return }
        self.tryTimer?.cancel()
        if self.isRetaining, self.retriesLeft > 0, let policy = self.route?.retries,
            policy.covers(status: head.status)
        {
            self.upstream?.cancel()
            self.upstream = nil
            self.release(failed: false)
            return self.retry()
        }
        self.hasAnswered = true
        if self.requestEnded || self.hasMirrored || (self.route?.mirrors.isEmpty ?? true) { self.dropRetained() }
        self.log.status = head.status
        self.downstream?.answer(self.finished(head))
    }

    func upstreamSent(_ bytes: ByteBuffer) {
        guard !self.isFinished else { return }
        self.responseBytes += UInt64(bytes.readableBytes)
        self.downstream?.send(bytes)
    }

    func upstreamReadComplete() {
        guard !self.isFinished, let downstream = self.downstream else { return }
        self.downstream?.setDeadline(self.worker.limits.idleTimeout)
        downstream.flush()
        if downstream.isWritable { self.upstream?.read() }
    }

    func upstreamEnded(_ trailers: HeaderFields?) {
        guard !self.isFinished else { return }
        let downstream = self.downstream
        self.upstream = nil
        self.finish(failed: false)
        downstream?.end(trailers)
    }

    func upstreamFailed(_ failure: UpstreamFailure) {
        self.upstream = nil
        self.failed(failure)
    }

    func upstreamBecameWritable() { self.readRequest() }

    func upstreamSwitched(_ head: ResponseHead, _ channel: any Channel, received: ByteBuffer?) {
        guard !self.isFinished, let downstream = self.downstream, self.outgoing?.upgrade != nil else {
            channel.close(promise: nil)
            return self.failed(.malformed("101 that nobody asked for"))
        }
        self.worker.counters.upgrades += 1
        self.hasAnswered = true
        self.upstream = nil
        self.log.status = 101
        // The endpoint is in use until the new protocol ends.
        if let balancer = self.balancer, let pick = self.pick {
            self.pick = nil
            channel.closeFuture.whenComplete { _ in balancer.end(pick) }
        }
        let finished = self.finished(head)
        self.finish(failed: false)
        downstream.answer(finished)
        downstream.join(channel, received: received)
    }

    // MARK: The end

    /// Answers instead of a backend, or breaks off what has begun.
    func refuse(_ status: Int, _ reason: String) {
        guard !self.isFinished else { return }
        self.log.reason = reason
        self.upstream?.cancel()
        self.upstream = nil
        guard !self.hasAnswered else { return self.giveUp() }
        self.respond(GatewayAnswer.make(status, reason, to: self.head, detail: self.worker.showsReasons))
    }

    /// A whole response of the gateway's own.
    func respond(_ answer: GatewayAnswer) {
        guard !self.isFinished, let downstream = self.downstream else { return }
        self.upstream?.cancel()
        self.upstream = nil
        self.hasAnswered = true
        self.log.status = answer.head.status
        self.responseBytes = UInt64(answer.body.readableBytes)
        self.finish(failed: false)
        downstream.answer(answer.head)
        if answer.body.readableBytes > 0, self.head.method != "HEAD" { downstream.send(answer.body) }
        downstream.end(answer.trailers)
    }

    func timedOut() {
        self.worker.counters.timeouts += 1
        let service = self.target?.backend.map { "\($0.service)" } ?? ""
        self.refuse(504, "service \(service) did not answer in time")
    }

    func idledOut() {
        if !self.requestEnded, self.isReadingRequest, !self.hasAnswered {
            self.worker.counters.timeouts += 1
            self.refuse(408, "the content did not come in time")
        } else {
            self.timedOut()
        }
    }

    private func giveUp() {
        let downstream = self.downstream
        self.finish(failed: true)
        downstream?.abort()
    }

    /// Runs a step later, unless the request is over by then.
    func after(_ delay: TimeAmount, _ step: @escaping (Exchange) -> Void) {
        let timer = self.worker.loop.assumeIsolated().scheduleTask(in: delay) {
            guard !self.isFinished else { return }
            step(self)
        }
        self.timers.append(timer)
    }

    private func release(failed: Bool) {
        guard let pick = self.pick else { return }
        self.pick = nil
        self.balancer?.end(pick, failed: failed)
    }

    private func finish(failed: Bool) {
        guard !self.isFinished else { return }
        self.isFinished = true
        self.downstream?.clearDeadline()
        self.tryTimer?.cancel()
        for timer in self.timers { timer.cancel() }
        self.release(failed: failed)
        self.upstream = nil
        self.retained = []
        self.downstream = nil
        self.worker.counters.requestsOpen -= 1
        self.worker.logAccess(self)
    }

    /// Sends copies, once the content is whole and as long as all of it is there.
    private func mirror() {
        guard !self.hasMirrored, let route = self.route, !route.mirrors.isEmpty, let outgoing = self.outgoing
        else { return }
        self.hasMirrored = true
        for mirror in route.mirrors where mirror.share.ofMillionFalls(using: &self.worker.generator) {
            guard self.isRetaining else {
                self.worker.counters.mirrorsLeftOut += 1
                continue
            }
            MirrorRequest.send(outgoing, self.retained, to: mirror.backend, from: self.client.address, self.worker)
        }
    }
}
