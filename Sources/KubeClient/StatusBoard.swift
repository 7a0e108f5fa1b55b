import KubeModel

/// Makes one status of the health of all reflectors and tells the sink when it changes, never an older one last.
actor StatusBoard {
    private let origin: String
    private let sink: @Sendable ([SourceEvent]) async -> Void
    private var health: [ReflectorStateMachine.Health]
    private var hasSynced: Bool
    private var told: SourceStatus?
    private var isTelling = false

    /// - Parameter hasState: a last good state is served already, so that a server out of reach means `stale`.
    init(
        origin: String,
        reflectors: Int,
        hasState: Bool,
        sink: @escaping @Sendable ([SourceEvent]) async -> Void
    ) {
        self.origin = origin
        self.sink = sink
        self.health = Array(repeating: .connecting, count: reflectors)
        self.hasSynced = hasState
    }

    func report(_ health: ReflectorStateMachine.Health, of reflector: Int) async {
        self.health[reflector] = health
        await self.tell()
    }

    func tell() async {
        // Calls that come while the sink is busy are covered by the loop of the first.
        guard !self.isTelling else { return }
        self.isTelling = true
        defer { self.isTelling = false }
        while self.current() != self.told {
            let status = self.current()
            self.told = status
            await self.sink([.status(status)])
        }
    }

    private func current() -> SourceStatus {
        var failures: [String] = []
        var limitations: [String] = []
        var isComplete = true
        for health in self.health {
            switch health {
            case .synced: break
            case .connecting: isComplete = false
            case .limited(let message): limitations.append(message)
            case .failing(let message):
                isComplete = false
                failures.append(message)
            }
        }
        if isComplete { self.hasSynced = true }
        let state: SourceStatus.State = isComplete ? .synced : self.hasSynced ? .stale : .connecting
        return SourceStatus(state: state, origin: self.origin, message: (failures + limitations).first)
    }
}
