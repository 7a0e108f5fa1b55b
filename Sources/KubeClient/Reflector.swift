import KubeModel
import Logging
import MeshCore
import NIOHTTP1

/// Follows one resource: does what its state machine says and hands what it learns to the sink, in order.
/// Belongs to the task that calls `run`.
final class Reflector {
    /// At most so many events are handed to the sink at once.
    static let batchSize = 256
    /// How much of an error answer is read for its message.
    static let errorBodyLimit = 64 << 10
    /// A connection is not kept open over a longer wait than this: the server may close it meanwhile.
    static let longestIdle = Duration.seconds(1)

    private let transport: KubeTransport
    private let gate: RequestGate
    private let sink: @Sendable ([SourceEvent]) async -> Void
    private let report: @Sendable (ReflectorStateMachine.Health) async -> Void
    private let logger: Logger
    private var machine: ReflectorStateMachine
    private var batch: [SourceEvent] = []
    /// Errors repeat while their cause lasts; each is logged once.
    private var lastLogged = ""

    init(
        transport: KubeTransport,
        gate: RequestGate,
        machine: ReflectorStateMachine,
        logger: Logger,
        sink: @escaping @Sendable ([SourceEvent]) async -> Void,
        report: @escaping @Sendable (ReflectorStateMachine.Health) async -> Void
    ) {
        self.transport = transport
        self.gate = gate
        self.machine = machine
        self.logger = logger
        self.sink = sink
        self.report = report
    }

    /// Runs until cancelled.
    @concurrent
    func run() async throws {
        var step = self.machine.nextStep()
        while true {
            try Task.checkCancellation()
            if case .wait(let duration) = step {
                try await Task.sleep(for: duration)
                step = self.machine.nextStep()
                continue
            }
            do {
                step = try await self.transport.withConnection { [step] connection in
                    try await self.use(&connection, from: step)
                }
            } catch {
                // The connection is gone, and with it what was not yet handed over; the next request repeats it.
                self.batch.removeAll()
                try Task.checkCancellation()
                await self.perform(self.machine.failed(Self.failure(of: error)))
                step = self.machine.nextStep()
            }
        }
    }

    /// Does step after step on one connection, as long as it lasts, and returns the step for which it is of no use.
    @concurrent
    private func use(
        _ connection: inout KubeConnection,
        from first: ReflectorStateMachine.Step
    ) async throws -> ReflectorStateMachine.Step {
        var step = first
        repeat {
            do {
                switch step {
                case .list(let request):
                    try await self.list(request, on: &connection)
                case .watch(let request):
                    try await self.watch(request, on: &connection)
                case .wait(let duration):
                    guard duration <= Self.longestIdle else { return step }
                    try await Task.sleep(for: duration)
                }
            } catch {
                guard connection.mayHaveBeenClosedIdle, (error as? KubeError)?.code == .disconnected else {
                    throw error
                }
                // Asked again at once on a new connection, where the same failure would count.
                return step
            }
            step = self.machine.nextStep()
        } while connection.isReusable
        return step
    }

    @concurrent
    private func list(
        _ request: ReflectorStateMachine.ListRequest,
        on connection: inout KubeConnection
    ) async throws {
        try await self.gate.pass()
        let response = try await connection.send(
            KubeRequest(
                path: request.path,
                accept: request.resource.accept(list: true),
                acceptsGzip: true,
                idleLimit: .seconds(60),
                totalLimit: .seconds(300)
            )
        )
        guard try await self.accepts(response, on: &connection) else { return }
        await self.perform(self.machine.pageBegan())
        let decoding = ObjectDecoding(kind: request.resource.kind)
        var scanner = ListScanner()
        var count = 0
        while let chunk = try await connection.nextChunk() {
            try scanner.feed(chunk) { item in
                self.batch.append(decoding.event(item: item))
                count += 1
            }
            await self.flush(atLeast: Self.batchSize)
        }
        let envelope = try ListEnvelope(try scanner.finish())
        await self.flush(atLeast: 1)
        let effects = self.machine.pageEnded(
            items: count,
            continueToken: envelope.continueToken,
            resourceVersion: envelope.resourceVersion,
            now: .now()
        )
        await self.perform(effects)
    }

    @concurrent
    private func watch(
        _ request: ReflectorStateMachine.WatchRequest,
        on connection: inout KubeConnection
    ) async throws {
        try await self.gate.pass()
        // From the question on: a task that runs late after the answer's head must not take a long watch for a short one.
        let began = MonotonicTime.now()
        let limit = Duration.seconds(request.timeoutSeconds + 30)
        let response = try await connection.send(
            KubeRequest(
                path: request.path,
                accept: request.resource.accept(list: false),
                idleLimit: limit,
                totalLimit: limit
            )
        )
        guard try await self.accepts(response, on: &connection) else { return }
        await self.perform(self.machine.watchBegan())
        let decoding = ObjectDecoding(kind: request.resource.kind)
        var cutter = LineCutter()
        var sawEvents = false
        while let chunk = try await connection.nextChunk() {
            var lines: [LineCutter.Line] = []
            cutter.feed(chunk) { lines.append($0) }
            for line in lines {
                switch decoding.watchEvent(line: line) {
                case .changed(let event, let version):
                    self.batch.append(event)
                    // Nothing throws between here and the flush, so what counts as seen is always handed over.
                    if self.batch.count >= Self.batchSize { await self.flush(atLeast: 1) }
                    self.machine.observed(resourceVersion: version)
                case .bookmark(let version):
                    self.machine.observed(resourceVersion: version)
                case .failed(let failure):
                    await self.flush(atLeast: 1)
                    await self.perform(self.machine.failed(failure))
                    // The server ends the stream after an error; a new connection is cheaper than to wait for it.
                    return
                case .malformed(let message):
                    await self.flush(atLeast: 1)
                    await self.perform(self.machine.failed(.malformed(message)))
                    return
                }
                sawEvents = true
            }
            await self.flush(atLeast: 1)
        }
        self.machine.watchEnded(after: .now() - began, sawEvents: sawEvents)
    }

    /// True for 200; else reads the answer's message and tells the state machine.
    @concurrent
    private func accepts(_ response: HTTPResponseHead, on connection: inout KubeConnection) async throws -> Bool {
        guard response.status.code != 200 else { return true }
        let body = try await connection.collect(limit: Self.errorBodyLimit)
        let retryAfter = response.headers.first(name: "Retry-After").flatMap { UInt32($0) }.map { Duration.seconds($0) }
        // The next try may show another client certificate, which takes a new handshake.
        if response.status == .unauthorized { connection.retire() }
        let failure = ServerStatus(body: body).failure(code: Int(response.status.code), retryAfter: retryAfter)
        await self.perform(self.machine.failed(failure))
        return false
    }

    @concurrent
    private func flush(atLeast minimum: Int) async {
        guard self.batch.count >= minimum else { return }
        let events = self.batch
        self.batch = []
        var rest = events[...]
        while !rest.isEmpty {
            await self.sink(Array(rest.prefix(Self.batchSize)))
            rest = rest.dropFirst(Self.batchSize)
        }
    }

    @concurrent
    private func perform(_ effects: [ReflectorStateMachine.Effect]) async {
        for effect in effects {
            switch effect {
            case .syncBegan(let kind): await self.sink([.syncBegan(kind)])
            case .syncEnded(let kind): await self.sink([.syncEnded(kind)])
            case .refreshCredentials: await self.transport.credentials.refuse()
            case .health(let health): await self.report(self.log(health))
            }
        }
    }

    private func log(_ health: ReflectorStateMachine.Health) -> ReflectorStateMachine.Health {
        switch health {
        case .connecting: break
        case .synced: self.lastLogged = ""
        case .failing(let message), .limited(let message):
            guard message != self.lastLogged else { break }
            self.lastLogged = message
            self.logger.warning(
                "API server is not followed as it should be",
                metadata: ["server": "\(self.transport.endpoint.url)", "reason": "\(message)"]
            )
        }
        return health
    }

    private static func failure(of error: any Error) -> ReflectorStateMachine.Failure {
        guard let error = error as? KubeError else { return .disconnected("\(error)") }
        return switch error.code {
        case .malformedResponse, .tooLarge: .malformed(error.description)
        default: .disconnected(error.description)
        }
    }
}
