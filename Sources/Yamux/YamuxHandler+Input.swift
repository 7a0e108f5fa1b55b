import DequeModule
public import NIOCore

extension YamuxHandler {
    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard self.phase != .closed else { return }
        self.heardSincePing = true
        self.events.received()
        self.nestedReads.append(self.unwrapInboundIn(data))
        // What a stream's handler does may make the connection read again.
        guard !self.isParsing else { return }
        self.isParsing = true
        while var buffer = self.nestedReads.popFirst() { self.consume(&buffer) }
        self.isParsing = false
        // A handler below may pass on bytes without telling the end of a read.
        self.scheduleTick()
    }

    public func channelReadComplete(context: ChannelHandlerContext) {
        self.completeReads()
        self.send()
        context.fireChannelReadComplete()
    }

    private func consume(_ buffer: inout ByteBuffer) {
        do {
            while self.phase != .closed, let element = try self.parser.next(from: &buffer) {
                switch element {
                case .header(let header): try self.receive(header)
                case .payload(let payload, let isLast): self.receive(payload, isLast: isLast)
                }
            }
        } catch {
            self.fail(error)
        }
    }

    private func receive(_ header: YamuxFrameHeader) throws(YamuxError) {
        guard let context = self.context else { return }
        let stream = header.streamID == 0 ? nil : self.streams[header.streamID]
        switch try self.machine.receive(
            header,
            isOpen: stream != nil,
            now: context.eventLoop.now,
            isFull: self.isOverShare
        )
        {
        case .deliver:
            if let stream { try self.deliver(header, to: stream) }
        case .open:
            try self.accept(header, context)
        case .refuse:
            self.queueReset(header.streamID, code: 0)
            self.parser.skipPayload()
        case .ignore:
            self.parser.skipPayload()
        case .answerPing(let value):
            guard self.pongs.count < self.configuration.maximumPendingControlFrames else { return }
            self.pongs.append(value)
        case .pong(let value):
            if let time = self.roundTrip.pong(value, now: context.eventLoop.now) { self.events.roundTripMeasured(time) }
        case .goAway(let code):
            self.events.goAwayReceived(code)
            if code != .normal {
                let message = "the peer ended the session, code \(code.rawValue)"
                self.end(error: YamuxError(code: .remoteGoAway, message: message), goAway: nil)
            }
        }
    }

    private func accept(_ header: YamuxFrameHeader, _ context: ChannelHandlerContext) throws(YamuxError) {
        let stream = self.add(header.streamID, inbound: true, on: context.channel)
        stream.flags.insert(.awaitsAccept)
        self.inboundStream(stream).assumeIsolated().whenComplete { result in
            guard stream.session != nil else { return }
            self.release(stream)
            switch result {
            case .success:
                self.markDirty(stream)
                stream.activate()
            case .failure:
                stream.reset(code: 0)
            }
        }
        guard stream.session != nil else {
            self.parser.skipPayload()
            return
        }
        try self.deliver(header, to: stream)
    }

    private func deliver(_ header: YamuxFrameHeader, to stream: YamuxStreamChannel) throws(YamuxError) {
        let isData = header.kind == .data && header.length > 0
        let received = try stream.machine.receive(header)
        if received.acknowledged { self.release(stream) }
        if received.reset {
            self.parser.skipPayload()
            let code = header.kind == .windowUpdate && header.length > 0 ? ", code \(header.length)" : ""
            stream.end(error: YamuxError(code: .streamReset, message: "the peer reset the stream\(code)"))
            return
        }
        if received.windowOpened || stream.flags.contains(.keepsMessages) { self.wantsToSend(stream) }
        let isLast = header.flags.contains(.fin)
        if isData {
            self.target = (stream, isLast)
        } else if isLast {
            self.endInput(of: stream)
        }
    }

    private func receive(_ payload: ByteBuffer, isLast: Bool) {
        guard let (stream, endsInput) = self.target else { return }
        if isLast { self.target = nil }
        guard stream.session != nil else { return }
        if stream.flags.contains(.isClosed) {
            // Nobody will read it; the peer should know.
            stream.reset(code: 0)
            return
        }
        stream.receive(payload)
        self.boundUnreadBytes()
        if isLast, endsInput { self.endInput(of: stream) }
    }

    private func endInput(of stream: YamuxStreamChannel) {
        guard stream.session != nil else { return }
        stream.machine.endInput()
        if stream.flags.contains(.isClosed) {
            if stream.machine.isFinished { stream.end(error: nil) }
        } else {
            stream.deliverEndIfDue()
        }
    }

    private func boundUnreadBytes() {
        guard self.unreadBytes > self.configuration.maximumUnreadBytes else { return }
        self.resetFullest(.unread, "\(self.unreadBytes) bytes wait unread in the session")
    }

    // MARK: For streams

    func owesReadComplete(_ stream: YamuxStreamChannel) {
        self.readCompletesOwed.append(stream)
    }

    func completeReads() {
        guard !self.isParsing, !self.readCompletesOwed.isEmpty else { return }
        let streams = self.readCompletesOwed
        self.readCompletesOwed.removeAll(keepingCapacity: false)
        for stream in streams {
            stream.completeRead()
            // What waits is counted with all of its buffer from now on.
            self.boundUnreadBytes()
        }
    }

    /// Only bytes that were read open the peer's window.
    func consumed(_ count: Int, by stream: YamuxStreamChannel) {
        stream.machine.receiveWindow.read(count)
        if !stream.machine.inputEnded, stream.machine.receiveWindow.isUpdateDue { self.markDirty(stream) }
    }
}
