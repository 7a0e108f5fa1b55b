import GatewayRouting
import NIOCore
import NIOEmbedded
import NIOHPACK

@testable import EdgeGateway

extension FuzzTarget {
    /// Requests on one HTTP/1 connection, in pieces that the first byte chooses. The cut may not matter, and what is passed on to
    /// a backend is read there as what was read here.
    static let httpRequest = FuzzTarget(name: "http-request") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard let step = bytes.first else { return 0 }
        let whole = RequestReader.read(bytes.dropFirst(), step: bytes.count)
        let inPieces = RequestReader.read(bytes.dropFirst(), step: Int(step) % 16 + 1)
        guard whole.messages == inPieces.messages, whole.isBroken == inPieces.isBroken else {
            fatalError("the cut matters: \(whole.messages) and \(inPieces.messages)")
        }
        for message in whole.messages where message.isWhole { message.checkPassedOn() }
        return 0
    }

    /// What a backend answers to two requests on one HTTP/1 connection. The first byte chooses the methods and the cut, which may
    /// not matter; what is passed on to a client is read there as what was read here.
    static let httpResponse = FuzzTarget(name: "http-response") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard let mode = bytes.first else { return 0 }
        let methods = [mode & 1 == 0 ? "GET" : "HEAD", mode & 2 == 0 ? "GET" : "POST"]
        let whole = AnswerReader.read(bytes.dropFirst(), to: methods, step: bytes.count)
        let inPieces = AnswerReader.read(bytes.dropFirst(), to: methods, step: Int(mode >> 2) % 16 + 1)
        // Bytes behind an answer end the connection, which depends on when they come; the first answer may not.
        guard whole.first == inPieces.first else {
            fatalError("the cut matters: \(String(describing: whole.first)) and \(String(describing: inPieces.first))")
        }
        for (answer, method) in zip(whole, methods) { answer.checkPassedOn(to: method) }
        return 0
    }

    /// Heads of HTTP/2 as a connection hands them on: fields, each name and value behind its length. What is accepted is no other
    /// request for an HTTP/1.1 backend.
    static let http2Head = FuzzTarget(name: "http2-head") { data, count in
        var bytes = UnsafeRawBufferPointer(start: data, count: count)[...]
        func text() -> String? {
            guard let length = bytes.popFirst() else { return nil }
            defer { bytes = bytes.dropFirst(Int(length)) }
            return String(decoding: bytes.prefix(Int(length)), as: UTF8.self)
        }
        var headers = HPACKHeaders()
        // The connection's decoder lets no other names through.
        while let name = text(), let value = text() {
            if name.utf8.allSatisfy({ $0 < 0x80 }) { headers.add(name: name, value: value) }
        }
        _ = HTTP2Heads.response(headers, ends: true, limits: GatewayLimits())
        _ = HTTP2Heads.trailers(headers)
        guard let head = try? HTTP2Heads.request(headers, ends: true, limits: GatewayLimits()) else { return 0 }
        guard head.fields.fields.allSatisfy({ ASCII.isToken($0.name) && $0.name == ASCII.lowercased($0.name.utf8) })
        else { fatalError("a name that is none: \(head.fields)") }
        var message = ReadRequest(head: head)
        message.head.fields.removeHopByHop()
        message.isWhole = true
        message.checkPassedOn()
        return 0
    }

    /// The first bytes of a TLS connection: what they tell does not depend on how much more has come.
    static let clientHello = FuzzTarget(name: "client-hello") { data, count in
        let bytes = Array(UnsafeRawBufferPointer(start: data, count: count))
        guard let hello = try? ClientHello.parse(bytes) else {
            for length in [1, 5, 6, 9, 43, bytes.count / 2] {
                if let early = try? ClientHello.parse(bytes.prefix(length)), length <= bytes.count {
                    // A whole hello, and something behind it that was refused: none may be.
                    fatalError("\(early) is refused when more comes")
                }
            }
            return 0
        }
        for length in stride(from: 0, to: bytes.count, by: max(1, bytes.count / 64)) {
            do {
                guard let early = try ClientHello.parse(bytes.prefix(length)) else { continue }
                guard early == hello else { fatalError("\(early) becomes \(hello)") }
            } catch {
                fatalError("\(hello) is refused when \(length) bytes have come: \(error)")
            }
        }
        if let name = hello.serverName, name != name.lowercased() || !ASCII.isAuthority(name) {
            fatalError("no name: \(name)")
        }
        return 0
    }
}

/// A request and its content, as far as they have come.
struct ReadRequest: Equatable {
    var head: RequestHead
    var content: [UInt8] = []
    var trailers: HeaderFields?
    var isWhole = false

    /// Writes it for a backend and reads that: it must be one request, and this one.
    func checkPassedOn() {
        var buffer = ByteBuffer()
        HTTP1Writer.request(self.head, into: &buffer)
        if self.head.body == .streamed {
            writeChunks(self.content, self.trailers, into: &buffer)
        } else {
            buffer.writeBytes(self.content)
        }
        let read = buffer.withUnsafeReadableBytes { RequestReader.read($0[...], step: $0.count) }
        guard !read.isBroken, read.messages.count == 1, var again = read.messages.first, again.isWhole else {
            fatalError("\(self) is written as \(String(buffer: buffer))")
        }
        // These are not passed on as they came.
        again.head.version = self.head.version
        again.head.scheme = self.head.scheme
        again.head.keepsAlive = self.head.keepsAlive
        again.head.expectsContinue = self.head.expectsContinue
        guard again == self else { fatalError("\(self) is read as \(again)") }
    }
}

private func writeChunks(_ content: [UInt8], _ trailers: HeaderFields?, into buffer: inout ByteBuffer) {
    if !content.isEmpty {
        HTTP1Chunks.write(ByteBuffer(bytes: content), allocator: ByteBufferAllocator()) {
            buffer.writeImmutableBuffer($0)
        }
    }
    HTTP1Writer.lastChunk(trailers, into: &buffer)
}

/// Reads requests of HTTP/1 as the gateway's server does.
struct RequestReader {
    private var parser = HTTP1HeadParser(.request, limits: HTTP1HeadParser.Limits())
    private var decoder: HTTP1BodyDecoder?
    private var buffer = ByteBuffer()
    private(set) var messages: [ReadRequest] = []
    private(set) var isBroken = false

    static func read(_ bytes: Slice<UnsafeRawBufferPointer>, step: Int) -> RequestReader {
        var reader = RequestReader()
        for piece in pieces(of: bytes, step) { reader.take(piece) }
        return reader
    }

    mutating func take(_ piece: ByteBuffer) {
        guard !self.isBroken else { return }
        self.buffer.writeImmutableBuffer(piece)
        do { while try self.step() {} } catch { self.isBroken = true }
    }

    private mutating func step() throws(HTTP1Error) -> Bool {
        guard var decoder = self.decoder else {
            guard let parsed = try self.parser.next(&self.buffer) else { return false }
            let head = try HTTP1Semantics.request(parsed, scheme: "http")
            self.messages.append(ReadRequest(head: head))
            let limits = HTTP1HeadParser.Limits()
            switch head.body {
            case .none: self.messages[self.messages.count - 1].isWhole = true
            case .known(let length): self.decoder = HTTP1BodyDecoder(.length(length), limits: limits)
            case .streamed: self.decoder = HTTP1BodyDecoder(.chunked, limits: limits)
            }
            return true
        }
        let event = try decoder.next(&self.buffer)
        self.decoder = decoder
        switch event {
        case nil: return false
        case .bytes(let slice)?: self.messages[self.messages.count - 1].content += Array(buffer: slice)
        case .end(let trailers)?:
            self.messages[self.messages.count - 1].trailers = trailers
            self.messages[self.messages.count - 1].isWhole = true
            self.decoder = nil
        }
        return true
    }
}

/// An answer as a connection to a backend tells it.
struct ReadAnswer: Equatable {
    var informed: [ResponseHead] = []
    var head: ResponseHead?
    var content: [UInt8] = []
    var trailers: HeaderFields?
    var isWhole = false
    var hasFailed = false
    var hasSwitched = false

    /// Writes it for an HTTP/1.1 client and reads that: it must be this answer.
    func checkPassedOn(to method: String) {
        guard let head = self.head, self.isWhole else { return }
        var buffer = ByteBuffer()
        let hasContent = !ResponseHead.hasNoContent(status: head.status, method: method)
        let isChunked = head.body == .streamed
        HTTP1Writer.response(head, isChunked: isChunked, connection: nil, into: &buffer)
        if hasContent, isChunked {
            writeChunks(self.content, self.trailers, into: &buffer)
        } else {
            buffer.writeBytes(self.content)
        }
        let again = buffer.withUnsafeReadableBytes { AnswerReader.read($0[...], to: [method], step: $0.count) }
        guard let again = again.first, again.isWhole, again.head?.status == head.status,
            again.head?.fields == head.fields, again.content == self.content,
            again.trailers == self.trailers || !isChunked
        else { fatalError("\(self) is read as \(again) in \(String(buffer: buffer))") }
    }
}

/// Reads answers by the gateway's own connection to a backend.
private final class AnswerReader: UpstreamObserver {
    private var answer = ReadAnswer()

    static func read(_ bytes: Slice<UnsafeRawBufferPointer>, to methods: [String], step: Int) -> [ReadAnswer] {
        let channel = EmbeddedChannel()
        let upstream = HTTP1Upstream(limits: HTTP1HeadParser.Limits(), isSecured: false)
        guard let address = try? SocketAddress(ipAddress: "192.0.2.1", port: 80) else { fatalError("no address") }
        guard (try? channel.pipeline.syncOperations.addHandler(upstream)) != nil else { fatalError("no connection") }
        channel.connect(to: address, promise: nil)
        var isIdle = true
        upstream.onIdle = { _ in isIdle = true }
        var rest = pieces(of: bytes, step)[...]
        var answers: [ReadAnswer] = []
        for method in methods where isIdle {
            isIdle = false
            let reader = AnswerReader()
            upstream.observer = reader
            var head = RequestHead(method: method, authority: "a")
            head.port = 80
            upstream.send(head)
            upstream.end(nil)
            while !reader.isOver, let piece = rest.popFirst() {
                channel.pipeline.fireChannelRead(piece)
                channel.pipeline.fireChannelReadComplete()
                channel.embeddedEventLoop.run()
            }
            if !reader.isOver {
                channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
                channel.embeddedEventLoop.run()
            }
            precondition(reader.isOver, "an answer without end")
            answers.append(reader.answer)
        }
        end(channel)
        return answers
    }

    private var isOver: Bool { self.answer.isWhole || self.answer.hasFailed || self.answer.hasSwitched }

    func upstreamInformed(_ head: ResponseHead) { self.answer.informed.append(head) }

    func upstreamAnswered(_ head: ResponseHead) {
        precondition(self.answer.head == nil, "two heads of one answer")
        self.answer.head = head
    }

    func upstreamSent(_ bytes: ByteBuffer) {
        precondition(self.answer.head != nil && !self.isOver, "content of no answer")
        self.answer.content += Array(buffer: bytes)
    }

    func upstreamReadComplete() {}
    func upstreamBecameWritable() {}

    func upstreamEnded(_ trailers: HeaderFields?) {
        precondition(self.answer.head != nil && !self.isOver, "the end of no answer")
        self.answer.trailers = trailers
        self.answer.isWhole = true
    }

    func upstreamFailed(_ failure: UpstreamFailure) {
        precondition(!self.isOver, "a failure behind the end")
        self.answer.hasFailed = true
    }

    func upstreamSwitched(_ head: ResponseHead, _ channel: any Channel, received: ByteBuffer?) {
        precondition(!self.isOver, "a switch behind the end")
        self.answer.hasSwitched = true
        channel.close(promise: nil)
    }
}

extension RequestHead {
    /// A request without content.
    fileprivate init(method: String, authority: String) {
        guard let target = try? RequestTarget("/") else { fatalError("no target") }
        self.init(
            method: method,
            scheme: "http",
            authority: authority,
            target: target,
            version: .http11,
            fields: HeaderFields(),
            body: .none
        )
    }
}
