public import Documents
import LibP2P
import LibP2PRelay
import MeshCore
public import MeshInterfaces
import Multiformats
import NIOCore
import PacketDatagrams
import Synchronization

extension EdgeTunnelService: StatusReporting {
    /// Nodes that a status names at most; the figures count all.
    static let maximumNodesShown = 5000

    public var statusName: String { "edgeTunnel" }

    public func status() async -> Document {
        guard let node = self.state.withLock({ $0.running }) else { return ["running": false] }
        return await node.status()
    }

    public func metrics() async -> [MetricSample] {
        guard let node = self.state.withLock({ $0.running }) else { return [] }
        var samples = MetricSample.samples(ofStatus: await node.status(), subsystem: self.statusName)
        let paths = node.paths.paths.values
        for state in [NodePath.State.idle, .connecting, .up, .down] {
            samples.append(
                MetricSample(
                    name: "edgemesh_tunnel_nodes",
                    kind: .gauge,
                    help: "Nodes by the state of the way to them",
                    labels: ["state": state.rawValue],
                    value: Double(paths.count { $0.state == state })
                )
            )
        }
        for kind in [NodePath.Kind.direct, .punched, .relayed] {
            samples.append(
                MetricSample(
                    name: "edgemesh_tunnel_paths",
                    kind: .gauge,
                    help: "Nodes that are connected, by the kind of the best path to them",
                    labels: ["kind": kind.rawValue],
                    value: Double(paths.count { $0.kind == kind })
                )
            )
        }
        return samples
    }
}

extension MeshNode {
    func status() async -> Document {
        let (settings, isRelay) = self.state.withLock { ($0.settings, $0.relayService != nil) }
        let now = MonotonicTime(self.loop.now)
        let paths = self.paths.paths
        let packets = self.packetCarriers
        return [
            "running": true,
            "peerID": .string(self.host.peerID.description),
            "identity": settings.identity == .derived ? "derived" : "node",
            "transport": .string(settings.transport.rawValue),
            "privateNetwork": .init(.bool(self.host.configuration.preSharedKey != nil)),
            "listening": .array(self.host.listenAddresses.map { .string($0.description) }),
            "advertised": .array(self.host.advertisedAddresses.map { .string($0.description) }),
            "observed": .array(self.observed.candidates.map { .string($0.description) }),
            "public": .array(
                self.host.listenAddresses.filter(\.isPublic).map { .string($0.description) }
            ),
            "sightings": .array(
                self.observed.sightings().map {
                    [
                        "seen": .string($0.seen.description), "local": .string($0.local.description),
                        "by": .string($0.observer.description),
                    ]
                }
            ),
            "observedConfirmed": .array(self.observed.confirmed.map { .string($0.description) }),
            "reachability": .string(self.autoNAT.reachability.text),
            "holePunching": .init(.bool(self.puncher != nil)),
            "isRelay": .init(.bool(isRelay)),
            "relays": .array(self.relays.relays.map { self.describe($0) }),
            "peers": .object(
                paths.sorted { $0.key < $1.key }.prefix(EdgeTunnelService.maximumNodesShown).map {
                    .init($0.key, Self.describe($0.value, packets: packets[$0.value.peer], now: now))
                }
            ),
            "refusedTargets": .array(
                self.access.lastRefused.suffix(16).map { refused in
                    [
                        "peer": .string(refused.peer), "target": .string(refused.target.description),
                        "protocol": .string("\(refused.transport)"), "reason": .string(refused.reason.rawValue),
                        "time": .integer(Int64(clamping: refused.time)),
                    ]
                }
            ),
            "falseNames": .array(
                self.exchange.falseClaims.map {
                    ["peer": .string($0.peer.description), "claimed": .string($0.claimed)]
                }
            ),
            "counters": await self.counters(), "gauges": self.gauges(paths),
        ]
    }

    private func describe(_ relay: RelayBook.Relay) -> Document {
        let reservation = self.relayClient.reservations.first { $0.relay == relay.peer }
        return [
            "node": .string(relay.node), "peerID": .string(relay.peer.description),
            "origin": relay.isConfigured ? "configured" : "volunteer",
            "addresses": .array(relay.addresses.map { .string($0.description) }),
            "connected": .init(.bool(self.host.connections(to: relay.peer).contains { !$0.isRelayed && $0.isOpen })),
            "rttMilliseconds": self.relays.roundTripTime(of: relay.peer).map { .milliseconds($0.nanoseconds) } ?? nil,
            "reservedUntil": reservation.map { .integer(Int64(clamping: $0.expires)) } ?? nil,
        ]
    }

    static func describe(_ path: NodePath, packets: PacketWay? = nil, now: MonotonicTime) -> Document {
        let reach = path.remoteAddress.flatMap { try? Multiaddr($0) }?.ipAddress?.reach
        return [
            "state": .string(path.state.rawValue), "kind": path.kind.map { .string($0.rawValue) } ?? nil,
            "relay": path.relay.map { .string($0) } ?? nil, "peerID": .string(path.peer),
            "agent": .string(path.agent.rawValue), "address": path.remoteAddress.map { .string($0) } ?? nil,
            // Dialled by an address that is not of the internet: both are in one network.
            "sameNetwork": .init(.bool(path.kind == .direct && (reach == .private || reach == .linkLocal))),
            "rttMilliseconds": path.roundTripTime.map { .milliseconds($0.saturatedNanoseconds) } ?? nil,
            "loss": .init(.number(path.loss)), "forSeconds": .integer(Int64((now - path.since).inSeconds)),
            "problem": path.problem.map { .string($0) } ?? nil, "flows": .integer(path.flows),
            "packets": packets?.document ?? nil,
        ]
    }

    /// What packets of pods go by, for each peer, in its text, that has a channel of them.
    private var packetCarriers: [String: PacketWay] {
        let ways = self.packetWays?.ways ?? [:]
        var carriers: [String: PacketWay] = [:]
        for (peer, form) in self.packetChannels.forms {
            let reason: PacketWay.Reason = form == .original ? .original : .off
            carriers[peer.description] = (form == .framed ? ways[peer] : nil) ?? PacketWay(reason: reason)
        }
        return carriers
    }

    private func counters() async -> Document {
        let host = self.host.metrics
        let (paths, opened, accepted, named) = (
            self.paths.counters, self.opener.counters, self.acceptor.counters, self.exchange.counters
        )
        let (packetsOpened, packetsAccepted) = (self.packetOpener.counters, self.packetAcceptor.counters)
        let (greeted, relayed, punched) = (
            self.greeter.counters, self.relayClient.metrics, self.puncher?.metrics ?? HolePunchMetrics()
        )
        var members: [(String, UInt64)] = [
            ("flowsOpened", opened.opened), ("flowsOpenedWithOriginals", opened.openedWithOriginals),
            ("flowsOpenFailed", opened.failed.values.reduce(0, +)), ("flowsAccepted", accepted.opened),
            ("flowsAcceptedFromOriginals", accepted.openedForOriginals),
            ("flowsRefused", accepted.refused.values.reduce(0, +)),
            ("packetChannelsOpened", packetsOpened.opened),
            ("packetChannelsOpenedWithOriginals", packetsOpened.openedWithOriginals),
            ("packetChannelsOpenFailed", packetsOpened.failed.values.reduce(0, +)),
            ("packetChannelsAccepted", packetsAccepted.accepted),
            ("packetChannelsAcceptedFromOriginals", packetsAccepted.acceptedFromOriginals),
            ("packetChannelsRefused", packetsAccepted.refused.values.reduce(0, +)),
            ("packetChannelsMoved", self.packetChannels.moves),
            ("targetsRefused", self.access.refusals.values.reduce(0, +)),
            ("connectionsDialled", host.connectionsDialled), ("connectionsAccepted", host.connectionsAccepted),
            ("connectionsRefused", host.connectionsRefused), ("handshakesFailed", host.handshakesFailed),
            ("wrongPreSharedKeys", host.wrongPreSharedKeys), ("dialsFailed", host.dialsFailed),
            ("streamsRefused", host.streamsRefused), ("probesSent", paths.probesSent),
            ("probesLost", paths.probesLost), ("suspicions", paths.suspicions),
            ("connectionsGivenUp", paths.connectionsGivenUp),
            ("networkChanges", paths.networkChanges), ("nodesRefused", paths.nodesRefused),
            ("namesVerified", named.verified), ("falseNames", named.falseClaims), ("peersGreeted", greeted.greeted),
            ("peersNotGreeted", greeted.failed + greeted.dropped),
            ("reservationsGranted", relayed.reservationsGranted), ("reservationsRefused", relayed.reservationsRefused),
            ("reservationsLost", relayed.reservationsLost), ("holesPunched", punched.punched),
            ("holesFailed", punched.failed), ("directInPlaceOfRelayed", punched.dialled),
        ]
        if let ways = self.packetWays {
            let (port, links) = (ways.port.counters, ways.counters)
            members += [
                ("packetDatagramsSent", port.sent), ("packetDatagramBytesSent", port.sentBytes),
                ("packetDatagramsDropped", port.dropped), ("packetDatagramsFailed", port.failed),
                ("packetDatagramsReceived", port.received), ("packetDatagramsStray", port.stray),
                ("packetDatagramsOverrun", port.overrun), ("packetDatagramsRefused", links.refused),
                ("packetDatagramAgreements", links.agreements), ("packetDatagramWaysTaken", links.waysTaken),
                ("packetDatagramWaysLost", links.waysLost),
            ]
        }
        if let service = self.state.withLock({ $0.relayService }) {
            let relay = await service.metrics()
            members += [
                ("relayReservationsGranted", relay.reservationsGranted), ("relayCircuitsOpened", relay.circuitsOpened),
                ("relayCircuitsRefused", relay.circuitsRefused), ("relayCircuitsFailed", relay.circuitsFailed),
                ("relayBytes", relay.bytesFromSources &+ relay.bytesFromTargets),
            ]
        }
        return .object(members.map { .init($0.0, .integer(Int64(clamping: $0.1))) })
    }

    private func gauges(_ paths: [String: NodePath]) -> Document {
        let host = self.host.metrics
        let members: [(String, Int)] = [
            ("connections", host.openConnections), ("flowsOutbound", self.opener.tally.total),
            ("flowsInbound", self.acceptor.tally.total), ("packetChannels", self.packetChannels.count),
            ("knownPeers", host.knownPeers),
            ("reservations", self.relayClient.reservations.count),
            ("nodesDown", paths.values.count { $0.state == .down }),
        ]
        return .object(members.map { .init($0.0, .integer(Int64($0.1))) })
    }
}

extension Reachability {
    fileprivate var text: String {
        switch self {
        case .unknown: "unknown"
        case .publiclyReachable: "public"
        case .behindNAT: "private"
        }
    }
}

extension Document {
    /// With three digits behind the point.
    fileprivate static func milliseconds(_ nanoseconds: Int64) -> Document {
        .init(.number((Double(nanoseconds) / 1e3).rounded() / 1e3))
    }
}
