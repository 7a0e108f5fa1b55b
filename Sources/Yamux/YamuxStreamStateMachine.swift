import NIOCore

/// One stream as the protocol sees it; no bytes, no I/O.
///
/// - `opening`: how far the two sides know of each other. The first frame that leaves carries SYN or ACK.
/// - `output`: open, then `ending` while data is before the FIN, then `ended`.
/// - `input`: ended by the peer's FIN.
/// - A reset, of either side, ends everything at once.
struct YamuxStreamStateMachine {
    enum Opening { case idle, synSent, synReceived, established }
    enum Output { case open, ending, ended }

    private(set) var opening: Opening
    private(set) var output = Output.open
    private(set) var inputEnded = false
    private(set) var isReset = false
    /// Bytes that the peer lets us send.
    private(set) var sendWindow = UInt32(YamuxConfiguration.initialWindowBytes)
    var receiveWindow: YamuxReceiveWindow

    init(inbound: Bool, now: NIODeadline) {
        self.opening = inbound ? .synReceived : .idle
        self.receiveWindow = YamuxReceiveWindow(now: now)
    }

    /// Nothing more is to come or go.
    var isFinished: Bool { self.isReset || (self.inputEnded && self.output == .ended) }

    // MARK: What comes

    struct Received: Equatable {
        /// The first answer of the peer to our SYN.
        var acknowledged = false
        /// The send window was empty and is not any more.
        var windowOpened = false
        var reset = false
    }

    /// A header of this stream. For a data frame that ends the stream, `endInput` follows when its payload was taken.
    mutating func receive(_ header: YamuxFrameHeader) throws(YamuxError) -> Received {
        var received = Received()
        if self.opening == .synSent {
            // Any frame is an answer, whether or not it has the flag.
            self.opening = .established
            received.acknowledged = true
        }
        if header.flags.contains(.rst) {
            self.isReset = true
            received.reset = true
            return received
        }
        switch header.kind {
        case .data:
            guard !self.inputEnded || header.length == 0 else {
                throw .violation("data after the end of stream \(header.streamID)")
            }
            try self.receiveWindow.receive(header.length)
        case .windowUpdate:
            let (sum, overflow) = self.sendWindow.addingReportingOverflow(header.length)
            guard !overflow else { throw .violation("the window of stream \(header.streamID) overflows") }
            received.windowOpened = self.sendWindow == 0 && sum > 0
            self.sendWindow = sum
        case .ping, .goAway:
            break
        }
        return received
    }

    mutating func endInput() {
        self.inputEnded = true
    }

    // MARK: What goes

    /// The flags for the next frame of this stream.
    mutating func takeFlags() -> YamuxFrameHeader.Flags {
        switch self.opening {
        case .idle:
            self.opening = .synSent
            return .syn
        case .synReceived:
            self.opening = .established
            return .ack
        case .synSent, .established:
            return []
        }
    }

    /// A frame with SYN or ACK is owed.
    var owesFlags: Bool { self.opening == .idle || self.opening == .synReceived }

    mutating func sent(_ count: Int) {
        self.sendWindow -= min(self.sendWindow, UInt32(clamping: count))
    }

    /// The output ends behind what is pending. False if it was ended before.
    mutating func beginEnd() -> Bool {
        guard self.output == .open else { return false }
        self.output = .ending
        return true
    }

    mutating func sentEnd() {
        self.output = .ended
    }

    mutating func reset() {
        self.isReset = true
    }
}
