import Documents
import MeshCore
import NetLab

/// Every kind of NAT with every other: peers behind one dial peers behind the other through a relay, or directly where the other
/// can be reached, and then make the best of it.
struct Grid {
    /// How one pair ended, and whether that is what theory says.
    struct Cell: Sendable {
        let dialler: NATKind
        let dialled: NATKind
        let history: PeerHistory

        var outcome: String { self.history.steps.last?.path ?? "none" }
        var expected: Set<NATKind.Outcome> { NATKind.outcomes(self.dialler, self.dialled) }
        var isAsExpected: Bool {
            self.expected.contains { $0.rawValue == self.outcome } && self.history.isProven
                && self.history.failures.isEmpty
        }

        var milliseconds: String {
            let microseconds = self.history.steps.last?.microseconds ?? 0
            return "\(microseconds / 1000).\(microseconds / 100 % 10) ms"
        }
    }

    /// How a pair fared whose relay died.
    struct Takeover: Sendable {
        let history: PeerHistory
        let time: Duration
        let firstRelay: String
        let secondRelay: String
    }

    struct Report: Sendable {
        var cells: [Cell] = []
        var takeover: Takeover?
        var duration = Duration.zero
        var isAsExpected: Bool { self.cells.allSatisfy(\.isAsExpected) && self.takeover != nil }
    }

    /// The program `p2p-peer`.
    let program: String
    let name: String
    var kinds = NATKind.allCases
    var deadline = Duration.seconds(50)

    func run() async throws -> Report {
        let begin = MonotonicTime.now()
        var internet = Internet(name: self.name)
        let relaySites = try (0..<3).map { try PeerSite(.open, "relay\($0)", in: &internet) }
        let dialledSites = try self.kinds.map { try PeerSite($0, "b-\($0.rawValue)", in: &internet) }
        let diallingSites = try self.kinds.map { try PeerSite($0, "a-\($0.rawValue)", in: &internet) }
        let pairSites = try ["c", "d"].map { try PeerSite(.fullyRandom, $0, in: &internet) }
        let lab = try await Lab.create(internet.finished())
        defer { try? lab.remove() }

        let relays = try relaySites.map { try self.start($0, in: lab, ["-relay-service"]) }
        for relay in relays { _ = try await self.ready(relay, in: lab) }
        // One relay for the grid, two for the pair that loses one.
        let grid = Array(relays.prefix(1))
        let pair = Array(relays.suffix(2))
        let dialled = try dialledSites.map { try self.startReserving($0, at: grid, in: lab) }
        let kept = try self.startReserving(pairSites[1], at: pair, in: lab)
        for peer in dialled { try await self.reserved(peer, 1, in: lab) }
        try await self.reserved(kept, 2, in: lab)

        let diallers = try diallingSites.map { site in
            let targets = try dialled.flatMap { ["-keep", try self.addresses(of: $0, from: site, by: grid)] }
            return try self.start(site, in: lab, ["-hole-punch"] + targets)
        }
        let keeper = try self.start(
            pairSites[0],
            in: lab,
            ["-hole-punch", "-keep", try self.addresses(of: kept, from: pairSites[0], by: pair)]
        )
        async let takeover = self.takeOver(from: keeper, to: kept, relays: pair, in: lab)
        let cells = try await self.settle(diallers, dialled, in: lab)
        return Report(cells: cells, takeover: try await takeover, duration: MonotonicTime.now() - begin)
    }

    // MARK: Peers

    private func start(_ site: PeerSite, in lab: Lab, _ options: [String]) throws -> RunningPeer {
        let announce = site.kind == .fullCone ? ["-announce", site.reachableAt.joined(separator: ",")] : []
        let arguments = [self.program, "-listen", site.listen.joined(separator: ",")] + announce + options
        return RunningPeer(site: site, process: try lab.start(on: site.host, arguments))
    }

    private func startReserving(_ site: PeerSite, at relays: [RunningPeer], in lab: Lab) throws -> RunningPeer {
        let addresses = try relays.map { try self.address(of: $0, from: site) }
        return try self.start(site, in: lab, ["-hole-punch", "-reserve", addresses.joined(separator: ",")])
    }

    private func id(_ peer: RunningPeer) throws -> String {
        guard let id = peer.last("ready")?["peer"]?.string else {
            throw GridError("\(peer.site.host) is not ready:\n\(peer.process.logTail())")
        }
        return id
    }

    /// A relay's address of a family that the site has.
    private func address(of relay: RunningPeer, from site: PeerSite) throws -> String {
        let prefix = site.kind.families.contains(.v4) ? "/ip4/" : "/ip6/"
        let address = relay.site.reachableAt.first { $0.hasPrefix(prefix) } ?? ""
        return "\(address)/p2p/\(try self.id(relay))"
    }

    /// All that a host would know of a peer which knows itself what can be reached.
    private func addresses(of peer: RunningPeer, from site: PeerSite, by relays: [RunningPeer]) throws -> String {
        let direct = peer.site.reachableAt.filter { address in
            site.kind.families.contains(address.hasPrefix("/ip4/") ? .v4 : .v6)
        }
        let circuits = try relays.map { "\(try self.address(of: $0, from: site))/p2p-circuit" }
        let id = try self.id(peer)
        return (direct + circuits).map { "\($0)/p2p/\(id)" }.joined(separator: ",")
    }

    // MARK: Waiting

    private func ready(_ peer: RunningPeer, in lab: Lab) async throws -> String {
        try await self.wait("\(peer.site.host) to be ready", for: [peer], in: lab) { peer.last("ready") != nil }
        return try self.id(peer)
    }

    private func reserved(_ peer: RunningPeer, _ count: Int, in lab: Lab) async throws {
        try await self.wait("a reservation of \(peer.site.host)", for: [peer], in: lab) {
            peer.activeReservations.count >= count
        }
    }

    private func wait(
        _ what: String,
        for peers: [RunningPeer],
        in lab: Lab,
        until condition: () throws -> Bool
    ) async throws {
        let end = MonotonicTime.now() + self.deadline
        while try !condition() {
            if let dead = peers.first(where: { !$0.process.isRunning }) {
                throw GridError("\(dead.site.host) has ended:\n\(dead.process.logTail())")
            }
            guard MonotonicTime.now() < end else {
                let said = peers.map { "\($0.site.host): \($0.process.logTail(lines: 4))" }.joined(separator: "\n")
                throw GridError("waited \(self.deadline) for \(what); what was said:\n\(said)")
            }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    /// Waits until nobody tries any more to make connections direct, and bytes have flowed since. What has not come by the
    /// deadline is judged as it is.
    private func settle(_ diallers: [RunningPeer], _ dialled: [RunningPeer], in lab: Lab) async throws -> [Cell] {
        let ids = try dialled.map { try self.id($0) }
        let end = MonotonicTime.now() + self.deadline
        while true {
            let cells = diallers.flatMap { dialler in
                zip(dialled, ids).map { peer, id in
                    Cell(dialler: dialler.site.kind, dialled: peer.site.kind, history: dialler.history(with: id))
                }
            }
            if MonotonicTime.now() > end || self.isSettled(cells, dialled) { return cells }
            try await Task.sleep(for: .milliseconds(500))
        }
    }

    private func isSettled(_ cells: [Cell], _ dialled: [RunningPeer]) -> Bool {
        guard cells.allSatisfy({ $0.history.isProven || !$0.history.failures.isEmpty }) else { return false }
        return dialled.allSatisfy { peer in
            let relayed = cells.count { cell in
                cell.dialled == peer.site.kind && cell.history.steps.first?.path == "relayed"
            }
            guard relayed > 0 else { return true }
            guard let counts = peer.last("punches") else { return false }
            func count(_ key: String) -> Int { Int(counts[key]?.integer ?? 0) }
            return count("started") >= relayed && count("running") == 0
                && count("started") == count("dialled") + count("punched") + count("failed")
        }
    }

    // MARK: A relay that dies

    private func takeOver(
        from keeper: RunningPeer,
        to kept: RunningPeer,
        relays: [RunningPeer],
        in lab: Lab
    ) async throws -> Takeover {
        let id = try self.id(kept)
        try await self.wait("an echo through a relay", for: [keeper, kept], in: lab) {
            (keeper.history(with: id).steps.last?.echoes ?? 0) > 1
        }
        let first = keeper.history(with: id).steps.last?.relay ?? ""
        guard let relay = try relays.first(where: { try self.id($0) == first }) else {
            throw GridError("the pair found another way than its relays: '\(first)'")
        }
        let begin = MonotonicTime.now()
        try await relay.process.kill()
        try await self.wait("the second relay to take over", for: [keeper, kept], in: lab) {
            let last = keeper.history(with: id).steps.last
            return last?.relay != first && (last?.echoes ?? 0) > 0
        }
        let time = MonotonicTime.now() - begin
        let history = keeper.history(with: id)
        return Takeover(history: history, time: time, firstRelay: first, secondRelay: history.steps.last?.relay ?? "")
    }
}
