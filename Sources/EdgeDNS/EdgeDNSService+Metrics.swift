import MeshCore
public import MeshInterfaces
import Synchronization

extension EdgeDNSService {
    public func metrics() async -> [MetricSample] {
        await self.report().metrics(loopDetections: self.state.withLock { $0.loopGuard.detections })
    }
}

extension LoopReport {
    /// Named as Prometheus advises: counters end in `_total`, what divides a figure is a label.
    func metrics(loopDetections: UInt64) -> [MetricSample] {
        var samples: [MetricSample] = []
        func add(
            _ name: String,
            _ kind: MetricSample.Kind,
            _ help: String,
            by label: String? = nil,
            _ values: [(String, UInt64)]
        ) {
            samples += values.map { key, value in
                MetricSample(
                    name: "edgemesh_dns_\(name)",
                    kind: kind,
                    help: help,
                    labels: label.map { [$0: key] } ?? [:],
                    value: Double(value)
                )
            }
        }
        func count(_ name: String, _ help: String, _ value: UInt64) { add(name, .counter, help, [("", value)]) }

        add("queries_total", .counter, "Queries by the type asked for.", by: "type", self.queries.byType)
        add("responses_total", .counter, "Replies by response code.", by: "rcode", self.queries.byCode)
        add(
            "messages_total",
            .counter,
            "Messages received, by transport.",
            by: "transport",
            [("udp", self.queries.overUDP), ("tcp", self.queries.overTCP)]
        )
        count("ignored_total", "Messages that got no reply: malformed, or replies themselves.", self.queries.ignored)
        count(
            "rate_limited_total",
            "Queries over the rate of their source: cut short or dropped.",
            self.queries.rateLimited
        )
        count("cluster_answers_total", "Answers from the cluster zone.", self.queries.clusterAnswers)
        count("cache_hits_total", "Answers of upstreams given from the cache, in their time.", self.queries.cacheHits)
        count("cache_misses_total", "Queries that the cache had no answer for.", self.queries.cacheMisses)
        count("cache_stale_answers_total", "Answers given past their time.", self.queries.staleAnswers)
        count("cache_prefetches_total", "Answers asked for anew before their time was over.", self.queries.prefetches)
        count("cache_evictions_total", "Answers that had to go for others.", self.evictions)
        count("upstream_questions_total", "Questions put to upstreams.", self.forwarding.questions)
        count("upstream_joined_total", "Queries that waited for a question already under way.", self.forwarding.joined)
        count("upstream_over_tcp_total", "Questions put over TCP.", self.forwarding.overTCP)
        count(
            "upstream_mismatches_total",
            "Replies that fitted no question: late or forged.",
            self.forwarding.mismatches
        )
        count("upstream_unanswered_total", "Questions that no upstream answered.", self.forwarding.failures)
        count("upstream_overflows_total", "Queries refused: too many waited for upstreams.", self.forwarding.overflows)
        add(
            "upstream_failures_total",
            .counter,
            "Attempts at an upstream that failed.",
            by: "reason",
            [("timeout", self.forwarding.timeouts), ("unreachable", self.forwarding.unreachable)]
        )
        count("upstream_loops_total", "Times that an upstream was found to send our queries back.", loopDetections)
        count("connections_total", "TCP connections accepted.", self.queries.connections)
        count(
            "connections_refused_total",
            "TCP connections refused: too many were open.",
            self.queries.refusedConnections
        )
        count(
            "accepts_paused_total",
            "Times that no connection was accepted for a while: descriptors or memory were short.",
            self.queries.acceptsPaused
        )
        add("connections", .gauge, "TCP connections that are open.", [("", UInt64(self.openConnections))])
        add("upstream_outstanding", .gauge, "Questions that wait for upstreams.", [("", UInt64(self.outstanding))])
        add(
            "cache_entries",
            .gauge,
            "Answers kept.",
            by: "cache",
            [("cluster", UInt64(self.clusterEntries)), ("upstream", UInt64(self.upstreamEntries))]
        )
        add(
            "upstream_up",
            .gauge,
            "1 if the upstream is in use, 0 if it does not answer or sends queries back.",
            by: "upstream",
            self.upstreams.map { ($0.address.description, $0.isDown || $0.isLooping ? 0 : 1) }
        )
        return samples
    }
}
