import Multiformats
import NIOCore
import Testing

@testable import LibP2PRelay

@Suite struct ObservedAddressTableTests {
    static let local = addr("/ip4/192.168.1.2/tcp/4001")
    static let outside = addr("/ip4/1.2.3.4/tcp/4001")
    static let start = NIODeadline.uptimeNanoseconds(0)

    func table(_ change: (inout ObservedAddressConfiguration) -> Void = { _ in }) -> ObservedAddressTable {
        var configuration = ObservedAddressConfiguration()
        change(&configuration)
        return ObservedAddressTable(configuration: configuration)
    }

    func observer(_ number: Int) -> Multiaddr { addr("/ip4/9.9.\(number / 256).\(number % 256)/tcp/1") }

    @Test func anAddressIsConfirmedByEnoughObservers() {
        var table = self.table()
        for number in 1...4 {
            #expect(table.confirmed().isEmpty)
            table.record(
                Self.outside,
                local: Self.local,
                remote: self.observer(number),
                connection: UInt64(number),
                now: Self.start
            )
            #expect(table.candidates() == [Self.outside])
        }
        #expect(table.confirmed() == [Self.outside])
    }

    @Test func oneObserverCountsOnceAndItsNewestOpinionHolds() {
        var table = self.table { $0.observersNeeded = 2 }
        for number in 1...8 {
            // One IP address, or one /64 of IPv6.
            table.record(
                addr("/ip6/2600::1/tcp/\(number)"),
                local: addr("/ip6/2600::2/tcp/4001"),
                remote: addr("/ip6/2601::\(number)/tcp/\(number)"),
                connection: UInt64(number),
                now: Self.start
            )
        }
        #expect(table.confirmed().isEmpty)
        #expect(table.candidates() == [addr("/ip6/2600::1/tcp/8")])
    }

    @Test func opinionsOutliveTheirConnectionForALittle() {
        var table = self.table { $0.observersNeeded = 1 }
        table.record(Self.outside, local: Self.local, remote: self.observer(1), connection: 1, now: Self.start)
        table.expire(now: Self.start + .hours(5))
        #expect(table.confirmed() == [Self.outside])
        table.closed(connection: 1, now: Self.start + .hours(5))
        table.expire(now: Self.start + .hours(5) + .minutes(9))
        #expect(table.confirmed() == [Self.outside])
        table.expire(now: Self.start + .hours(5) + .minutes(10))
        #expect(table.confirmed().isEmpty)
        #expect(table.count == 0)
    }

    @Test func theEndOfAnOlderConnectionDoesNotAgeANewerOpinion() {
        var table = self.table { $0.observersNeeded = 1 }
        table.record(Self.outside, local: Self.local, remote: self.observer(1), connection: 1, now: Self.start)
        table.record(Self.outside, local: Self.local, remote: self.observer(1), connection: 2, now: Self.start)
        table.closed(connection: 1, now: Self.start)
        table.expire(now: Self.start + .hours(1))
        #expect(table.confirmed() == [Self.outside])
    }

    @Test func portsOfAChangingNATAreBounded() {
        var table = self.table()
        for number in 1...50 {
            table.record(
                addr("/ip4/1.2.3.4/tcp/\(number)"),
                local: Self.local,
                remote: self.observer(number),
                connection: UInt64(number),
                now: Self.start
            )
        }
        #expect(table.candidates().count == 2)
    }

    @Test func theTableIsBounded() {
        var table = self.table { $0.maximumObservations = 3 }
        for number in 1...5 {
            table.record(
                Self.outside,
                local: Self.local,
                remote: self.observer(number),
                connection: UInt64(number),
                now: Self.start
            )
        }
        #expect(table.count == 3)
        #expect(table.dropped == 2)
        // Closed ones make room.
        table.closed(connection: 1, now: Self.start)
        table.record(Self.outside, local: Self.local, remote: self.observer(9), connection: 9, now: Self.start)
        #expect(table.count == 3)
        #expect(table.dropped == 2)
    }

    @Test func addressesOfClosedListenersAreForgotten() {
        var table = self.table { $0.observersNeeded = 1 }
        table.record(Self.outside, local: Self.local, remote: self.observer(1), connection: 1, now: Self.start)
        table.keep(listening: [addr("/ip4/192.168.1.3/tcp/4001")])
        #expect(table.candidates().isEmpty)
    }

    static let useful: [(String, String, Bool)] = [
        ("/ip4/1.2.3.4/tcp/9", "/ip4/192.168.1.2/tcp/4001", true),
        ("/ip4/10.9.9.9/tcp/9", "/ip4/192.168.1.2/tcp/4001", true),
        ("/ip4/1.2.3.4/tcp/9/ws", "/ip4/192.168.1.2/tcp/4002/ws", true),
        // From a port at which nothing listens.
        ("/ip4/1.2.3.4/tcp/9", "/ip4/192.168.1.2/tcp/50001", false),
        // Other layers than the connection's, another family, no port, places that nobody reaches.
        ("/ip4/1.2.3.4/tcp/9/ws", "/ip4/192.168.1.2/tcp/4001", false),
        ("/ip4/1.2.3.4/udp/9", "/ip4/192.168.1.2/tcp/4001", false),
        ("/ip6/2600::1/tcp/9", "/ip4/192.168.1.2/tcp/4001", false),
        ("/ip4/1.2.3.4/tcp/0", "/ip4/192.168.1.2/tcp/4001", false),
        ("/ip4/127.0.0.1/tcp/9", "/ip4/192.168.1.2/tcp/4001", false),
        ("/ip4/224.0.0.1/tcp/9", "/ip4/192.168.1.2/tcp/4001", false),
        ("/dns4/example.com/tcp/9", "/ip4/192.168.1.2/tcp/4001", false),
        // Known already.
        ("/ip4/192.168.1.2/tcp/4001", "/ip4/192.168.1.2/tcp/4001", false),
    ]

    @Test(arguments: useful) func onlyObservationsOfListeningPortsAreOfUse(
        _ observed: String,
        _ local: String,
        _ isOfUse: Bool
    ) {
        let listening = [addr("/ip4/192.168.1.2/tcp/4001"), addr("/ip4/192.168.1.2/tcp/4002/ws")]
        #expect(ObservedAddressTable.isOfUse(addr(observed), local: addr(local), listening: listening) == isOfUse)
    }
}
