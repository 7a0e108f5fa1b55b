public import KubeModel
public import Logging
import MeshCore
public import NIOCore

/// Follows Services, EndpointSlices (or Endpoints), Nodes, Namespaces and DestinationRules of an API server or
/// MetaServer.
///
/// One reflector with one connection per resource; JSON; events of one kind arrive in order, in batches of at most 256.
/// The sink is called by the reflectors' tasks, so by several at a time.
/// No label selector is sent: DNS needs the services that the proxy filters out.
public struct KubernetesSource: ClusterObjectSource {
    public struct Options: Sendable {
        /// `kubeAPIConfig.qps` and `.burst`, for all requests of this source together.
        public var requestsPerSecond = 100.0
        public var burst = 200.0
        /// Whether the objects of the edge gateway are followed too.
        public var followsGateway = false
        /// Shown to the server as `edgemesh/VERSION`.
        public var version = "unknown"
        /// How many objects of each kind the last good state on disk holds: while the server is away they are `stale`,
        /// and a MetaServer that lists none of a kind is doubted for `emptyListDoubt`.
        public var knownObjects: [ObjectKind: Int] = [:]
        /// How long a MetaServer's empty list is doubted. Other servers are believed at once.
        public var emptyListDoubt: Duration = .seconds(60)
        /// The delays after failures: exponential from the first to the second, with jitter.
        public var retryDelays: ClosedRange<Duration> = .milliseconds(500) ... .seconds(30)
        /// Between tries while the server forbids a resource, or does not have DestinationRules.
        public var forbiddenRetry: Duration = .seconds(30)
        public var absentRetry: Duration = .seconds(300)
        /// The life of a watch is a random number of seconds in this range.
        public var watchSeconds = 300...600
        public var pageSize = 500

        public init() {}
    }

    let configuration: KubeConfiguration
    let options: Options
    let transport: KubeTransport
    let logger: Logger

    /// - Parameter group: the loops on which connections run; decoding runs in the tasks of `run`.
    public init(
        _ configuration: KubeConfiguration,
        options: Options = Options(),
        group: any EventLoopGroup,
        logger: Logger
    ) {
        self.configuration = configuration
        self.options = options
        self.logger = logger
        self.transport = KubeTransport(
            endpoint: configuration.endpoint,
            credentials: CredentialStore(configuration),
            group: group,
            userAgent: "edgemesh/\(options.version)"
        )
    }

    public func run(sink: @escaping @Sendable ([SourceEvent]) async -> Void) async throws {
        let resources = WatchedResource.all(
            isMetaServer: self.configuration.isMetaServer,
            withGateway: self.options.followsGateway
        )
        let gate = RequestGate(rate: self.options.requestsPerSecond, burst: self.options.burst)
        let board = StatusBoard(
            origin: self.configuration.endpoint.url,
            reflectors: resources.count,
            hasState: self.options.knownObjects.values.contains { $0 > 0 },
            sink: sink
        )
        await board.tell()
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for (index, resource) in resources.enumerated() {
                tasks.addTask {
                    let reflector = Reflector(
                        transport: self.transport,
                        gate: gate,
                        machine: self.machine(for: resource),
                        logger: self.logger,
                        sink: sink,
                        report: { await board.report($0, of: index) }
                    )
                    try await reflector.run()
                }
            }
            try await tasks.waitForAll()
        }
    }

    func machine(for resource: WatchedResource) -> ReflectorStateMachine {
        var configuration = ReflectorStateMachine.Configuration()
        configuration.pageSize = self.options.pageSize
        configuration.watchSeconds = self.options.watchSeconds
        configuration.backoff = Backoff(
            base: self.options.retryDelays.lowerBound,
            cap: self.options.retryDelays.upperBound
        )
        configuration.forbiddenRetry = self.options.forbiddenRetry
        configuration.absentRetry = self.options.absentRetry
        configuration.emptyListDoubt = self.configuration.isMetaServer ? self.options.emptyListDoubt : nil
        let known = Set(resource.candidates.map(\.kind)).compactMap { self.options.knownObjects[$0] }.reduce(0, +)
        return ReflectorStateMachine(
            resource: resource,
            configuration: configuration,
            knownItems: known,
            seed: .random(in: .min ... .max)
        )
    }
}
