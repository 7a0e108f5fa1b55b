import MeshCore
import NIOCore

/// Which side of the connection this is: the client's streams are odd, the server's even.
public enum YamuxRole: Sendable {
    case client, server
}

/// A session as the protocol sees it: which streams may be opened and what a frame means. No bytes, no streams, no I/O.
struct YamuxSessionStateMachine {
    /// What is to be done with a frame.
    enum Action: Equatable {
        /// The frame is of a stream that is open.
        case deliver
        /// The frame opens a stream, and is then delivered to it.
        case open
        /// The frame would open a stream that may not be: it is reset.
        case refuse
        /// The frame is of a stream that is no more, or an answer to nothing.
        case ignore
        case answerPing(UInt32)
        case pong(UInt32)
        case goAway(GoAwayCode)
    }

    private let isClient: Bool
    private let maximumInbound: Int
    private let maximumOutbound: Int
    private let acceptBacklog: Int
    private var nextStreamID: UInt32
    /// The highest stream that the peer has opened; what is above was never open.
    private var highestRemoteID: UInt32 = 0
    private(set) var inbound = 0
    private(set) var outbound = 0
    private(set) var pendingAccepts = 0
    private(set) var remoteGoAway: GoAwayCode?
    /// New streams are refused: the session is about to end.
    var isDraining = false
    private var resets: TokenBucket
    private var pings: TokenBucket

    init(role: YamuxRole, configuration: YamuxConfiguration, now: NIODeadline) {
        self.isClient = role == .client
        self.nextStreamID = role == .client ? 1 : 2
        self.maximumInbound = configuration.maximumInboundStreams
        self.maximumOutbound = configuration.maximumOutboundStreams
        self.acceptBacklog = configuration.acceptBacklog
        let time = MonotonicTime(now)
        // A peer whose program ends resets all that it has.
        let burst = max(configuration.resetBurst, Double(configuration.maximumInboundStreams))
        self.resets = TokenBucket(rate: configuration.resetsPerSecond, burst: burst, now: time)
        self.pings = TokenBucket(rate: configuration.pingsPerSecond, burst: configuration.pingBurst, now: time)
    }

    func isInbound(_ streamID: UInt32) -> Bool { streamID.isMultiple(of: 2) == self.isClient }

    /// Judges a frame. Throws what ends the session.
    /// - Parameter isFull: streams are refused for want of memory; asked when one is to be opened.
    mutating func receive(
        _ header: YamuxFrameHeader,
        isOpen: Bool,
        now: @autoclosure () -> NIODeadline,
        isFull: @autoclosure () -> Bool = false
    ) throws(YamuxError) -> Action {
        switch header.kind {
        case .ping:
            guard header.flags.contains(.syn) else { return .pong(header.length) }
            guard self.pings.take(now: MonotonicTime(now())) else { throw .limit("the peer pings too often") }
            return .answerPing(header.length)
        case .goAway:
            let code = GoAwayCode(rawValue: header.length)
            self.remoteGoAway = code
            return .goAway(code)
        case .data, .windowUpdate:
            if isOpen, header.flags.contains(.rst), self.isInbound(header.streamID) {
                guard self.resets.take(now: MonotonicTime(now())) else {
                    throw .limit("the peer opens and resets streams too often")
                }
            }
            return try self.receiveStreamFrame(header, isOpen: isOpen, isFull: isFull())
        }
    }

    private mutating func receiveStreamFrame(
        _ header: YamuxFrameHeader,
        isOpen: Bool,
        isFull: @autoclosure () -> Bool
    ) throws(YamuxError) -> Action {
        let id = header.streamID
        if header.flags.contains(.syn) {
            guard self.isInbound(id) else {
                throw .violation("stream \(id) is not the peer's to open: are both sides clients, or both servers?")
            }
            guard !isOpen else { throw .violation("stream \(id) is opened twice") }
            // The first frames of streams that are opened at once may come in any order.
            self.highestRemoteID = max(self.highestRemoteID, id)
            guard !header.flags.contains(.rst) else { return .ignore }
            let mayOpen =
                !self.isDraining && self.inbound < self.maximumInbound && self.pendingAccepts < self.acceptBacklog
                && !isFull()
            guard mayOpen else { return .refuse }
            if header.kind == .data, header.length > YamuxConfiguration.initialWindowBytes {
                throw .violation("\(header.length) bytes of data where the window has its initial size")
            }
            self.inbound += 1
            self.pendingAccepts += 1
            return .open
        }
        if isOpen { return .deliver }
        let wasOpen = self.isInbound(id) ? id <= self.highestRemoteID : id < self.nextStreamID
        guard wasOpen else { throw .violation("a frame of stream \(id), which was never opened") }
        return .ignore
    }

    /// The ID of a new stream of ours.
    mutating func open() throws(YamuxError) -> UInt32 {
        if let code = self.remoteGoAway {
            throw YamuxError(code: .remoteGoAway, message: "the peer ends the session, code \(code.rawValue)")
        }
        guard !self.isDraining else {
            throw YamuxError(code: .sessionClosed, message: "the session is being closed")
        }
        guard self.outbound < self.maximumOutbound else {
            throw .limit("\(self.outbound) streams are open to this peer: close some, or raise the limit")
        }
        let id = self.nextStreamID
        let (next, overflow) = id.addingReportingOverflow(2)
        guard !overflow else { throw .limit("the session has used up its stream IDs: open a new connection") }
        self.nextStreamID = next
        self.outbound += 1
        return id
    }

    /// An inbound stream was initialised, or failed to be.
    mutating func accepted() {
        self.pendingAccepts -= 1
    }

    mutating func closed(_ streamID: UInt32) {
        if self.isInbound(streamID) { self.inbound -= 1 } else { self.outbound -= 1 }
    }

    #if DEBUG
    /// Lets tests reach the end of the IDs.
    mutating func skip(to streamID: UInt32) {
        self.nextStreamID = streamID
    }
    #endif
}

/// Pings in flight and what they tell.
struct YamuxRoundTrip {
    private var inFlight: (value: UInt32, sent: NIODeadline)?
    private var nextValue: UInt32 = 0
    /// Smoothed; nil until the first pong.
    private(set) var time: TimeAmount?

    /// The value for a ping; nil while one is in flight.
    mutating func ping(now: NIODeadline) -> UInt32? {
        guard self.inFlight == nil else { return nil }
        defer { self.nextValue &+= 1 }
        self.inFlight = (self.nextValue, now)
        return self.nextValue
    }

    var isInFlight: Bool { self.inFlight != nil }

    /// The smoothed round trip time, if this answers the ping in flight.
    mutating func pong(_ value: UInt32, now: NIODeadline) -> TimeAmount? {
        guard let inFlight = self.inFlight, inFlight.value == value else { return nil }
        self.inFlight = nil
        let measured = now - inFlight.sent
        let smoothed = self.time.map { .nanoseconds($0.nanoseconds / 2 + measured.nanoseconds / 2) } ?? measured
        self.time = smoothed
        return smoothed
    }
}

extension MonotonicTime {
    init(_ deadline: NIODeadline) {
        self.init(nanoseconds: deadline.uptimeNanoseconds)
    }
}
