import DNSWire
import KubeModel
import MeshCore
import ServiceCatalog
import Testing

@testable import EdgeDNS

private func address(_ text: String) -> TransportAddress { TransportAddress(text) ?? TransportAddress(.v4(.any), 0) }

private let first = address("10.0.0.1:53")
private let second = address("10.0.0.2:53")

@Suite struct ResolutionTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000)

    private func reply(_ code: ResponseCode = .noError, _ flags: MessageFlags = .response, edns: Bool = true) -> Message
    {
        var message = Message(id: 1, flags: flags)
        message.responseCode = code
        message.edns = edns ? EDNS(payloadSize: 1232) : nil
        return message
    }

    private func make(_ candidates: [TransportAddress]) -> Resolution {
        Resolution(candidates: candidates, deadline: self.start + .milliseconds(4500))
    }

    private func target(_ action: Resolution.Action) -> String {
        switch action {
        case .send(let upstream, let transport, let edns, _): "\(transport) \(upstream.address)\(edns ? "" : " plain")"
        case .finish(let message): "finish \(message.responseCode)"
        case .fail: "fail"
        }
    }

    @Test func failsWithoutUpstreams() {
        var resolution = self.make([])
        #expect(resolution.start(now: self.start) == .fail)
    }

    @Test func triesTwiceThenTheNextThenAnew() {
        var resolution = self.make([first, second])
        var now = self.start
        var seen = [self.target(resolution.start(now: now))]
        for _ in 0..<5 {
            now = now + .milliseconds(800)
            seen.append(self.target(resolution.handle(.timedOut, now: now)))
        }
        #expect(
            seen == ["udp 10.0.0.1", "udp 10.0.0.1", "udp 10.0.0.2", "udp 10.0.0.2", "udp 10.0.0.1", "udp 10.0.0.1"]
        )
        #expect(resolution.handle(.timedOut, now: self.start + .milliseconds(4500)) == .fail)
    }

    @Test func neverWaitsBeyondTheDeadline() {
        var resolution = self.make([first])
        _ = resolution.start(now: self.start)
        guard case .send(_, _, _, let timeout) = resolution.handle(.timedOut, now: self.start + .milliseconds(4400))
        else {
            Issue.record("did not send")
            return
        }
        #expect(timeout == .milliseconds(100))
    }

    @Test func leavesAnUpstreamThatRefuses() {
        var resolution = self.make([first, second])
        _ = resolution.start(now: self.start)
        #expect(self.target(resolution.handle(.unreachable, now: self.start)) == "udp 10.0.0.2")
        #expect(resolution.handle(.unreachable, now: self.start) == .fail)
    }

    @Test func fetchesTruncatedAnswersOverTCP() {
        var resolution = self.make([first])
        _ = resolution.start(now: self.start)
        let truncated = self.reply(.noError, [.response, .truncated])
        #expect(self.target(resolution.handle(.reply(truncated), now: self.start)) == "tcp 10.0.0.1")
        #expect(self.target(resolution.handle(.reply(self.reply()), now: self.start)) == "finish NOERROR")
    }

    @Test func givesTheTruncatedAnswerIfTCPFails() {
        var resolution = self.make([first])
        _ = resolution.start(now: self.start)
        let truncated = self.reply(.noError, [.response, .truncated])
        _ = resolution.handle(.reply(truncated), now: self.start)
        #expect(resolution.handle(.unreachable, now: self.start) == .finish(truncated))
    }

    @Test(arguments: [ResponseCode.serverFailure, .refused, .notImplemented])
    func asksTheNextAfterABadAnswer(code: ResponseCode) {
        var resolution = self.make([first, second])
        _ = resolution.start(now: self.start)
        #expect(self.target(resolution.handle(.reply(self.reply(code)), now: self.start)) == "udp 10.0.0.2")
        #expect(self.target(resolution.handle(.unreachable, now: self.start)) == "finish \(code)")
    }

    @Test func takesNameErrorForAnAnswer() {
        var resolution = self.make([first, second])
        _ = resolution.start(now: self.start)
        #expect(self.target(resolution.handle(.reply(self.reply(.nameError)), now: self.start)) == "finish NXDOMAIN")
    }

    @Test func asksWithoutEDNSAfterAFormatError() {
        var resolution = self.make([first])
        _ = resolution.start(now: self.start)
        let reply = self.reply(.formatError, edns: false)
        #expect(self.target(resolution.handle(.reply(reply), now: self.start)) == "udp 10.0.0.1 plain")
        #expect(self.target(resolution.handle(.reply(reply), now: self.start)) == "finish FORMERR")
    }
}

@Suite struct UpstreamPoolTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000)

    @Test func asksThoseThatAreDownLast() {
        var pool = UpstreamPool()
        pool.replace(with: [first, second])
        #expect(pool.candidates == [first, second])
        let states = (0..<3).map { _ in pool.failed(first, now: self.start) }
        #expect(states == [false, false, true])
        #expect(pool.candidates == [second, first])
        #expect(pool.isAnyUp)
        let wasDown = pool.succeeded(first)
        #expect(wasDown)
        #expect(pool.candidates == [first, second])
    }

    @Test func probesAtGrowingDistance() {
        var pool = UpstreamPool()
        pool.replace(with: [first])
        for _ in 0..<3 { _ = pool.failed(first, now: self.start) }
        #expect(!pool.isAnyUp)
        var times: [Int] = []
        for second in 0..<60 where !pool.takeDueProbes(now: self.start + .seconds(second)).isEmpty {
            times.append(second)
        }
        #expect(times == [1, 3, 7, 15, 31, 47])
    }

    @Test func keepsWhatItKnowsOfThoseThatStay() {
        var pool = UpstreamPool()
        pool.replace(with: [first, second])
        for _ in 0..<3 { _ = pool.failed(first, now: self.start) }
        pool.replace(with: [first])
        #expect(pool.isAnyDown)
        pool.setLooping([first])
        #expect(pool.isEmpty)
        #expect(pool.candidates.isEmpty)
    }
}

@Suite struct LoopGuardTests {
    @Test func findsLoopsAndTheirEnd() throws {
        var loops = LoopGuard()
        var generator = SeededGenerator(seed: 3)
        var now = MonotonicTime(nanoseconds: 1_000_000_000)
        let probes = loops.takeProbes(for: [first, second], now: now, using: &generator)
        #expect(probes.map(\.upstream) == [first, second])
        let none = loops.takeProbes(for: [first, second], now: now, using: &generator)
        #expect(none.isEmpty)
        let name = try DomainName("\(probes[0].label).\(LoopGuard.domain)")
        #expect(LoopGuard.label(of: name) == probes[0].label)
        #expect(loops.arrived("guess") == nil)
        #expect(loops.arrived(probes[0].label) == first)
        #expect(loops.looping == [first])
        now = now + .seconds(61)
        let again = loops.takeProbes(for: [first, second], now: now, using: &generator)
        #expect(again.map(\.upstream) == [first])
        let early = loops.takeCleared(now: now + .seconds(1))
        #expect(early.isEmpty)
        #expect(loops.takeCleared(now: now + .seconds(5)) == [first])
        #expect(loops.looping.isEmpty)
    }
}

@Suite struct UpstreamPlanTests {
    private let settings = EdgeDNSSettings(listenAddresses: [address("169.254.96.16:53"), address("127.0.0.1:53")])

    @Test func readsResolverConfiguration() {
        let file = ResolvConf(
            parsing: """
                # comment
                nameserver 127.0.0.53
                nameserver\tfd00::53
                nameserver fe80::1%eth0
                search default.svc.k8s.example svc.k8s.example example.com
                options ndots:5
                nameserver
                """
        )
        #expect(file.nameServers == [address("127.0.0.53:53"), address("[fd00::53]:53")])
        #expect(file.unusable == ["nameserver fe80::1%eth0"])
        #expect(file.clusterDomain == "k8s.example")
        #expect(ResolvConf(parsing: "search svc.cluster.local cluster.local").clusterDomain == "cluster.local")
        #expect(ResolvConf(parsing: "search example.com").clusterDomain == nil)
        #expect(ResolvConf(parsing: "search svc").clusterDomain == nil)
    }

    @Test func leavesItselfOutAndSaysSo() {
        let file = ResolvConf(parsing: "nameserver 169.254.96.16\nnameserver 127.0.0.53\nnameserver 127.0.0.53")
        let plan = UpstreamPlan(settings: self.settings, resolvConf: file, snapshot: CatalogSnapshot())
        #expect(plan.upstreams == [address("127.0.0.53:53")])
        #expect(plan.problems.count == 1)
        #expect(plan.problems[0].contains("/etc/resolv.conf") && plan.problems[0].contains("169.254.96.16:53"))
    }

    @Test func saysThatThereIsNoUpstream() {
        let plan = UpstreamPlan(settings: self.settings, resolvConf: nil, snapshot: CatalogSnapshot())
        #expect(plan.upstreams.isEmpty)
        #expect(plan.problems.count == 1)
    }

    @Test func boundsTheNumberOfUpstreams() {
        let file = ResolvConf(parsing: (0..<40).map { "nameserver 10.0.0.\($0)" }.joined(separator: "\n"))
        let plan = UpstreamPlan(settings: self.settings, resolvConf: file, snapshot: CatalogSnapshot())
        #expect(plan.upstreams.count == 16)
        #expect(plan.problems.count == 1)
    }

    @Test func findsTheClusterDNSServices() {
        var settings = self.settings
        settings.cacheDNS = .init()
        settings.cacheDNS?.upstreamServers = [first]
        let dns = ZoneFixtures.service("kube-dns", in: "kube-system", clusterIPs: ["10.96.0.2", "fd00::a"])
        let other = ZoneFixtures.service("kube-dns", in: "default", clusterIPs: ["10.96.0.3"])
        let snapshot = CatalogSnapshot(services: [dns, other])
        let found = UpstreamPlan(settings: settings, resolvConf: nil, snapshot: snapshot)
        #expect(found.upstreams == [address("10.96.0.2:53"), address("[fd00::a]:53"), first])
        settings.cacheDNS?.autoDetect = false
        #expect(UpstreamPlan(settings: settings, resolvConf: nil, snapshot: snapshot).upstreams == [first])
        settings.cacheDNS?.upstreamServers = []
        #expect(UpstreamPlan(settings: settings, resolvConf: nil, snapshot: snapshot).problems.count == 1)
    }

    @Test func findsTheClusterDNSServicesByTheirLabel() {
        var settings = self.settings
        settings.cacheDNS = .init()
        func labelled(_ name: String, _ address: String, in namespace: String = "kube-system") -> ServiceCatalog.Service
        {
            ZoneFixtures.service(
                name,
                in: namespace,
                clusterIPs: [address],
                ports: [.init(name: "x", transport: .udp, port: 5353), .init(name: "dns", transport: .udp, port: 53)]
            ) { $0.filterLabels = .clusterDNS }
        }
        let metrics = ZoneFixtures.service(
            "rke2-coredns-metrics",
            in: "kube-system",
            clusterIPs: ["10.96.0.9"],
            ports: [.init(port: 9153)]
        ) { $0.filterLabels = .clusterDNS }
        let snapshot = CatalogSnapshot(services: [
            labelled("rke2-coredns", "10.96.0.5"), labelled("a-second", "10.96.0.6"), labelled("kube-dns", "10.96.0.2"),
            labelled("stranger", "10.96.0.7", in: "default"), metrics,
        ])
        let plan = UpstreamPlan(settings: settings, resolvConf: nil, snapshot: snapshot)
        #expect(plan.upstreams == ["10.96.0.2", "10.96.0.6", "10.96.0.5"].map { address("\($0):53") })
    }
}
