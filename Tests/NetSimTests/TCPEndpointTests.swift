import MeshCore
import NIOCore
import Testing

@testable import NetSim

/// Two endpoints and a wire that loses what the test says.
@Suite struct TCPEndpointTests {
    private struct Pair {
        var now = SimulatedLoop.start
        var a: TCPEndpoint
        var b: TCPEndpoint?
        var events: (a: [TCPEndpoint.Event], b: [TCPEndpoint.Event]) = ([], [])
        var sent = 0
        /// Whether the segment of that number gets lost.
        var loses: (Int, TCPSegment) -> Bool = { _, _ in false }
        var configuration: TCPConfiguration

        init(_ configuration: TCPConfiguration = TCPConfiguration()) {
            self.configuration = configuration
            self.a = TCPEndpoint(connectingAt: self.now, initialSequence: 1000, configuration: configuration)
        }

        /// Lets the network and time do what they have to until nothing happens any more.
        mutating func settle(until limit: TimeAmount = .hours(1)) {
            let end = self.now + limit
            while true {
                self.exchange()
                let deadlines = [self.a, self.b].compactMap { $0?.state == .closed ? nil : $0?.deadline }
                guard let next = deadlines.min(), next <= end else { return }
                self.now = max(self.now, next)
                self.a.timeHasCome(self.now)
                self.b?.timeHasCome(self.now)
            }
        }

        private mutating func exchange() {
            while true {
                let fromA = self.a.output
                let fromB = self.b?.output ?? []
                self.a.output = []
                self.b?.output = []
                self.events.a += self.a.events
                self.events.b += self.b?.events ?? []
                self.a.events = []
                self.b?.events = []
                guard !fromA.isEmpty || !fromB.isEmpty else { return }
                for segment in fromA where !self.isLost(segment) {
                    if self.b == nil, segment.flags == .syn {
                        self.b = TCPEndpoint(
                            accepting: segment,
                            at: self.now,
                            initialSequence: 5000,
                            configuration: self.configuration
                        )
                    } else {
                        self.b?.receive(segment, at: self.now)
                    }
                }
                for segment in fromB where !self.isLost(segment) { self.a.receive(segment, at: self.now) }
            }
        }

        private mutating func isLost(_ segment: TCPSegment) -> Bool {
            self.sent += 1
            return self.loses(self.sent, segment)
        }

        mutating func readAllOfB() -> [UInt8] {
            var bytes: [UInt8] = []
            while let next = self.b?.read(upTo: 1 << 20) { bytes += Array(buffer: next) }
            return bytes
        }
    }

    @Test func threeSegmentsMakeAConnection() {
        var pair = Pair()
        pair.settle()
        #expect(pair.a.state == .established && pair.b?.state == .established)
        #expect(pair.events.a == [.connected] && pair.events.b == [.connected])
        #expect(pair.sent == 3)
    }

    /// RFC 9293 figure 8: both ends send a SYN, and one connection comes of it.
    @Test func bothEndsMayOpen() {
        var pair = Pair()
        pair.b = TCPEndpoint(connectingAt: pair.now, initialSequence: 5000, configuration: pair.configuration)
        pair.settle()
        #expect(pair.a.state == .established && pair.b?.state == .established)
        #expect(pair.events.a == [.connected] && pair.events.b == [.connected])
        pair.a.write([ByteBuffer(string: "hello")], at: pair.now)
        pair.settle()
        #expect(pair.readAllOfB() == Array("hello".utf8))
    }

    @Test(arguments: 1...3)
    func aLostSegmentOfTheHandshakeIsSentAgain(_ number: Int) {
        var pair = Pair()
        pair.loses = { sent, _ in sent == number }
        pair.a.write([ByteBuffer(string: "hello")], at: pair.now)
        pair.settle()
        #expect(pair.readAllOfB() == Array("hello".utf8))
    }

    @Test func aSilentPeerIsGivenUpAfterTwoMinutes() {
        var pair = Pair()
        pair.loses = { _, _ in true }
        let start = pair.now
        pair.settle()
        #expect(pair.events.a == [.failed(.timedOut)])
        #expect(pair.sent == 7)
        #expect(pair.now - start == .seconds(127))
    }

    @Test func anEstablishedConnectionFailsWithoutAnswers() {
        var pair = Pair()
        pair.settle()
        pair.loses = { _, _ in true }
        pair.a.write([ByteBuffer(string: "hello")], at: pair.now)
        pair.settle()
        #expect(pair.events.a.last == .failed(.timedOut))
    }

    @Test func aResetRefuses() {
        var pair = Pair()
        pair.a.receive(TCPSegment([.rst, .ack], sequence: 0, acknowledgement: 1001), at: pair.now)
        pair.settle()
        #expect(pair.events.a == [.failed(.refused)])
        // One for something else does not.
        var other = Pair()
        other.a.receive(TCPSegment([.rst, .ack], sequence: 0, acknowledgement: 77), at: other.now)
        #expect(other.a.state == .synSent)
    }

    @Test func aResetEndsAConnectionOnlyInItsWindow() {
        var pair = Pair()
        pair.settle()
        pair.b?.receive(TCPSegment(.rst, sequence: 3), at: pair.now)
        #expect(pair.b?.state == .established)
        pair.b?.receive(TCPSegment(.rst, sequence: 1001), at: pair.now)
        pair.settle()
        #expect(pair.events.b == [.connected, .failed(.reset)])
    }

    /// Bytes come in order and once, whatever is lost.
    @Test(arguments: 1...20)
    func lossOnlyDelays(_ seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var pair = Pair()
        pair.settle()
        let lost = (0..<4000).map { _ in Double.random(in: 0..<1, using: &generator) < 0.2 }
        pair.loses = { sent, _ in sent < lost.count && lost[sent] }
        var expected: [UInt8] = []
        for index in 0..<50 {
            let part = [UInt8](repeating: UInt8(index), count: Int.random(in: 1...9000, using: &generator))
            expected += part
            pair.a.write([ByteBuffer(bytes: part)], at: pair.now)
        }
        pair.a.closeOutput(at: pair.now)
        pair.settle()
        #expect(pair.readAllOfB() == expected, "seed \(seed)")
        #expect(pair.b?.isEndOfInput == true)
    }

    @Test func aReaderThatDoesNotReadStopsTheSender() {
        var configuration = TCPConfiguration()
        configuration.receiveBuffer = 10_000
        configuration.sendBuffer = 50_000
        var pair = Pair(configuration)
        pair.settle()
        pair.a.write([ByteBuffer(repeating: 7, count: 30_000)], at: pair.now)
        pair.settle(until: .minutes(1))
        #expect(pair.b?.receive.readyBytes == 10_000)
        #expect(pair.a.space == 30_000)
        #expect(pair.a.state == .established)
        // The word that the window is open gets lost: the sender asks.
        let sent = pair.sent
        pair.loses = { number, segment in number == sent + 1 && segment.length == 0 }
        #expect(pair.readAllOfB().count == 10_000)
        pair.settle(until: .minutes(10))
        #expect(pair.readAllOfB().count == 10_000)
        pair.settle(until: .minutes(10))
        #expect(pair.readAllOfB().count == 10_000)
    }

    @Test func halvesCloseOneByOne() {
        var pair = Pair()
        pair.settle()
        pair.a.write([ByteBuffer(string: "bye")], at: pair.now)
        pair.a.closeOutput(at: pair.now)
        pair.settle(until: .seconds(10))
        #expect(pair.readAllOfB() == Array("bye".utf8))
        #expect(pair.b?.isEndOfInput == true)
        #expect(pair.events.a.last == .outputClosed)
        pair.b?.write([ByteBuffer(string: "later")], at: pair.now)
        pair.b?.closeOutput(at: pair.now)
        pair.settle(until: .seconds(10))
        #expect(pair.a.read(upTo: 100).map { String(buffer: $0) } == "later")
        #expect(pair.b?.state == .closed)
        #expect(pair.a.state == .timeWait)
        pair.settle(until: .minutes(2))
        #expect(pair.a.state == .closed)
    }

    @Test func whatIsNotReadIsReset() {
        var pair = Pair()
        pair.settle()
        pair.a.write([ByteBuffer(string: "hello")], at: pair.now)
        pair.settle()
        pair.b?.close(at: pair.now)
        pair.settle()
        #expect(pair.events.a.last == .failed(.reset))
    }

    @Test func whatComesForNobodyIsReset() {
        var pair = Pair()
        pair.settle()
        pair.b?.close(at: pair.now)
        pair.settle(until: .seconds(1))
        #expect(pair.events.a.last == .readable)
        pair.a.write([ByteBuffer(string: "hello")], at: pair.now)
        pair.settle(until: .seconds(1))
        #expect(pair.events.a.last == .failed(.reset))
    }

    @Test func onlyAnOpeningConnectionFailsByICMP() {
        var pair = Pair()
        pair.a.unreachable(.host)
        pair.settle()
        #expect(pair.events.a == [.failed(.unreachable(.host))])
        var open = Pair()
        open.settle()
        open.a.unreachable(.host)
        open.settle()
        #expect(open.a.state == .established)
    }
}
