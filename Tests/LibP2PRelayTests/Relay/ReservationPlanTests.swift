import MeshCore
import Multiformats
import NIOCore
import PeerIdentity
import Testing

@testable import LibP2PRelay

@Suite struct ReservationPlanTests {
    static let peers = (0..<6).map { _ in KeyPair.generate().peerID }

    /// The plan, and what it wants, as a test sees it: answers go to the latest request of a relay.
    private struct Bench {
        var plan: ReservationPlan
        var now = NIODeadline.uptimeNanoseconds(0)
        var requests: [PeerID: UInt64] = [:]

        init(wanted: Int = 1, _ configure: (inout RelayClientConfiguration) -> Void = { _ in }) {
            var configuration = RelayClientConfiguration()
            configuration.wantedReservations = wanted
            configure(&configuration)
            self.plan = ReservationPlan(configuration: configuration, generator: SeededGenerator(seed: 7))
        }

        enum Wish: Hashable {
            case probe(PeerID)
            case reserve(PeerID)
            case lost(PeerID)
            case replaced(PeerID)
        }

        mutating func next() -> Set<Wish> {
            Set(
                self.plan.next(now: self.now).map { action in
                    switch action {
                    case .probe(let peer, let request):
                        self.requests[peer] = request
                        return .probe(peer)
                    case .reserve(let peer, let request):
                        self.requests[peer] = request
                        return .reserve(peer)
                    case .lost(let peer): return .lost(peer)
                    case .replaced(let peer): return .replaced(peer)
                    }
                }
            )
        }

        mutating func probed(_ peer: PeerID, _ milliseconds: Int64) {
            self.plan.probed(peer, request: self.requests[peer] ?? 0, roundTripTime: .milliseconds(milliseconds))
        }

        @discardableResult
        mutating func reserved(_ peer: PeerID, seconds: Int64 = 3600) -> Bool {
            self.plan.reserved(
                peer,
                request: self.requests[peer] ?? 0,
                lifetime: .seconds(seconds),
                now: self.now
            )
        }

        mutating func refused(_ peer: PeerID) {
            self.plan.refused(peer, request: self.requests[peer] ?? 0, now: self.now)
        }

        mutating func failed(_ peer: PeerID) {
            self.plan.failed(peer, request: self.requests[peer] ?? 0, now: self.now)
        }

        /// Goes on to when the plan wants to be asked again; tells how long that was.
        mutating func sleep() -> TimeAmount {
            guard let wake = self.plan.wakeTime else { return .zero }
            defer { self.now = max(self.now, wake) }
            return wake - self.now
        }
    }

    @Test func theNearestAreChosen() {
        let (a, b, c) = (Self.peers[0], Self.peers[1], Self.peers[2])
        var bench = Bench(wanted: 2)
        bench.plan.setCandidates([a, b, c])
        #expect(bench.next() == [.probe(a), .probe(b), .probe(c)])
        bench.probed(a, 50)
        #expect(bench.next() == [])
        bench.probed(b, 5)
        bench.probed(c, 20)
        #expect(bench.next() == [.reserve(b), .reserve(c)])
        bench.reserved(b)
        bench.reserved(c)
        #expect(bench.next() == [])
        #expect(bench.plan.state(of: a) == .idle)
    }

    @Test func theChoiceDoesNotWaitForeverForMeasurements() {
        let (a, b) = (Self.peers[0], Self.peers[1])
        var bench = Bench { $0.selectionDelay = .seconds(2) }
        bench.plan.setCandidates([a, b])
        #expect(bench.next() == [.probe(a), .probe(b)])
        bench.probed(a, 100)
        #expect(bench.next() == [])
        #expect(bench.sleep() == .seconds(2))
        #expect(bench.next() == [.reserve(a)])
    }

    @Test func ofEquallyNearOnesTheFirstNamedIsChosen() {
        var bench = Bench()
        bench.plan.setCandidates([Self.peers[3], Self.peers[1]])
        _ = bench.next()
        bench.probed(Self.peers[1], 5)
        bench.probed(Self.peers[3], 5)
        #expect(bench.next() == [.reserve(Self.peers[3])])
    }

    @Test func aReservationIsRefreshedBeforeItsEnd() {
        let a = Self.peers[0]
        var bench = Bench()
        bench.plan.setCandidates([a])
        _ = bench.next()
        bench.probed(a, 5)
        #expect(bench.next() == [.reserve(a)])
        bench.reserved(a, seconds: 3600)
        for _ in 0..<5 {
            let slept = bench.sleep()
            #expect(slept >= .seconds(2340) && slept <= .seconds(2700))
            #expect(bench.next() == [.reserve(a)])
            bench.reserved(a, seconds: 3600)
            #expect(bench.next() == [])
        }
    }

    @Test func aFailedRefreshIsTriedUntilTheEnd() {
        let a = Self.peers[0]
        var bench = Bench()
        bench.plan.setCandidates([a])
        _ = bench.next()
        bench.probed(a, 5)
        _ = bench.next()
        bench.reserved(a, seconds: 100)
        let end = bench.now + .seconds(100)
        var tries = 0
        while bench.now < end {
            _ = bench.sleep()
            let wishes = bench.next()
            if wishes == [.reserve(a)] {
                tries += 1
                bench.failed(a)
            } else {
                #expect(wishes.contains(.lost(a)))
                break
            }
        }
        #expect(tries > 3)
        #expect(bench.now == end)
    }

    @Test func aLostRelayIsAskedAgainWithinASecondAndAnotherTakesItsPlace() {
        let (a, b) = (Self.peers[0], Self.peers[1])
        var bench = Bench()
        bench.plan.setCandidates([a, b])
        _ = bench.next()
        bench.probed(a, 1)
        bench.probed(b, 9)
        #expect(bench.next() == [.reserve(a)])
        bench.reserved(a)
        bench.plan.disconnected(a, now: bench.now)
        // The other is known to be near enough: no time is lost.
        #expect(bench.next() == [.lost(a), .reserve(b)])
        bench.failed(b)
        #expect(bench.next() == [])
        #expect(bench.sleep() <= .milliseconds(500))
        let wishes = bench.next()
        #expect(wishes == [.probe(a)] || wishes == [.probe(b)])
    }

    @Test func aRelayThatRefusesIsLeftAloneForAWhile() {
        let a = Self.peers[0]
        var bench = Bench {
            $0.refusalBase = .seconds(10)
            $0.refusalMaximum = .seconds(40)
        }
        bench.plan.setCandidates([a])
        _ = bench.next()
        bench.probed(a, 5)
        var waits: [TimeAmount] = []
        for _ in 0..<4 {
            #expect(bench.next() == [.reserve(a)])
            bench.refused(a)
            #expect(bench.next() == [])
            waits.append(bench.sleep())
        }
        #expect(waits[0] >= .seconds(5) && waits[0] <= .seconds(10))
        #expect(waits[3] >= .seconds(20) && waits[3] <= .seconds(40))
    }

    @Test func answersThatComeTooLateDoNotCount() {
        let a = Self.peers[0]
        var bench = Bench()
        bench.plan.setCandidates([a])
        _ = bench.next()
        bench.probed(a, 5)
        _ = bench.next()
        bench.reserved(a, seconds: 100)
        _ = bench.sleep()
        #expect(bench.next() == [.reserve(a)])
        // While it is refreshed the connection is lost.
        bench.plan.disconnected(a, now: bench.now)
        #expect(bench.next() == [.lost(a)])
        let counted = bench.reserved(a)
        #expect(!counted)
        bench.failed(a)
        bench.refused(a)
        #expect(bench.plan.state(of: a)?.holdsSlot == false)
        #expect(bench.sleep() <= .milliseconds(500))
        #expect(bench.next() == [.probe(a)])
    }

    @Test func candidatesComeAndGo() {
        let (a, b) = (Self.peers[0], Self.peers[1])
        var bench = Bench(wanted: 2)
        bench.plan.setCandidates([a])
        _ = bench.next()
        bench.probed(a, 1)
        _ = bench.next()
        bench.reserved(a)
        bench.plan.setCandidates([a, b])
        #expect(bench.next() == [.probe(b)])
        bench.plan.setCandidates([b])
        #expect(bench.next() == [.lost(a)])
        // An answer of a relay that was let go.
        bench.refused(a)
        #expect(bench.plan.state(of: a) == nil)
        bench.plan.setCandidates([])
        #expect(bench.next() == [])
        #expect(bench.plan.wakeTime == nil)
    }

    @Test(arguments: [Int64(-5), 0, 10, 1 << 31]) func clocksThatDifferDoNoHarm(_ seconds: Int64) {
        let a = Self.peers[0]
        var bench = Bench()
        bench.plan.setCandidates([a])
        _ = bench.next()
        bench.probed(a, 5)
        _ = bench.next()
        bench.reserved(a, seconds: seconds)
        let slept = bench.sleep()
        #expect(slept >= .seconds(30) && slept <= .hours(24))
    }

    @Test func probesAndCandidatesAreBounded() {
        var bench = Bench {
            $0.maximumProbes = 2
            $0.maximumCandidates = 3
        }
        bench.plan.setCandidates(Self.peers)
        #expect(bench.next() == [.probe(Self.peers[0]), .probe(Self.peers[1])])
        bench.failed(Self.peers[0])
        #expect(bench.next() == [.probe(Self.peers[2])])
        #expect(bench.plan.state(of: Self.peers[3]) == nil)
    }

    /// Holds `a`, measured at 50 ms, and knows `b`.
    private func benchOfTwo() -> (Bench, a: PeerID, b: PeerID) {
        let (a, b) = (Self.peers[0], Self.peers[1])
        var bench = Bench()
        bench.plan.setCandidates([a])
        _ = bench.next()
        bench.probed(a, 50)
        _ = bench.next()
        bench.reserved(a)
        bench.plan.setCandidates([a, b])
        return (bench, a, b)
    }

    @Test func aNearerRelayIsReservedBeforeTheFartherIsLetGo() {
        var (bench, a, b) = self.benchOfTwo()
        // The new one is measured at once, and what is held with it; then twice more.
        for round in 0..<3 {
            #expect(bench.next() == [.probe(a), .probe(b)])
            bench.probed(b, 10)
            #expect(bench.next() == [])
            bench.probed(a, 50)
            guard round < 2 else { break }
            #expect(bench.next() == [])
            #expect(bench.sleep() == .seconds(20))
        }
        #expect(bench.next() == [.reserve(b)])
        #expect(bench.plan.state(of: a)?.holdsSlot == true)
        bench.reserved(b)
        #expect(bench.next() == [.replaced(a)])
        #expect(bench.plan.state(of: a) == .idle)
        #expect(bench.plan.state(of: b)?.holdsSlot == true)
        #expect(bench.next() == [])
    }

    @Test(arguments: [Int64(36), 46, 50, 90]) func aRelayThatIsLittleNearerChangesNothing(_ milliseconds: Int64) {
        var (bench, a, b) = self.benchOfTwo()
        for _ in 0..<5 {
            #expect(bench.next() == [.probe(a), .probe(b)])
            bench.probed(a, 50)
            bench.probed(b, milliseconds)
            #expect(bench.next() == [])
            #expect(bench.sleep() == .minutes(5))
        }
        #expect(bench.plan.state(of: a)?.holdsSlot == true)
    }

    /// One good measurement, or two, are not enough.
    @Test func whatPassesChangesNothing() {
        var (bench, a, b) = self.benchOfTwo()
        for round in 0..<9 {
            #expect(bench.next() == [.probe(a), .probe(b)])
            bench.probed(a, 50)
            bench.probed(b, round % 3 == 2 ? 60 : 10)
            #expect(bench.next() == [])
            #expect(bench.sleep() == (round % 3 == 2 ? .minutes(5) : .seconds(20)))
        }
    }

    @Test func aNearerRelayThatRefusesCostsNothing() {
        var (bench, a, b) = self.benchOfTwo()
        for _ in 0..<3 {
            #expect(bench.next() == [.probe(a), .probe(b)])
            bench.probed(a, 50)
            bench.probed(b, 10)
            if bench.next() == [] { _ = bench.sleep() }
        }
        bench.refused(b)
        #expect(bench.next() == [])
        #expect(bench.plan.state(of: a)?.holdsSlot == true)
    }

    /// Whoever does not answer a measurement is neither waited for nor, if it is held, let go.
    @Test func measurementsMayFail() {
        var (bench, a, b) = self.benchOfTwo()
        #expect(bench.next() == [.probe(a), .probe(b)])
        bench.failed(a)
        bench.failed(b)
        #expect(bench.next() == [])
        #expect(bench.plan.state(of: a)?.holdsSlot == true)
        #expect(bench.plan.state(of: b)?.holdsSlot == false)
    }

    @Test func withoutAWishNothingIsAsked() {
        var bench = Bench(wanted: 0)
        bench.plan.setCandidates(Self.peers)
        #expect(bench.next() == [])
        #expect(bench.plan.wakeTime == nil)
    }

    /// Whatever happens in whatever order, no more reservations are held or asked for than are wanted.
    @Test func randomEventsKeepTheBounds() {
        let seed = UInt64.random(in: .min ... .max)
        print("seed \(seed)")
        var random = SeededGenerator(seed: seed)
        var bench = Bench(wanted: 2)
        bench.plan.setCandidates(Self.peers)
        for _ in 0..<5000 {
            _ = bench.next()
            let holding = Self.peers.filter { peer in
                switch bench.plan.state(of: peer) {
                case .reserving, .reserved, .refreshing: true
                default: false
                }
            }
            // One more while the place of another is taken.
            #expect(holding.count <= 3)
            #expect(holding.count { bench.plan.state(of: $0)?.holdsSlot == true } <= 2)
            let peer = Self.peers.randomElement(using: &random) ?? Self.peers[0]
            switch Int.random(in: 0..<7, using: &random) {
            case 0: bench.probed(peer, Int64.random(in: 1...99, using: &random))
            case 1, 2: bench.reserved(peer, seconds: Int64.random(in: 0...4000, using: &random))
            case 3: bench.refused(peer)
            case 4: bench.failed(peer)
            case 5: bench.plan.disconnected(peer, now: bench.now)
            default: _ = bench.sleep()
            }
        }
    }
}
