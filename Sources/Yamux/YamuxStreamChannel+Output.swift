import NIOCore

// What the session asks a stream when it gathers frames.
extension YamuxStreamChannel {
    /// There is something that the session could send now.
    var canSend: Bool {
        guard self.flushed > 0 else { return self.machine.output == .ending }
        guard self.flags.contains(.keepsMessages), let session = self.session else {
            return self.machine.sendWindow > 0 || self.beginsWithEmptyWrite
        }
        let size = self.writes.first?.bytes.readableBytes ?? 0
        return Int(self.machine.sendWindow) >= min(size, session.configuration.maximumPayloadBytes)
    }

    var beginsWithEmptyWrite: Bool {
        self.emptyWrites > 0 && self.flushed > 0 && self.writes.first?.bytes.readableBytes == 0
    }

    /// What a stream may hold and be writable when half of the budget of all sessions is used.
    static let tightHighWaterMark = 16 * 1024

    /// Whether more waits than these bytes, and too much for that in all sessions. A stream that holds less is told so as it
    /// sends; one that sends nothing needs no room.
    func holdsTooMuch(beyond bytes: Int) -> Bool {
        self.unsentBytes > bytes && self.session?.configuration.unsentBudget?.isTight ?? false
    }
}
