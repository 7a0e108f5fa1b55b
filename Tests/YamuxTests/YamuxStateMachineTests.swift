import NIOCore
import Testing

@testable import Yamux

@Suite struct YamuxSessionStateMachineTests {
    typealias Action = YamuxSessionStateMachine.Action
    private static let now = NIODeadline.uptimeNanoseconds(0)

    /// A client's session: its streams are odd, 1 is open, 3 was open; the peer's 2 is open, 4 was.
    private static func session() throws -> YamuxSessionStateMachine {
        var machine = YamuxSessionStateMachine(role: .client, configuration: .init(), now: self.now)
        #expect(try machine.open() == 1)
        #expect(try machine.open() == 3)
        machine.closed(3)
        for id in [2, 4] as [UInt32] {
            #expect(
                try machine.receive(.init(.windowUpdate, .syn, streamID: id), isOpen: false, now: self.now) == .open
            )
            machine.accepted()
        }
        machine.closed(4)
        return machine
    }

    @Test(
        arguments: [
            (.init(.data, streamID: 1, length: 5), true, .deliver),
            (.init(.windowUpdate, streamID: 2, length: 5), true, .deliver),
            (.init(.data, streamID: 3, length: 5), false, .ignore),
            (.init(.data, .fin, streamID: 4, length: 5), false, .ignore),
            (.init(.windowUpdate, .rst, streamID: 4), false, .ignore),
            (.init(.data, streamID: 5), false, nil),
            (.init(.windowUpdate, streamID: 6), false, nil),
            (.init(.windowUpdate, .rst, streamID: 8), false, nil),
            (.init(.windowUpdate, .syn, streamID: 2), true, nil),
            (.init(.windowUpdate, .syn, streamID: 5), false, nil),
            (.init(.windowUpdate, .syn, streamID: 1), true, nil),
            (.init(.windowUpdate, .syn, streamID: 6), false, .open),
            (.init(.windowUpdate, .syn, streamID: 4), false, .open),
            (.init(.data, .syn, streamID: 8, length: 256 * 1024), false, .open),
            (.init(.data, .syn, streamID: 8, length: 256 * 1024 + 1), false, nil),
            (.init(.windowUpdate, [.syn, .rst], streamID: 8), false, .ignore),
            (.init(.ping, .syn, length: 9), false, .answerPing(9)),
            (.init(.ping, .ack, length: 9), false, .pong(9)),
            (.init(.ping, length: 9), false, .pong(9)),
            (.init(.goAway, length: 1), false, .goAway(.protocolError)),
        ] as [(YamuxFrameHeader, Bool, Action?)]
    )
    func frames(_ header: YamuxFrameHeader, isOpen: Bool, expected: Action?) throws {
        var machine = try Self.session()
        do throws(YamuxError) {
            #expect(try machine.receive(header, isOpen: isOpen, now: Self.now) == expected)
        } catch {
            #expect(expected == nil)
            #expect(error.code == .protocolViolation)
        }
    }

    @Test func streamsBeyondALimitAreRefused() throws {
        var configuration = YamuxConfiguration()
        configuration.maximumInboundStreams = 3
        configuration.acceptBacklog = 2
        configuration.maximumOutboundStreams = 1
        var machine = YamuxSessionStateMachine(role: .server, configuration: configuration, now: Self.now)
        func syn(_ id: UInt32) throws -> Action {
            try machine.receive(.init(.windowUpdate, .syn, streamID: id), isOpen: false, now: Self.now)
        }
        #expect(try syn(1) == .open)
        #expect(try syn(3) == .open)
        #expect(try syn(5) == .refuse)
        machine.accepted()
        #expect(try syn(7) == .open)
        machine.accepted()
        #expect(try syn(9) == .refuse)
        machine.closed(1)
        #expect(try syn(11) == .open)
        #expect(try machine.open() == 2)
        #expect(#expect(throws: YamuxError.self) { try machine.open() }?.code == .limitExceeded)
        machine.closed(2)
        #expect(try machine.open() == 4)
        machine.isDraining = true
        #expect(try syn(13) == .refuse)
        #expect(#expect(throws: YamuxError.self) { try machine.open() }?.code == .sessionClosed)
    }

    @Test func streamIDsRunOut() throws {
        var machine = YamuxSessionStateMachine(role: .client, configuration: .init(), now: Self.now)
        machine.skip(to: .max - 2)
        #expect(try machine.open() == .max - 2)
        #expect(#expect(throws: YamuxError.self) { try machine.open() }?.code == .limitExceeded)
    }

    @Test func aGoAwayEndsOpening() throws {
        var machine = YamuxSessionStateMachine(role: .client, configuration: .init(), now: Self.now)
        _ = try machine.receive(.init(.goAway), isOpen: false, now: Self.now)
        #expect(#expect(throws: YamuxError.self) { try machine.open() }?.code == .remoteGoAway)
    }

    @Test func pingsAndResetsAreLimitedByRate() throws {
        var configuration = YamuxConfiguration()
        configuration.pingBurst = 3
        configuration.pingsPerSecond = 1
        configuration.resetBurst = 2
        configuration.maximumInboundStreams = 2
        configuration.resetsPerSecond = 1
        var machine = YamuxSessionStateMachine(role: .server, configuration: configuration, now: Self.now)
        func receive(_ header: YamuxFrameHeader, at seconds: Int64) throws {
            _ = try machine.receive(header, isOpen: true, now: Self.now + .seconds(seconds))
        }
        for _ in 0..<3 { try receive(.init(.ping, .syn), at: 0) }
        #expect(#expect(throws: YamuxError.self) { try receive(.init(.ping, .syn), at: 0) }?.code == .limitExceeded)
        try receive(.init(.ping, .syn), at: 1)
        for _ in 0..<2 { try receive(.init(.windowUpdate, .rst, streamID: 1), at: 1) }
        #expect(throws: YamuxError.self) { try receive(.init(.windowUpdate, .rst, streamID: 1), at: 1) }
        // Resets of our own streams are what we asked for.
        for _ in 0..<9 { try receive(.init(.windowUpdate, .rst, streamID: 2), at: 1) }
    }

    @Test func roundTripsAreSmoothed() {
        var roundTrip = YamuxRoundTrip()
        #expect(roundTrip.ping(now: Self.now) == 0)
        #expect(roundTrip.ping(now: Self.now) == nil)
        #expect(roundTrip.pong(5, now: Self.now + .milliseconds(1)) == nil)
        #expect(roundTrip.pong(0, now: Self.now + .milliseconds(40)) == .milliseconds(40))
        #expect(roundTrip.pong(0, now: Self.now + .milliseconds(50)) == nil)
        #expect(roundTrip.ping(now: Self.now) == 1)
        #expect(roundTrip.pong(1, now: Self.now + .milliseconds(20)) == .milliseconds(30))
    }
}

@Suite struct YamuxStreamStateMachineTests {
    private static let now = NIODeadline.uptimeNanoseconds(0)

    private static func stream(inbound: Bool = false) -> YamuxStreamStateMachine {
        YamuxStreamStateMachine(inbound: inbound, now: self.now)
    }

    @Test func theFirstFrameCarriesTheFlag() throws {
        var outbound = Self.stream()
        #expect(outbound.takeFlags() == .syn)
        #expect(outbound.takeFlags() == [])
        var inbound = Self.stream(inbound: true)
        #expect(inbound.takeFlags() == .ack)
        #expect(inbound.takeFlags() == [])
        // Any answer acknowledges, once.
        #expect(try outbound.receive(.init(.data, streamID: 1, length: 1)) == .init(acknowledged: true))
        #expect(try outbound.receive(.init(.data, .ack, streamID: 1, length: 1)) == .init())
    }

    @Test func dataIsHeldToTheWindow() throws {
        var stream = Self.stream(inbound: true)
        _ = try stream.receive(.init(.data, streamID: 1, length: 256 * 1024))
        let error = #expect(throws: YamuxError.self) { try stream.receive(.init(.data, streamID: 1, length: 1)) }
        #expect(error?.code == .protocolViolation)
    }

    @Test func theWindowMayNotOverflow() throws {
        var stream = Self.stream(inbound: true)
        _ = try stream.receive(.init(.windowUpdate, streamID: 1, length: .max - 256 * 1024))
        let error = #expect(throws: YamuxError.self) {
            try stream.receive(.init(.windowUpdate, streamID: 1, length: 1))
        }
        #expect(error?.code == .protocolViolation)
    }

    @Test func anEmptyWindowOpens() throws {
        var stream = Self.stream(inbound: true)
        stream.sent(256 * 1024)
        #expect(stream.sendWindow == 0)
        #expect(try stream.receive(.init(.windowUpdate, streamID: 1)) == .init())
        #expect(try stream.receive(.init(.windowUpdate, streamID: 1, length: 1)) == .init(windowOpened: true))
        #expect(try stream.receive(.init(.windowUpdate, streamID: 1, length: 1)) == .init())
    }

    @Test func bothEndsFinishAStream() throws {
        var stream = Self.stream(inbound: true)
        let (first, second) = (stream.beginEnd(), stream.beginEnd())
        #expect((first, second) == (true, false))
        stream.endInput()
        #expect(!stream.isFinished)
        stream.sentEnd()
        #expect(stream.isFinished)
        #expect(throws: YamuxError.self) { try stream.receive(.init(.data, streamID: 1, length: 1)) }
    }

    @Test func aResetFinishesAStreamAndItsLengthIsNoWindow() throws {
        var stream = Self.stream(inbound: true)
        #expect(try stream.receive(.init(.windowUpdate, .rst, streamID: 1, length: .max)).reset)
        #expect(stream.isFinished)
    }

    @Test func theWindowGrowsWhenItIsWhatHoldsThePeerBack() throws {
        var window = YamuxReceiveWindow(now: Self.now)
        let initial = UInt32(YamuxConfiguration.initialWindowBytes)
        func use(_ window: inout YamuxReceiveWindow, at milliseconds: Int64, budget: Int = .max) throws -> UInt32? {
            try window.receive(window.credit)
            window.read(Int(window.unread))
            return window.takeUpdate(
                now: Self.now + .milliseconds(milliseconds),
                roundTripTime: .milliseconds(10),
                maximum: 1024 * 1024
            ) { min($0, budget) }
        }
        #expect(try use(&window, at: 40) == initial)
        #expect(window.size == initial)
        #expect(try use(&window, at: 79) == 2 * initial)
        #expect(window.size == 2 * initial)
        #expect(try use(&window, at: 90, budget: 0) == 2 * initial)
        #expect(try use(&window, at: 100) == 4 * initial)
        #expect(try use(&window, at: 101) == 4 * initial)
        #expect(window.growth == 3 * Int(initial))
    }

    @Test func onlyReadBytesOpenTheWindow() throws {
        var window = YamuxReceiveWindow(now: Self.now)
        try window.receive(window.credit)
        #expect(!window.isUpdateDue)
        window.read(128 * 1024 - 1)
        #expect(!window.isUpdateDue)
        window.read(1)
        let update = window.takeUpdate(now: Self.now, roundTripTime: nil, maximum: .max) { $0 }
        #expect(update == 131_072)
        #expect(!window.isUpdateDue)
    }
}
