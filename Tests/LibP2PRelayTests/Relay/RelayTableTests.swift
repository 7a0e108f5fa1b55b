import MeshCore
import Multiformats
import NIOCore
import PeerIdentity
import Testing

@testable import LibP2PRelay

@Suite struct RelayTableTests {
    static let peers = (0..<8).map { _ in KeyPair.generate().peerID }

    private func table(_ configure: (inout RelayServiceConfiguration) -> Void = { _ in }) -> RelayTable {
        var configuration = RelayServiceConfiguration()
        configuration.acceptsUnreserved = false
        configure(&configuration)
        return RelayTable(configuration: configuration)
    }

    private func at(_ seconds: Int64) -> NIODeadline { .uptimeNanoseconds(0) + .seconds(seconds) }

    @Test func reservationsEndWithTheirTime() {
        var table = self.table { $0.reservationLifetime = .seconds(60) }
        let (a, b) = (Self.peers[0], Self.peers[1])
        #expect(table.reserve(a, origin: nil, now: self.at(0)) == .ok)
        #expect(table.beginCircuit(from: b, to: a, isConnected: true, now: self.at(59)) == .ok)
        #expect(table.beginCircuit(from: b, to: a, isConnected: true, now: self.at(60)) == .noReservation)
        #expect(table.reserve(a, origin: nil, now: self.at(60)) == .ok)
        #expect(table.beginCircuit(from: b, to: a, isConnected: true, now: self.at(119)) == .ok)
        #expect(table.expire(now: self.at(119)) == [])
        #expect(table.expire(now: self.at(120)) == [a])
        #expect(table.reservationCount == 0)
    }

    @Test func requestsOfAPeerAreRateLimited() {
        var table = self.table { $0.reservationRequestsPerPeer = 3 }
        let (a, b) = (Self.peers[0], Self.peers[1])
        for _ in 0..<3 { #expect(table.reserve(a, origin: nil, now: self.at(0)) == .ok) }
        #expect(table.reserve(a, origin: nil, now: self.at(0)) == .resourceLimitExceeded)
        // It keeps what it has, others are not concerned, and time heals.
        #expect(table.reservationCount == 1)
        #expect(table.reserve(b, origin: nil, now: self.at(0)) == .ok)
        #expect(table.reserve(a, origin: nil, now: self.at(19)) == .resourceLimitExceeded)
        #expect(table.reserve(a, origin: nil, now: self.at(21)) == .ok)
    }

    @Test func requestsOfAnAddressAreRateLimited() throws {
        var table = self.table { $0.reservationRequestsPerAddress = 2 }
        let origin = try #require(IPAddress("2001:db8::1"))
        let neighbour = try #require(IPAddress("2001:db8::2"))
        let other = try #require(IPAddress("2001:db8:0:1::1"))
        #expect(table.reserve(Self.peers[0], origin: origin, now: self.at(0)) == .ok)
        #expect(table.reserve(Self.peers[1], origin: neighbour, now: self.at(0)) == .ok)
        #expect(table.reserve(Self.peers[2], origin: origin, now: self.at(0)) == .resourceLimitExceeded)
        #expect(table.reserve(Self.peers[2], origin: other, now: self.at(0)) == .ok)
    }

    @Test func countedRequestersAreBounded() {
        var limiter = RateLimiter<Int>(perMinute: 2, maximum: 3)
        for key in 0..<3 {
            let isAdmitted = limiter.admit(key, now: self.at(0))
            #expect(isAdmitted)
        }
        let isFourth = limiter.admit(3, now: self.at(0))
        #expect(!isFourth)
        #expect(limiter.count == 3)
        // A minute later nothing is known of them any more.
        let isLater = limiter.admit(3, now: self.at(61))
        #expect(isLater)
        #expect(limiter.count == 1)
    }

    @Test func theTotalIsBounded() {
        var table = self.table { $0.maximumReservations = 2 }
        #expect(table.reserve(Self.peers[0], origin: nil, now: self.at(0)) == .ok)
        #expect(table.reserve(Self.peers[1], origin: nil, now: self.at(0)) == .ok)
        #expect(table.reserve(Self.peers[2], origin: nil, now: self.at(0)) == .reservationRefused)
        // Who has a slot may always renew it.
        #expect(table.reserve(Self.peers[0], origin: nil, now: self.at(1)) == .ok)
        let released = table.release(Self.peers[0])
        #expect(released)
        #expect(table.reserve(Self.peers[2], origin: nil, now: self.at(1)) == .ok)
    }

    @Test(arguments: [
        // Another address, one more of the same, an address that counts as the same.
        ("192.0.2.1", "192.0.2.2", "192.0.2.1"), ("2001:db8::1", "2001:db8:0:1::1", "2001:db8::ffff:2"),
        ("::ffff:192.0.2.1", "192.0.2.2", "192.0.2.1"),
    ]) func addressesAreBounded(_ first: String, _ other: String, _ same: String) throws {
        var table = self.table { $0.maximumReservationsPerAddress = 1 }
        let (first, other, same) = (
            try #require(IPAddress(first)), try #require(IPAddress(other)), try #require(IPAddress(same))
        )
        #expect(table.reserve(Self.peers[0], origin: first, now: self.at(0)) == .ok)
        #expect(table.reserve(Self.peers[1], origin: same, now: self.at(0)) == .reservationRefused)
        #expect(table.reserve(Self.peers[2], origin: other, now: self.at(0)) == .ok)
        table.release(Self.peers[0])
        #expect(table.reserve(Self.peers[1], origin: same, now: self.at(0)) == .ok)
    }

    @Test func circuitsCountAtBothEnds() {
        var table = self.table {
            $0.maximumCircuitsPerPeer = 2
            $0.acceptsUnreserved = true
        }
        let (a, b, c, d) = (Self.peers[0], Self.peers[1], Self.peers[2], Self.peers[3])
        #expect(table.beginCircuit(from: a, to: b, isConnected: true, now: self.at(0)) == .ok)
        #expect(table.beginCircuit(from: b, to: c, isConnected: true, now: self.at(0)) == .ok)
        #expect(table.beginCircuit(from: b, to: d, isConnected: true, now: self.at(0)) == .resourceLimitExceeded)
        #expect(table.beginCircuit(from: d, to: b, isConnected: true, now: self.at(0)) == .resourceLimitExceeded)
        #expect(table.circuits == 2)
        table.endCircuit(from: a, to: b)
        #expect(table.circuitCount(of: a) == 0)
        #expect(table.beginCircuit(from: d, to: b, isConnected: true, now: self.at(0)) == .ok)
    }

    @Test func allCircuitsAreBounded() {
        var table = self.table {
            $0.maximumCircuits = 1
            $0.acceptsUnreserved = true
        }
        #expect(table.beginCircuit(from: Self.peers[0], to: Self.peers[1], isConnected: true, now: self.at(0)) == .ok)
        #expect(
            table.beginCircuit(from: Self.peers[2], to: Self.peers[3], isConnected: true, now: self.at(0))
                == .resourceLimitExceeded
        )
    }

    @Test(arguments: [
        // accepts unreserved, reserved, connected
        (false, false, true, CircuitStatus.noReservation), (false, true, true, .ok),
        (false, true, false, .noReservation),
        (true, false, true, .ok), (true, false, false, .noReservation),
    ]) func whoCanBeReached(_ acceptsUnreserved: Bool, _ isReserved: Bool, _ isConnected: Bool, _ status: CircuitStatus)
    {
        var table = self.table { $0.acceptsUnreserved = acceptsUnreserved }
        if isReserved { _ = table.reserve(Self.peers[1], origin: nil, now: self.at(0)) }
        #expect(
            table.beginCircuit(from: Self.peers[0], to: Self.peers[1], isConnected: isConnected, now: self.at(0))
                == status
        )
    }

    @Test func nobodyIsConnectedToHimself() {
        var table = self.table { $0.acceptsUnreserved = true }
        #expect(
            table.beginCircuit(from: Self.peers[0], to: Self.peers[0], isConnected: true, now: self.at(0))
                == .permissionDenied
        )
    }
}
