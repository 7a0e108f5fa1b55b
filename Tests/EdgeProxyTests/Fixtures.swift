import HashTreeCollections
import KubeModel
import LinuxNetwork
import LoadBalancing
import MeshCore
import MeshInterfaces
import Synchronization

@testable import EdgeProxy
@testable import ServiceCatalog

struct BadFixture: Error {
    var text: String
}

func ip(_ text: String) throws -> IPAddress {
    guard let address = IPAddress(text) else { throw BadFixture(text: text) }
    return address
}

func transport(_ text: String) throws -> TransportAddress {
    guard let address = TransportAddress(text) else { throw BadFixture(text: text) }
    return address
}

func cidr(_ text: String) throws -> CIDR {
    guard let block = CIDR(text) else { throw BadFixture(text: text) }
    return block
}

func frontend(_ text: String, _ transportProtocol: TransportProtocol = .tcp) throws -> KernelFrontend {
    let address = try transport(text)
    return KernelFrontend(match: .address(address.address), transport: transportProtocol, port: address.port)
}

/// A service `shop/web` on 10.96.0.10:80 whose endpoints listen on `port`; the rest is for `configure`.
func makeService(
    _ name: String = "web",
    clusterIP: String = "10.96.0.10",
    transportProtocol: TransportProtocol = .tcp,
    port: UInt16 = 80,
    endpointPort: UInt16 = 8080,
    endpoints: [Endpoint],
    policy: LoadBalancingPolicy? = nil,
    locality: LocalityPreference? = nil,
    isProxied: Bool = true,
    configure: (inout ServiceObject) throws -> Void = { _ in }
) throws -> Service {
    var object = ServiceObject(name: ObjectName(namespace: "shop", name: name))
    object.clusterIPs = [try ip(clusterIP)]
    object.ports = [ServiceObject.Port(transport: transportProtocol, port: port)]
    try configure(&object)
    return Service(
        object: object,
        groups: [
            EndpointGroup(ports: [EndpointPort(transport: transportProtocol, port: endpointPort)], endpoints: endpoints)
        ],
        policy: policy,
        portPolicies: [:],
        locality: locality,
        isProxied: isProxied
    )
}

func endpoint(
    _ address: String,
    node: String? = "a",
    _ conditions: EndpointConditions = [.ready, .serving]
) throws -> Endpoint {
    Endpoint(address: try ip(address), conditions: conditions, nodeName: node)
}

let headerHash = LoadBalancingPolicy.consistentHash(
    ConsistentHashPolicy(key: .httpHeader("X-User"), algorithm: .ring(minimumSize: 1_024, loadFactor: 1.25))
)

/// A catalog that a test sets.
final class FakeCatalog: CatalogReading {
    private struct State {
        var snapshot = CatalogSnapshot()
        var receivers: [Int: @Sendable (CatalogUpdate) -> Void] = [:]
        var next = 0
    }

    private let state = Mutex(State())

    init(_ services: [Service] = [], nodes: [NodeObject] = []) {
        self.set(services)
        if !nodes.isEmpty { self.state.withLock { $0.snapshot = CatalogSnapshot(services: services, nodes: nodes) } }
    }

    var snapshot: CatalogSnapshot { self.state.withLock { $0.snapshot } }

    func subscribe(_ receive: @escaping @Sendable (CatalogUpdate) -> Void) -> CatalogSubscription {
        let (update, id) = self.state.withLock { state in
            state.next += 1
            state.receivers[state.next] = receive
            return (
                CatalogUpdate(snapshot: state.snapshot, changedServices: Set(state.snapshot.services.keys)), state.next
            )
        }
        receive(update)
        return CatalogSubscription { [weak self] in self?.state.withLock { $0.receivers[id] = nil } }
    }

    /// Adds or replaces services, and removes those named.
    func set(_ services: [Service], removing removed: [ObjectName] = []) {
        let (update, receivers) = self.state.withLock { state in
            for service in services { state.snapshot.services[service.name] = service }
            for name in removed { state.snapshot.services[name] = nil }
            state.snapshot.version += 1
            let changed = Set(services.map(\.name)).union(removed)
            return (CatalogUpdate(snapshot: state.snapshot, changedServices: changed), Array(state.receivers.values))
        }
        for receive in receivers { receive(update) }
    }
}

/// Remembers what it was asked, and refuses as often as it is told to.
final class RecordingProgramming: ServiceProgramming {
    struct Refused: Error {}

    struct State: Sendable {
        var rules: [KernelFrontend: KernelRule] = [:]
        var updates: [[KernelFrontend: KernelRule?]] = []
        var installs = 0
        var removes = 0
        var refusals = 0
        var waiters: [(condition: @Sendable (State) -> Bool, done: CheckedContinuation<Void, Never>)] = []
    }

    private let state = Mutex(State())
    private let losses = AsyncStream.makeStream(of: Void.self)
    let backendName = "recording"

    /// As if a firewall had removed the rules.
    func lose() {
        self.state.withLock { $0.rules = [:] }
        self.losses.continuation.yield()
    }

    func waitForLoss() async throws {
        for await _ in self.losses.stream { return }
        throw CancellationError()
    }

    var now: State { self.state.withLock { $0 } }

    func refuse(_ times: Int) {
        self.state.withLock { $0.refusals = times }
    }

    func install(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) async throws {
        try self.change { state in
            state.installs += 1
            state.rules = rules
        }
    }

    func update(_ changes: [KernelFrontend: KernelRule?]) async throws {
        try self.change { state in
            state.updates.append(changes)
            for (frontend, rule) in changes { state.rules[frontend] = rule }
        }
    }

    func remove() async throws {
        try self.change { state in
            state.removes += 1
            state.rules = [:]
        }
    }

    /// Returns when `condition` holds.
    func wait(_ condition: @escaping @Sendable (State) -> Bool) async {
        await withCheckedContinuation { continuation in
            let isDone = self.state.withLock { state in
                if condition(state) { return true }
                state.waiters.append((condition, continuation))
                return false
            }
            if isDone { continuation.resume() }
        }
    }

    private func change(_ body: (inout State) -> Void) throws {
        let woken = try self.state.withLock { state in
            if state.refusals > 0 {
                state.refusals -= 1
                throw Refused()
            }
            body(&state)
            let present = state
            let woken = present.waiters.filter { $0.condition(present) }
            state.waiters.removeAll { $0.condition(present) }
            return woken.map(\.done)
        }
        for waiter in woken { waiter.resume() }
    }
}
