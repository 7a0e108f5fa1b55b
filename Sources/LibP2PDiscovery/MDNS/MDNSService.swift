import ByteStreams
import DNSWire
public import LibP2P
import Logging
import MeshCore
import NIOCore
import Synchronization

/// Finds peers of the local network and lets them find this host.
///
/// Whoever is found gets their addresses into the host's peer store, and `HostEvent.discovered` is emitted for a new peer or new
/// addresses. Interfaces are followed as they come and go. May be used from any thread; it works on one of the host's loops.
public final class MDNSService: Sendable {
    private let host: Host
    private let configuration: MDNSConfiguration
    private let loop: any EventLoop
    private let core: NIOLoopBoundBox<MDNSCore?>
    private let observation = Mutex<Observation?>(nil)

    /// Makes a service that does nothing yet.
    public init(host: Host, configuration: MDNSConfiguration = MDNSConfiguration()) {
        self.host = host
        self.configuration = configuration
        self.loop = host.group.next()
        self.core = .makeEmptyBox(valueType: MDNSCore.self, eventLoop: self.loop)
    }

    /// Opens sockets on the interfaces, announces and browses. Interfaces on which that fails are logged and tried again.
    /// Fails for a service name that cannot be one.
    public func start() async throws {
        let names: MDNSNames
        do {
            names = try MDNSNames(serviceName: self.configuration.serviceName)
            _ = try names.service.prepending(String(repeating: "a", count: 40))
        } catch {
            throw LibP2PDiscoveryError(
                code: .malformed,
                message: "\"\(self.configuration.serviceName)\" cannot be the name of a service of mDNS",
                cause: error
            )
        }
        let (host, configuration, loop, box) = (self.host, self.configuration, self.loop, self.core)
        try await loop.flatSubmit { () -> EventLoopFuture<Void> in
            guard box.value == nil else { return loop.makeSucceededVoidFuture() }
            let core = MDNSCore(host: host, configuration: configuration, names: names, loop: loop)
            box.value = core
            return core.start()
        }.get()
        self.observation.withLock { observation in
            observation?.cancel()
            observation = host.observe { event in
                guard case .addressesChanged = event else { return }
                loop.execute { box.value?.follow() }
            }
        }
    }

    /// Says goodbye and closes the sockets.
    public func stop() async {
        self.observation.withLock { observation in
            observation?.cancel()
            observation = nil
        }
        let box = self.core
        try? await self.loop.flatSubmit { () -> EventLoopFuture<Void> in
            defer { box.value = nil }
            return box.value?.stop() ?? box.eventLoop.makeSucceededVoidFuture()
        }.get()
    }

    /// Counters since the start; zero when stopped.
    public func metrics() async -> MDNSMetrics {
        let box = self.core
        return (try? await self.loop.submit { box.value?.currentMetrics ?? MDNSMetrics() }.get()) ?? MDNSMetrics()
    }
}

/// The sockets and state machines of the interfaces. Confined to one event loop.
final class MDNSCore {
    private struct Port {
        var link: MDNSLink
        /// Nil until the sockets are open.
        var channels: [IPFamily: any Channel]?
        /// Families whose sockets were closed and are being opened anew.
        var reopening: Set<IPFamily> = []
        /// Tells ports of one name apart.
        let id: UInt64
    }

    private let host: Host
    private let configuration: MDNSConfiguration
    private let names: MDNSNames
    private let loop: any EventLoop
    private let generator: HostGenerator
    private var ports: [String: Port] = [:]
    private var nextID: UInt64 = 0
    private var poll: RepeatedTask?
    private var timer: Scheduled<Void>?
    private var timerDue = NIODeadline.distantFuture
    private var failures: Set<String> = []
    private var isStopped = false
    private var metrics = MDNSMetrics()

    init(host: Host, configuration: MDNSConfiguration, names: MDNSNames, loop: any EventLoop) {
        self.host = host
        self.configuration = configuration
        self.names = names
        self.loop = loop
        self.generator = HostGenerator(number: host.configuration.randomNumber)
    }

    var currentMetrics: MDNSMetrics {
        var metrics = self.metrics
        metrics.interfaces = self.ports.values.count { $0.channels != nil }
        metrics.instancesDropped += self.ports.values.reduce(0) { $0 + $1.link.querier.instancesDropped }
        return metrics
    }

    /// Completes when the sockets of the interfaces that are there now are open or have failed.
    func start() -> EventLoopFuture<Void> {
        let opened = EventLoopFuture.andAllComplete(self.follow(), on: self.loop)
        let bound = NIOLoopBound(self, eventLoop: self.loop)
        self.poll = self.loop.scheduleRepeatedTask(
            initialDelay: self.configuration.interfaceInterval,
            delay: self.configuration.interfaceInterval
        ) { _ in bound.value.follow() }
        return opened
    }

    func stop() -> EventLoopFuture<Void> {
        self.isStopped = true
        self.poll?.cancel()
        self.timer?.cancel()
        var closings: [EventLoopFuture<Void>] = []
        for (name, port) in self.ports {
            self.perform(port.link.goodbye(), on: name)
            for channel in (port.channels ?? [:]).values {
                closings.append(channel.closeFuture)
                channel.close(promise: nil)
            }
        }
        self.ports = [:]
        return EventLoopFuture.andAllComplete(closings, on: self.loop)
    }

    // MARK: Interfaces

    /// Looks which interfaces there are, and which addresses the host has on them.
    @discardableResult
    func follow() -> [EventLoopFuture<Void>] {
        guard !self.isStopped else { return [] }
        let now = self.loop.now
        let found = self.configuration.interfaces.interfaces().filter {
            self.configuration.interfaceFilter($0.name) && !self.families(of: $0).isEmpty
        }.prefix(self.configuration.maximumInterfaces)
        let byName = Dictionary(found.map { ($0.name, $0) }) { first, _ in first }
        for (name, port) in self.ports {
            let interface = byName[name]
            let isSame =
                interface?.index == port.link.interface.index
                && interface.map(self.families) == self.families(of: port.link.interface)
            if !isSame { self.remove(name, "the interface has gone or changed") }
        }
        self.failures.formIntersection(byName.keys)
        var openings: [EventLoopFuture<Void>] = []
        for interface in found {
            if self.ports[interface.name] == nil {
                openings.append(self.open(interface, now: now))
            } else if self.ports[interface.name]?.channels != nil {
                self.update(interface, now: now)
                self.reopen(interface)
            }
        }
        self.schedule()
        return openings
    }

    private func families(of interface: MulticastInterface) -> Set<IPFamily> {
        self.configuration.usesIPv6 ? interface.families : interface.families.intersection([.v4])
    }

    private func update(_ interface: MulticastInterface, now: NIODeadline) {
        let advertised = self.host.advertisedAddresses
        let bound = self.host.boundAddresses
        let outputs = self.ports[interface.name]?.link.update(interface, advertised: advertised, bound: bound, now: now)
        self.perform(outputs ?? [], on: interface.name)
    }

    private func remove(_ name: String, _ reason: StaticString) {
        guard let port = self.ports.removeValue(forKey: name) else { return }
        self.metrics.instancesDropped += port.link.querier.instancesDropped
        for channel in (port.channels ?? [:]).values { channel.close(promise: nil) }
        self.host.logger.info("mDNS leaves an interface", metadata: ["interface": "\(name)", "reason": "\(reason)"])
    }

    private func open(_ interface: MulticastInterface, now: NIODeadline) -> EventLoopFuture<Void> {
        let name = interface.name
        let id = self.nextID
        self.nextID += 1
        self.ports[name] = Port(
            link: MDNSLink(
                interface: interface,
                peer: self.host.peerID,
                names: self.names,
                configuration: self.configuration,
                generator: self.generator,
                now: now
            ),
            channels: nil,
            id: id
        )
        let families = self.families(of: interface).sorted { $0.rawValue < $1.rawValue }
        let openings = families.map { self.openSocket(interface, $0, id: id) }
        return EventLoopFuture.whenAllComplete(openings, on: self.loop).assumeIsolated().map { results in
            self.opened(name, id, zip(families, results).map { ($0, $1) })
        }.nonisolated()
    }

    private func openSocket(
        _ interface: MulticastInterface,
        _ family: IPFamily,
        id: UInt64
    ) -> EventLoopFuture<any Channel> {
        let bound = NIOLoopBound(self, eventLoop: self.loop)
        return self.configuration.sockets.open(interface, family, on: self.loop) { bytes, source in
            bound.value.received(bytes, from: source, on: interface.name, id: id)
        }
    }

    private func opened(_ name: String, _ id: UInt64, _ results: [(IPFamily, Result<any Channel, any Error>)]) {
        var channels: [IPFamily: any Channel] = [:]
        var failure: (any Error)?
        for (family, result) in results {
            switch result {
            case .success(let channel): channels[family] = channel
            case .failure(let error): failure = error
            }
        }
        guard let port = self.ports[name], port.id == id, !self.isStopped else {
            for channel in channels.values { channel.close(promise: nil) }
            return
        }
        if let failure, self.failures.insert(name).inserted {
            self.host.logger.warning(
                "mDNS cannot use an interface; it tries again",
                metadata: ["interface": "\(name)", "error": "\(failure)"]
            )
        }
        guard !channels.isEmpty else {
            self.ports[name] = nil
            return
        }
        self.ports[name]?.channels = [:]
        for (family, channel) in channels { self.use(channel, family, on: name, id) }
        self.host.logger.info("mDNS uses an interface", metadata: ["interface": "\(name)"])
        self.update(port.link.interface, now: self.loop.now)
        self.schedule()
    }

    private func use(_ channel: any Channel, _ family: IPFamily, on name: String, _ id: UInt64) {
        self.ports[name]?.channels?[family] = channel
        channel.closeFuture.assumeIsolated().whenComplete { _ in
            guard self.ports[name]?.id == id else { return }
            self.ports[name]?.channels?[family] = nil
            if self.ports[name]?.channels?.isEmpty == true { self.remove(name, "its sockets were closed") }
        }
    }

    /// A socket closes when it cannot send, and the other family is to go on: an interface whose only IPv6 address is a duplicate
    /// or not yet known to be none has IPv4. So sockets that are missing are opened at every look at the interfaces.
    private func reopen(_ interface: MulticastInterface) {
        let name = interface.name
        guard let port = self.ports[name], let channels = port.channels else { return }
        for family in self.families(of: interface).subtracting(channels.keys).subtracting(port.reopening) {
            self.ports[name]?.reopening.insert(family)
            self.openSocket(interface, family, id: port.id).assumeIsolated().whenComplete { result in
                let isCurrent = self.ports[name]?.id == port.id && !self.isStopped
                if isCurrent { self.ports[name]?.reopening.remove(family) }
                guard case .success(let channel) = result else { return }
                if isCurrent { self.use(channel, family, on: name, port.id) } else { channel.close(promise: nil) }
            }
        }
    }

    // MARK: Messages

    private func received(_ bytes: ByteBuffer, from source: TransportAddress, on name: String, id: UInt64) {
        guard self.ports[name]?.id == id, !self.isStopped else { return }
        self.metrics.messagesReceived += 1
        guard let message = try? Message(parsing: bytes) else {
            self.metrics.messagesMalformed += 1
            return
        }
        guard let result = self.ports[name]?.link.received(message, from: source, now: self.loop.now) else { return }
        self.perform(result.outputs, on: name)
        for finding in result.findings { self.found(finding) }
        self.schedule()
    }

    private func found(_ finding: MDNSFinding) {
        self.host.peers.add(finding.addresses, to: finding.peer, lifetime: .limited(finding.lifetime))
        guard finding.isNew else { return }
        self.metrics.peersFound += 1
        self.host.logger.debug(
            "found a peer by mDNS",
            metadata: ["peer-id": "\(finding.peer)", "addresses": "\(finding.addresses)"]
        )
        self.host.emit(
            .discovered(DiscoveredPeer(peer: finding.peer, addresses: finding.addresses, source: .mdns))
        )
    }

    private func perform(_ outputs: [MDNSOutput], on name: String) {
        guard let channels = self.ports[name]?.channels else { return }
        for output in outputs {
            switch output {
            case .multicast(let message):
                for (family, channel) in channels {
                    self.send(message, to: TransportAddress(MulticastDNS.group(family), MulticastDNS.port), channel)
                }
            case .unicast(let message, let destination):
                guard let channel = channels[destination.address.family] else { continue }
                self.send(message, to: destination, channel)
            }
        }
    }

    /// The sockets are bound to their interface, so that link-local addresses need no zone.
    private func send(_ message: Message, to destination: TransportAddress, _ channel: any Channel) {
        self.metrics.messagesSent += 1
        let bytes = message.encoded(limit: MulticastDNS.maximumSent)
        channel.writeAndFlush(
            AddressedEnvelope(remoteAddress: SocketAddress(destination), data: bytes),
            promise: nil
        )
    }

    // MARK: Time

    private func schedule() {
        let due = self.ports.values.filter { $0.channels != nil }.map(\.link.deadline).min() ?? .distantFuture
        guard !self.isStopped, due != self.timerDue else { return }
        self.timer?.cancel()
        self.timer = nil
        self.timerDue = due
        guard due < .distantFuture else { return }
        self.timer = self.loop.assumeIsolated().scheduleTask(deadline: due) {
            self.timerDue = .distantFuture
            self.timer = nil
            let now = self.loop.now
            for name in self.ports.keys where self.ports[name]?.channels != nil {
                self.perform(self.ports[name]?.link.advance(now: now) ?? [], on: name)
            }
            self.schedule()
        }
    }
}
