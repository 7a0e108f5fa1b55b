import EdgeGateway
import GatewayRouting
import HashTreeCollections
import KubeModel
import Logging
import MeshCore
import MeshInterfaces
import ServiceCatalog
import Synchronization

/// Compiles the gateway's plan from the catalog, and again when something has changed that the last plan was made of, and at no
/// other time: endpoints come and go without it.
actor GatewayPlanner {
    /// What the compiler asked for, to tell whether it would hear something else now.
    private final class Consultation: Sendable {
        let services = Mutex<[ObjectName: ServiceFacts?]>([:])
        let secrets = Mutex<[ObjectName: SecretFacts?]>([:])
        let authorities = Mutex<[ObjectName: Bool]>([:])

        func listening(to input: GatewayInput) -> GatewayInput {
            var result = input
            result.service = { name in
                let facts = input.service(name)
                self.services.withLock { $0[name] = .some(facts) }
                return facts
            }
            result.secret = { name in
                let facts = input.secret(name)
                self.secrets.withLock { $0[name] = .some(facts) }
                return facts
            }
            result.hasAuthority = { name in
                let has = input.hasAuthority(name)
                self.authorities.withLock { $0[name] = has }
                return has
            }
            return result
        }
    }

    /// What the compilation in force was made of.
    private struct Basis {
        var snapshot: CatalogSnapshot
        var settings: CompilerSettings
        var consultation: Consultation
    }

    /// What has come since it was looked at last.
    private final class Inbox: Sendable {
        struct State {
            var settings: CompilerSettings
            var snapshot: CatalogSnapshot?
            var changed: Set<ObjectName> = []
            var signal: AsyncStream<Void>.Continuation?
        }

        private let state: Mutex<State>

        init(_ settings: CompilerSettings) { self.state = Mutex(State(settings: settings)) }

        func change(_ body: (inout State) -> Void = { _ in }) {
            self.state.withLock { state in
                body(&state)
                state.signal?.yield()
            }
        }

        func take() -> State {
            self.state.withLock { state in
                defer { state.changed = [] }
                return state
            }
        }
    }

    private let vault: CredentialVault
    private let subsetNamespaces: WantedSet<String>
    private let logger: Logger
    private let inbox: Inbox
    private var basis: Basis?
    private(set) var compilation = GatewayCompilation()
    private(set) var compilations: UInt64 = 0
    private var told: Set<GatewayFinding> = []

    /// Findings logged at once; all are in the status.
    private static let mostLogged = 20

    /// - Parameter subsetNamespaces: is told the namespaces in which the plan has subsets.
    init(
        settings: CompilerSettings,
        vault: CredentialVault,
        subsetNamespaces: WantedSet<String>,
        logger: Logger
    ) {
        let inbox = Inbox(settings)
        self.inbox = inbox
        self.vault = vault
        self.subsetNamespaces = subsetNamespaces
        self.logger = logger
        vault.observe { inbox.change() }
    }

    nonisolated func update(_ settings: CompilerSettings) {
        self.inbox.change { $0.settings = settings }
    }

    /// Follows the catalog until the task is cancelled.
    /// - Parameters:
    ///   - publish: is given each plan that differs from the one before.
    ///   - materialChanged: certificates may be others; the plan is not.
    func run(
        catalog: any CatalogReading,
        publish: @Sendable (GatewayCompilation) async -> Void,
        materialChanged: @Sendable () async -> Void
    ) async {
        let (signals, signal) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        self.inbox.change { $0.signal = signal }
        let subscription = catalog.subscribe { [inbox] update in
            inbox.change { state in
                state.snapshot = update.snapshot
                state.changed.formUnion(update.changedServices)
            }
        }
        defer { subscription.cancel() }
        // Whoever runs it anew has no plan yet.
        self.basis = nil
        var version = self.vault.version
        for await _ in signals {
            let present = self.vault.version
            if self.compileIfStale() {
                await publish(self.compilation)
            }
            if present != version { await materialChanged() }
            version = present
        }
    }

    /// The Gateways of the Gateway API.
    nonisolated func gateways(of snapshot: CatalogSnapshot) -> [ObjectName] {
        snapshot.gatewayResources.values.filter { $0.kind == .gateway }.map(\.name)
    }

    private func compileIfStale() -> Bool {
        let news = self.inbox.take()
        let settings = news.settings
        guard let snapshot = news.snapshot, self.isStale(snapshot, settings, news.changed) else { return false }
        let consultation = Consultation()
        let input = consultation.listening(to: GatewayInput(snapshot, self.vault))
        let began = MonotonicTime.now()
        self.compilation = GatewayCompiler.compile(input, settings: settings)
        self.compilations += 1
        self.basis = Basis(snapshot: snapshot, settings: settings, consultation: consultation)
        self.vault.want(self.compilation.credentials)
        self.subsetNamespaces.replace(with: self.compilation.subsetNamespaces)
        self.logger.debug(
            "the gateway's plan is made",
            metadata: [
                "listeners": "\(self.compilation.plan.listeners.count)",
                "findings": "\(self.compilation.findings.count)",
                "milliseconds": "\(Int((MonotonicTime.now() - began).inSeconds * 1_000))",
            ]
        )
        self.tell()
        return true
    }

    private func isStale(
        _ snapshot: CatalogSnapshot,
        _ settings: CompilerSettings,
        _ changed: Set<ObjectName>
    ) -> Bool {
        guard let basis, basis.settings == settings else { return true }
        // Unchanged trees are shared, and compared at once.
        guard basis.snapshot.gatewayResources == snapshot.gatewayResources,
            basis.snapshot.destinationRules == snapshot.destinationRules,
            basis.snapshot.namespaceLabels == snapshot.namespaceLabels
        else { return true }
        let consultation = basis.consultation
        let services = consultation.services.withLock { $0 }
        // Whichever are fewer.
        let candidates = changed.count < services.count ? changed.filter { services[$0] != nil } : Set(services.keys)
        return candidates.contains { services[$0] != .some(snapshot.facts(ofService: $0)) }
            || consultation.secrets.withLock { $0 }.contains { $0.value != self.vault.facts(ofSecret: $0.key) }
            || consultation.authorities.withLock { $0 }
                .contains { $0.value != self.vault.hasAuthority(inConfigMap: $0.key) }
    }

    /// Logs what is newly wrong.
    private func tell() {
        let found = Set(self.compilation.findings.filter { $0.severity != .note })
        let new = self.compilation.findings.filter { $0.severity != .note && !self.told.contains($0) }
        self.told = found
        for finding in new.prefix(Self.mostLogged) { self.logger.warning("\(finding)") }
        if new.count > Self.mostLogged {
            self.logger.warning("\(new.count - Self.mostLogged) findings more: see `edgemesh status`")
        }
    }
}
