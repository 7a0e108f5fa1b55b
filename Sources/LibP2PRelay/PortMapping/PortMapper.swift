public import LibP2P
import Logging
import MeshCore
import Multiformats
import NIOCore
import Synchronization

/// Has the gateway of the network lead ports to this host's TCP listeners, and advertises the addresses that come of it.
///
/// Maps again what is about to expire, follows changes of listeners and gateways, and takes its mappings away at `stop`.
/// May be used from any thread; works on one of the host's event loops.
public final class PortMapper: Sendable {
    private struct Entry {
        var mapping: PortMapping
        var renewal: NIODeadline
    }

    private struct State {
        /// By the listening address, without its layers above TCP.
        var entries: [TransportAddress: Entry] = [:]
        /// Of the last pass.
        var targets: [TransportAddress] = []
        var working: PortMappingConfiguration.Method?
        var failures = 0
        var isRunning = false
        /// Something has changed during a pass.
        var isDue = false
        var isStopped = false
        var observation: Observation?
        var timer: Scheduled<Void>?
    }

    private static let source = "port-mapping"

    private let host: Host
    private let configuration: PortMappingConfiguration
    private let loop: any EventLoop
    private let state = Mutex(State())

    public init(host: Host, configuration: PortMappingConfiguration = PortMappingConfiguration()) {
        self.host = host
        self.configuration = configuration
        self.loop = host.group.next()
    }

    public func start() {
        let observation = self.host.observe { [weak self] event in
            guard case .addressesChanged = event, let self else { return }
            self.loop.execute { self.listenersChanged() }
        }
        self.state.withLock { $0.observation = observation }
        self.loop.execute { self.run() }
    }

    /// Takes the mappings away, as far as the gateway answers.
    public func stop() async {
        let (observation, timer, mappings) = self.state.withLock { state in
            state.isStopped = true
            defer { state.entries = [:] }
            return (state.observation, state.timer, state.entries.values.map(\.mapping))
        }
        observation?.cancel()
        timer?.cancel()
        self.host.advertise([], source: Self.source)
        await self.unmap(mappings)
    }

    public var mappings: [PortMapping] {
        self.state.withLock { $0.entries.values.map(\.mapping) }.sorted { $0.internalAddress < $1.internalAddress }
    }

    // MARK: Passes, on the loop

    private func listenersChanged() {
        let targets = self.targets
        // Our own advertising is a change of addresses, too.
        guard self.state.withLock({ $0.targets != targets }) else { return }
        self.run()
    }

    private func run() {
        let starts = self.state.withLock { state in
            guard !state.isStopped else { return false }
            state.isDue = state.isRunning
            defer { state.isRunning = true }
            return !state.isRunning
        }
        guard starts else { return }
        self.loop.runTask { await self.pass() }.whenComplete { _ in
            let now = self.loop.now
            let (isDue, delay) = self.state.withLock { state in
                state.isRunning = false
                return (state.isDue, self.delay(state, now: now))
            }
            if isDue { return self.run() }
            let timer = self.loop.scheduleTask(in: delay) { [weak self] () -> Void in self?.run() }
            let before = self.state.withLock { state -> Scheduled<Void>? in
                guard !state.isStopped else { return timer }
                defer { state.timer = timer }
                return state.timer
            }
            before?.cancel()
        }
    }

    private func delay(_ state: State, now: NIODeadline) -> TimeAmount {
        if state.failures > 0 {
            return min(
                self.configuration.renewalInterval,
                self.configuration.retryInterval * (1 << min(state.failures - 1, 8))
            )
        }
        let next = state.entries.values.map(\.renewal).min() ?? now + self.configuration.renewalInterval
        return max(.seconds(1), next - now)
    }

    private func pass() async {
        guard let gateway = self.configuration.gateway() else {
            self.state.withLock { $0.entries = [:] }
            self.publish()
            return
        }
        let client = GatewayClient(
            configuration: self.configuration,
            gateway: gateway,
            loop: self.loop,
            randomNumber: self.host.configuration.randomNumber
        )
        let listening = self.targets
        self.state.withLock { $0.targets = listening }
        // A gateway maps to the address that it is asked from.
        guard let local = try? await client.localAddress() else {
            self.state.withLock { $0.failures += 1 }
            return
        }
        let targets = listening.filter { $0.address == local }.prefix(self.configuration.maximumMappings)
        let (gone, known) = self.state.withLock { state in
            let gone = state.entries.values.map(\.mapping).filter { mapping in
                !targets.contains(mapping.internalAddress) && mapping.gateway == gateway
            }
            state.entries = state.entries.filter { targets.contains($0.key) && $0.value.mapping.gateway == gateway }
            return (gone, state.entries)
        }
        await self.unmap(gone)
        var isFailed = false
        for target in targets {
            let entry = known[target]
            if let entry, entry.renewal > self.loop.now { continue }
            do {
                let mapping = try await self.map(target, by: client, before: entry?.mapping)
                await self.keep(mapping, before: entry?.mapping)
            } catch {
                isFailed = true
                self.host.logger.log(
                    level: entry == nil ? .debug : .warning,
                    "the gateway maps no port to \(target)",
                    metadata: ["gateway": "\(gateway)", "error": "\(error)"]
                )
                self.state.withLock { $0.entries[target] = nil }
            }
        }
        self.state.withLock { $0.failures = isFailed ? $0.failures + 1 : 0 }
        self.publish()
    }

    /// Tries the method that worked before, then the others.
    private func map(
        _ target: TransportAddress,
        by client: GatewayClient,
        before: PortMapping?
    ) async throws -> PortMapping {
        let working = self.state.withLock { $0.working }
        var failure: (any Error)?
        for method in self.configuration.methods.sorted(by: { lhs, rhs in lhs == working && rhs != working }) {
            do {
                let mapping = try await client.map(target, by: method, before: before)
                self.state.withLock { $0.working = method }
                return mapping
            } catch {
                failure = error
            }
        }
        throw LibP2PRelayError(
            code: .mappingFailed,
            message:
                "the gateway \(client.gateway) maps no ports: check that PCP, NAT-PMP or UPnP is switched on there",
            cause: failure
        )
    }

    private func keep(_ mapping: PortMapping, before: PortMapping?) async {
        let life = mapping.lifetime == .zero ? self.configuration.renewalInterval : mapping.lifetime
        let renewal = min(self.configuration.renewalInterval, max(.seconds(1), .nanoseconds(life.nanoseconds / 2)))
        let now = self.loop.now
        let isStopped = self.state.withLock { state in
            guard !state.isStopped else { return true }
            state.entries[mapping.internalAddress] = Entry(mapping: mapping, renewal: now + renewal)
            return false
        }
        if isStopped { return await self.unmap([mapping]) }
        guard before?.externalAddress != mapping.externalAddress else { return }
        self.host.logger.info(
            "the gateway maps a port",
            metadata: [
                "internal": "\(mapping.internalAddress)", "external": "\(mapping.externalAddress)",
                "method": "\(mapping.method)",
            ]
        )
    }

    private func unmap(_ mappings: [PortMapping]) async {
        for mapping in mappings {
            let client = GatewayClient(
                configuration: self.configuration,
                gateway: mapping.gateway,
                loop: self.loop,
                randomNumber: self.host.configuration.randomNumber
            )
            do {
                try await client.unmap(mapping)
            } catch {
                self.host.logger.debug(
                    "a mapped port could not be taken away",
                    metadata: ["external": "\(mapping.externalAddress)", "error": "\(error)"]
                )
            }
        }
    }

    // MARK: Addresses

    /// Private IPv4 addresses and TCP ports at which the host listens: public ones need no mapping.
    private var targets: [TransportAddress] {
        var targets: [TransportAddress] = []
        for address in self.host.listenAddresses {
            guard let ip = address.ipAddress, ip.family == .v4,
                case .tcp(let port) = address.components.dropFirst().first,
                ip.reach == .private || (self.configuration.mapsLoopback && ip.reach == .loopback)
            else { continue }
            let target = TransportAddress(ip, port)
            if !targets.contains(target) { targets.append(target) }
        }
        return targets
    }

    private func publish() {
        let entries = self.state.withLock { $0.isStopped ? [:] : $0.entries }
        var addresses: [Multiaddr] = []
        for address in self.host.listenAddresses {
            guard let ip = address.ipAddress, let port = address.port,
                let external = entries[TransportAddress(ip, port)]?.mapping.externalAddress,
                external.address.reach == .public
                    || (self.configuration.advertisesPrivate && external.address.reach == .private)
            else { continue }
            let first: Multiaddr.Component =
                switch external.address {
                case .v4(let v4): .ip4(v4)
                case .v6(let v6): .ip6(v6)
                }
            addresses.append(Multiaddr([first, .tcp(external.port)] + address.components.dropFirst(2)))
        }
        self.host.advertise(addresses, source: Self.source)
    }
}
