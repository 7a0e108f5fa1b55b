import Documents
import EdgeGateway
import GatewayRouting
import KubeClient
import KubeModel
import MeshCore
import Synchronization

/// What gateways prove themselves by: in memory only, and of the cluster only what a plan names. Any thread.
final class CredentialVault: Sendable {
    typealias Reference = NamedObjectSource.Reference

    private struct Entry {
        var material: CertificateMaterial
        var facts: SecretFacts

        init(_ object: CredentialObject) {
            self.material = CertificateMaterial(
                chain: object.chain,
                key: object.key,
                authorities: object.authorities
            )
            self.facts = SecretFacts(
                hasCertificate: self.material.hasCertificate,
                hasAuthority: self.material.hasAuthority
            )
        }
    }

    private struct State {
        /// Told once, whether or not anything names them yet.
        var fromManifests: [Reference: Entry] = [:]
        /// Nil: the cluster has none.
        var fromCluster: [Reference: Entry?] = [:]
        var problems: [Reference: String] = [:]
        var version: UInt64 = 0

        /// The cluster's goes first, as in the catalog.
        func entry(_ reference: Reference) -> Entry? {
            (self.fromCluster[reference] ?? nil) ?? self.fromManifests[reference]
        }
    }

    private let followsCluster: Bool
    private let wanted = WantedSet<Reference>()
    private let state = Mutex(State())
    private let observer = Mutex<@Sendable () -> Void>({})

    /// - Parameter followsCluster: somebody carries `requests` out.
    init(followsCluster: Bool) { self.followsCluster = followsCluster }

    /// What the cluster is asked for, now and whenever it changes. One reader at a time.
    func requests() -> AsyncStream<Set<Reference>> { self.wanted.requests() }

    /// Calls `receive` when something here is another than before. One observer.
    func observe(_ receive: @escaping @Sendable () -> Void) { self.observer.withLock { $0 = receive } }

    private func changed() {
        self.state.withLock { $0.version += 1 }
        self.observer.withLock { $0 }()
    }

    /// Grows with each change of what is here.
    var version: UInt64 { self.state.withLock { $0.version } }

    // MARK: What is asked

    /// What the plan names. All else of the cluster's is forgotten.
    func want(_ references: Set<Reference>) {
        self.state.withLock { state in
            guard self.wanted.replace(with: references) else { return }
            state.fromCluster = state.fromCluster.filter { references.contains($0.key) }
            state.problems = state.problems.filter { references.contains($0.key) }
        }
    }

    func facts(ofSecret name: ObjectName) -> SecretFacts? {
        self.state.withLock { $0.entry(Reference(.secret, name))?.facts }
    }

    func hasAuthority(inConfigMap name: ObjectName) -> Bool {
        self.state.withLock { $0.entry(Reference(.configMap, name))?.facts.hasAuthority } == true
    }

    /// For TLS: what the Secret of a name holds, and the authorities of a ConfigMap if there is no Secret.
    func material(_ name: ObjectName) -> CertificateMaterial? {
        self.state.withLock { state in
            (state.entry(Reference(.secret, name)) ?? state.entry(Reference(.configMap, name)))?.material
        }
    }

    /// Whether it is known of everything wanted whether it exists: what is said of it before may be wrong.
    var isSettled: Bool {
        guard self.followsCluster else { return true }
        return self.state.withLock { state in
            self.wanted.elements.allSatisfy { state.fromCluster[$0] != nil || state.problems[$0] != nil }
        }
    }

    /// What keeps objects from being followed, in words.
    var problems: [String] {
        self.state.withLock { state in state.problems.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" } }
    }

    /// How many objects the plan names, and how many of these are there.
    var counts: (wanted: Int, present: Int) {
        let wanted = self.wanted.elements
        return self.state.withLock { state in (wanted.count, wanted.count { state.entry($0) != nil }) }
    }

    // MARK: What is told

    /// Takes the credentials out of what a folder tells, and returns the rest, which is the catalog's.
    func take(_ events: [SourceEvent]) -> [SourceEvent] {
        var rest: [SourceEvent] = []
        var isChanged = false
        for event in events {
            switch event {
            case .upsert(.credentials(let object)):
                let entry = Entry(object)
                self.state.withLock { $0.fromManifests[Reference(object.kind, object.name)] = entry }
                isChanged = true
            case .deleted(let kind, let name) where kind.isCredential:
                self.state.withLock { $0.fromManifests[Reference(kind, name)] = nil }
                isChanged = true
                rest.append(event)
            default: rest.append(event)
            }
        }
        if isChanged { self.changed() }
        return rest
    }

    /// Takes in what the cluster says of an object that was asked for.
    func take(_ event: NamedObjectSource.Event, of reference: Reference) {
        let entry: Entry?
        switch event {
        case .failing(let reason):
            self.state.withLock { state in
                if self.wanted.elements.contains(reference) { state.problems[reference] = reason }
            }
            return self.changed()
        case .present(let object): entry = object.map { Entry($0) }
        }
        self.state.withLock { state in
            guard self.wanted.elements.contains(reference) else { return }
            state.fromCluster[reference] = .some(entry)
            state.problems[reference] = nil
        }
        self.changed()
    }
}
