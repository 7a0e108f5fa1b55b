import DNSWire
public import Documents
import MeshCore
import NIOCore
import Synchronization

extension EdgeDNSService {
    /// Sums over the event loops; the state of an upstream is the worst that any loop sees.
    public func status() async -> Document {
        let (settings, applied, listening, bindErrors) = self.state.withLock { state in
            (state.settings, state.applied, state.listening, state.bindErrors)
        }
        let total = await self.report()
        let domain: Document = applied?.zone.map { .string($0.domain.description) } ?? .init(.null)
        return [
            "mode": settings.cacheDNS == nil ? "cluster" : "cacheDNS",
            "clusterDomain": domain,
            "listening": .array(listening.map { .string($0.description) }),
            "notListening": .object(
                bindErrors.sorted { $0.key < $1.key }.map { .init($0.key.description, .string($0.value)) }
            ),
            "problems": .array((applied?.plan.problems ?? []).map { .string($0) }),
            "upstreams": .array(
                total.upstreams.map { upstream in
                    [
                        "address": .string(upstream.address.description),
                        "state": upstream.isLooping ? "looping" : upstream.isDown ? "down" : "up",
                        "consecutiveFailures": .integer(upstream.consecutiveFailures),
                    ]
                }
            ),
            "queries": total.queries.document,
            "cache": [
                "clusterEntries": .integer(total.clusterEntries),
                "upstreamEntries": .integer(total.upstreamEntries),
                "evictions": .integer(total.evictions),
            ],
            "forwarding": [
                "outstanding": .integer(total.outstanding),
                "questions": .integer(total.forwarding.questions),
                "joined": .integer(total.forwarding.joined),
                "overflows": .integer(total.forwarding.overflows),
                "failures": .integer(total.forwarding.failures),
                "timeouts": .integer(total.forwarding.timeouts),
                "unreachable": .integer(total.forwarding.unreachable),
                "overTCP": .integer(total.forwarding.overTCP),
                "mismatches": .integer(total.forwarding.mismatches),
            ],
            "openConnections": .integer(total.openConnections),
        ]
    }
}

extension EdgeDNSService {
    /// What all loops counted.
    func report() async -> LoopReport {
        var total = LoopReport()
        for worker in self.state.withLock({ $0.workers }) {
            let report = try? await worker.loop.submit {
                LoopReport(worker.responder.value, connections: worker.connections.value.open)
            }.get()
            if let report { total.add(report) }
        }
        return total
    }
}

/// The counters of one event loop, and their sum.
struct LoopReport: Sendable {
    var queries = QueryCounters()
    var forwarding = Forwarder.Counters()
    var upstreams: [UpstreamPool.Upstream] = []
    var clusterEntries = 0
    var upstreamEntries = 0
    var evictions: UInt64 = 0
    var outstanding = 0
    var openConnections = 0

    init() {}

    init(_ responder: QueryResponder, connections: Int) {
        self.queries = responder.counters
        self.forwarding = responder.forwarder.counters
        self.upstreams = responder.forwarder.pool.upstreams
        (self.clusterEntries, self.upstreamEntries, self.evictions) = responder.cacheSizes
        self.outstanding = responder.forwarder.outstanding
        self.openConnections = connections
    }

    mutating func add(_ other: LoopReport) {
        self.queries = self.queries + other.queries
        self.forwarding = self.forwarding + other.forwarding
        self.clusterEntries += other.clusterEntries
        self.upstreamEntries += other.upstreamEntries
        self.evictions += other.evictions
        self.outstanding += other.outstanding
        self.openConnections += other.openConnections
        for upstream in other.upstreams {
            if let index = self.upstreams.firstIndex(where: { $0.address == upstream.address }) {
                let worst = max(self.upstreams[index].consecutiveFailures, upstream.consecutiveFailures)
                self.upstreams[index].consecutiveFailures = worst
                self.upstreams[index].isDown = self.upstreams[index].isDown || upstream.isDown
                self.upstreams[index].isLooping = self.upstreams[index].isLooping || upstream.isLooping
            } else {
                self.upstreams.append(upstream)
            }
        }
    }
}
