import NIOCore

// What the session asks a stream when it gathers frames.
extension YamuxStreamChannel {
    /// There is something that the session could send now.
    var canSend: Bool {
        guard let first = self.writes.first, self.flushed > 0 else { return self.machine.output == .ending }
        let size = first.bytes.readableBytes
        let wholeFrame = self.session.map { min(size, $0.configuration.maximumPayloadBytes) } ?? size
        return Int(self.machine.sendWindow) >= min(size, self.flags.contains(.keepsMessages) ? wholeFrame : 1)
    }

    var beginsWithEmptyWrite: Bool {
        self.emptyWrites > 0 && self.flushed > 0 && self.writes.first?.bytes.readableBytes == 0
    }
}
