import DequeModule
import NIOCore

extension YamuxHandler {
    /// Asks the peer for a sign of life, and measures how long it takes.
    func ping() {
        guard self.phase == .active, let context = self.context else { return }
        if let value = self.roundTrip.ping(now: context.eventLoop.now) {
            self.pingToSend = value
            self.scheduleTick()
        }
        self.heardSincePing = false
        self.awaitSignOfLife(context.eventLoop, until: context.eventLoop.now + self.configuration.keepAliveTimeout)
    }

    private func awaitSignOfLife(_ loop: any EventLoop, until deadline: NIODeadline) {
        self.keepAlive = loop.assumeIsolated().scheduleTask(deadline: deadline) {
            // Anything that came will do: a pong may wait behind much data.
            guard !self.roundTrip.isInFlight || self.heardSincePing else {
                let message =
                    "the peer was silent for \(self.configuration.keepAliveTimeout.nanoseconds / 1_000_000) ms after a ping"
                self.fail(YamuxError(code: .keepAliveTimedOut, message: message))
                return
            }
            let pause = self.configuration.keepAliveInterval - self.configuration.keepAliveTimeout
            self.keepAlive = loop.assumeIsolated().scheduleTask(in: max(pause, .nanoseconds(0))) { self.ping() }
        }
    }

    /// Ends the session when the connection takes nothing while there is something to send.
    func watchForStall(_ context: ChannelHandlerContext) {
        guard self.stall == nil, self.phase == .active, !context.channel.isWritable else { return }
        let options = context.channel.syncOptions
        let before = try? options?.getOption(.bufferedWritableBytes)
        self.stall = context.eventLoop.assumeIsolated().scheduleTask(in: self.configuration.writeTimeout) {
            self.stall = nil
            let after = try? options?.getOption(.bufferedWritableBytes)
            // Slow is not stalled: nothing is added while the connection is not writable, so fewer bytes are progress.
            if let before, let after, after < before { return self.watchForStall(context) }
            let message =
                "the connection took no bytes for \(self.configuration.writeTimeout.nanoseconds / 1_000_000) ms"
            self.fail(YamuxError(code: .writeTimedOut, message: message))
        }
    }

    /// A stream was closed here: it has so long to send what is left and to see the peer's end, and is reset then.
    func linger(_ stream: YamuxStreamChannel) {
        guard let context = self.context, self.streams[stream.id] === stream else { return }
        self.wantsToSend(stream)
        if self.lingering.count > 2 * self.streams.count + 64 {
            self.lingering.removeAll { !self.isLingering($0.id) }
        }
        self.lingering.append((context.eventLoop.now + self.configuration.lingerTimeout, stream.id))
        if self.lingerTimer == nil { self.scheduleLingerTimer(context.eventLoop) }
    }

    private func scheduleLingerTimer(_ loop: any EventLoop) {
        self.lingerTimer = nil
        // Those that ended meanwhile are forgotten.
        while let first = self.lingering.first, !self.isLingering(first.id) { self.lingering.removeFirst() }
        guard let first = self.lingering.first else { return }
        self.lingerTimer = loop.assumeIsolated().scheduleTask(deadline: first.deadline) {
            while let (deadline, id) = self.lingering.first, deadline <= loop.now {
                self.lingering.removeFirst()
                if self.isLingering(id) { self.streams[id]?.reset(code: 0) }
            }
            self.scheduleLingerTimer(loop)
        }
    }

    private func isLingering(_ id: UInt32) -> Bool { self.streams[id]?.flags.contains(.isClosed) ?? false }
}
