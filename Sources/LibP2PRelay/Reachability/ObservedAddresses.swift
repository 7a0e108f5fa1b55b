public import LibP2P
import Logging
public import MeshCore
public import Multiformats
public import NIOCore
import Synchronization

/// How observed addresses are believed.
public struct ObservedAddressConfiguration: Sendable {
    /// Groups of observers that must agree before an address is told to others.
    public var observersNeeded = 4
    /// What an observation counts after its connection has ended.
    public var lifetime: TimeAmount = .minutes(10)
    public var maximumObservations = 1024
    /// Ports of one IP address that are believed at once.
    public var maximumPortsPerAddress = 2

    public init() {}
}

/// As which address one peer saw this host, in a connection that used a listening address.
public struct AddressSighting: Sendable, Hashable {
    public var seen: Multiaddr
    /// The listening address.
    public var local: Multiaddr
    public var observer: IPAddress
}

/// Learns from identify how this host looks from outside, and advertises addresses that enough peers agree on.
///
/// May be used from any thread; works on one of the host's event loops.
public final class ObservedAddresses: Sendable {
    private struct State {
        var table: ObservedAddressTable
        /// Peers have tried to dial this host in vain.
        var isHidden = false
        var observation: Observation?
        var timer: RepeatedTask?
    }

    private static let source = "observed"

    private let host: Host
    private let loop: any EventLoop
    private let state: Mutex<State>

    public init(host: Host, configuration: ObservedAddressConfiguration = ObservedAddressConfiguration()) {
        self.host = host
        self.loop = host.group.next()
        self.state = Mutex(State(table: ObservedAddressTable(configuration: configuration)))
    }

    public func start() {
        let observation = self.host.observe { [weak self] in self?.observe($0) }
        let timer = self.loop.scheduleRepeatedTask(initialDelay: .minutes(1), delay: .minutes(1)) { [weak self] _ in
            guard let self else { return }
            self.state.withLock { $0.table.expire(now: self.loop.now) }
            self.publish()
        }
        self.state.withLock { state in
            state.observation = observation
            state.timer = timer
        }
    }

    public func stop() {
        let (observation, timer) = self.state.withLock { ($0.observation, $0.timer) }
        observation?.cancel()
        timer?.cancel()
        self.host.advertise([], source: Self.source)
    }

    /// What enough peers agree on.
    public var confirmed: [Multiaddr] { self.state.withLock { $0.table.confirmed() } }

    /// All that was seen, the most agreed on first.
    public var candidates: [Multiaddr] { self.state.withLock { $0.table.candidates() } }

    /// Who saw which address, of at most `limit` observers: what the mapping of a NAT is concluded from (RFC 4787, section 4.1).
    public func sightings(limit: Int = 32) -> [AddressSighting] {
        self.state.withLock { $0.table.sightings(limit: limit) }
    }

    private func observe(_ event: HostEvent) {
        let now = self.loop.now
        switch event {
        case .identified(let connection, let identification):
            guard !connection.isRelayed, let observed = identification.observedAddress?.withoutPeerID,
                ObservedAddressTable.isOfUse(
                    observed,
                    local: connection.localAddress,
                    listening: self.host.listenAddresses
                )
            else { return }
            self.state.withLock { state in
                state.table.record(
                    observed,
                    local: connection.localAddress,
                    remote: connection.remoteAddress,
                    connection: connection.id,
                    now: now
                )
                // The end of the connection may have been told before.
                if !connection.isOpen { state.table.closed(connection: connection.id, now: now) }
            }
        case .disconnected(let connection, _):
            self.state.withLock { $0.table.closed(connection: connection.id, now: now) }
            return
        case .addressesChanged:
            let listening = self.host.listenAddresses
            self.state.withLock { $0.table.keep(listening: listening) }
        case .reachabilityChanged(let reachability):
            self.state.withLock { $0.isHidden = reachability == .behindNAT }
        default:
            return
        }
        // One after the other, so that the newest is what stays.
        self.loop.execute { self.publish() }
    }

    private func publish() {
        // Behind a NAT they are of use to hole punching only, which knows them; peers who dialled them would wait in vain.
        let isHidden = self.state.withLock { $0.isHidden }
        self.host.advertise(isHidden ? [] : self.confirmed, source: Self.source)
    }
}
