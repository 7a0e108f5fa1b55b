import MeshCore
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

@testable import LibP2PRelay

/// A gateway on loopback that speaks PCP, NAT-PMP and UPnP, as far as it is told to.
final class FakeGateway: Sendable {
    struct State {
        var speaks: Set<PortMappingConfiguration.Method>
        /// External to internal port.
        var mapped: [UInt16: UInt16] = [:]
        var taken: Set<UInt16> = []
        var onlyPermanent = false
        var lifetime: UInt32 = 3600
        var requests = 0
        var nonces: [UInt16: [UInt8]] = [:]
    }

    static let external = IPv4Address(1, 2, 3, 4)

    let state: Mutex<State>
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let control: any Channel
    private let search: any Channel
    private let http: any Channel

    init(_ speaks: Set<PortMappingConfiguration.Method>) async throws {
        self.state = Mutex(State(speaks: speaks))
        let box = NIOLockedBox<FakeGateway?>(nil)
        self.control = try await DatagramBootstrap(group: self.group).channelInitializer { channel in
            channel.pipeline.addHandler(Responder { bytes in box.value?.answer(bytes) })
        }.bind(host: "127.0.0.1", port: 0).get()
        self.http = try await ServerBootstrap(group: self.group).childChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.configureHTTPServerPipeline()
                try channel.pipeline.syncOperations.addHandler(
                    Server { head, body in
                        box.value?.answer(head, body) ?? (500, "")
                    }
                )
            }
        }.bind(host: "127.0.0.1", port: 0).get()
        let httpPort = self.http.localAddress?.port ?? 0
        self.search = try await DatagramBootstrap(group: self.group).channelInitializer { channel in
            channel.pipeline.addHandler(
                Responder { bytes in
                    guard String(buffer: bytes).hasPrefix("M-SEARCH"), box.value?.speaks(.upnp) == true else {
                        return nil
                    }
                    return ByteBuffer(
                        string: "HTTP/1.1 200 OK\r\nLOCATION: http://127.0.0.1:\(httpPort)/desc.xml\r\n\r\n"
                    )
                }
            )
        }.bind(host: "127.0.0.1", port: 0).get()
        box.value = self
    }

    func configuration(_ change: (inout PortMappingConfiguration) -> Void = { _ in }) -> PortMappingConfiguration {
        var configuration = PortMappingConfiguration()
        configuration.gateway = { .loopback }
        configuration.gatewayPort = UInt16(self.control.localAddress?.port ?? 0)
        configuration.searchAddress = TransportAddress(.v4(.loopback), UInt16(self.search.localAddress?.port ?? 0))
        configuration.mapsLoopback = true
        configuration.tries = 2
        change(&configuration)
        return configuration
    }

    var mapped: [UInt16: UInt16] { self.state.withLock { $0.mapped } }

    func stop() async throws {
        try await self.group.shutdownGracefully()
    }

    private func speaks(_ method: PortMappingConfiguration.Method) -> Bool {
        self.state.withLock { $0.speaks.contains(method) }
    }

    // MARK: PCP and NAT-PMP

    private func answer(_ bytes: ByteBuffer) -> ByteBuffer? {
        var bytes = bytes
        guard let version = bytes.readInteger(as: UInt8.self), let opcode = bytes.readInteger(as: UInt8.self) else {
            return nil
        }
        self.state.withLock { $0.requests += 1 }
        if version == 2 { return self.answerPCP(bytes) }
        guard self.speaks(.natPMP) else { return nil }
        var answer = ByteBuffer(bytes: [0, opcode | 0x80, 0, 0, 0, 0, 0, 1])
        if opcode == 0 {
            answer.writeInteger(Self.external.rawValue)
            return answer
        }
        guard bytes.readInteger(as: UInt16.self) != nil, let inside = bytes.readInteger(as: UInt16.self),
            let wish = bytes.readInteger(as: UInt16.self), let lifetime = bytes.readInteger(as: UInt32.self)
        else { return nil }
        let (outside, granted) = self.map(inside, wish, lifetime)
        answer.writeInteger(inside)
        answer.writeInteger(outside)
        answer.writeInteger(granted)
        return answer
    }

    private func answerPCP(_ request: ByteBuffer) -> ByteBuffer? {
        guard self.speaks(.pcp) else {
            // A server of NAT-PMP says which version it has.
            return self.speaks(.natPMP) ? ByteBuffer(bytes: [0, 0x81, 0, 1, 0, 0, 0, 1]) : nil
        }
        var bytes = request
        guard bytes.readInteger(as: UInt16.self) != nil, let lifetime = bytes.readInteger(as: UInt32.self),
            bytes.readSlice(length: 16) != nil, let nonce = bytes.readBytes(length: 12),
            bytes.readSlice(length: 4) != nil, let inside = bytes.readInteger(as: UInt16.self),
            let wish = bytes.readInteger(as: UInt16.self)
        else { return nil }
        let isStranger = self.state.withLock { state in
            defer { if state.nonces[inside] == nil { state.nonces[inside] = nonce } }
            return state.nonces[inside].map { $0 != nonce } ?? false
        }
        let (outside, granted) = isStranger ? (0, 0) : self.map(inside, wish, lifetime)
        var answer = ByteBuffer(bytes: [2, 0x81, 0, isStranger ? 2 : 0])
        answer.writeInteger(granted)
        answer.writeRepeatingByte(0, count: 16)
        answer.writeBytes(nonce)
        answer.writeBytes([6, 0, 0, 0])
        answer.writeInteger(inside)
        answer.writeInteger(outside)
        answer.writeBytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF] + IPAddress.v4(Self.external).networkBytes)
        return answer
    }

    /// Grants the wish unless the port is taken.
    private func map(_ inside: UInt16, _ wish: UInt16, _ lifetime: UInt32) -> (UInt16, UInt32) {
        self.state.withLock { state in
            state.mapped = state.mapped.filter { $0.value != inside }
            guard lifetime > 0 else { return (0, 0) }
            let outside = state.taken.contains(wish) ? 50_000 : wish
            state.mapped[outside] = inside
            return (outside, min(lifetime, state.lifetime))
        }
    }

    // MARK: UPnP

    private func answer(_ head: HTTPRequestHead, _ body: String) -> (Int, String) {
        if head.method == .GET {
            return (200, UPnPMessageTests.description([("WANIPConnection:1", "/ctl")]))
        }
        self.state.withLock { $0.requests += 1 }
        let action = head.headers.first(name: "SOAPAction") ?? ""
        func argument(_ name: String) -> UInt32 {
            let texts = try? XMLScanner.texts(of: [name], in: Array(body.utf8))
            return texts?[name].flatMap { UInt32($0) } ?? 0
        }
        func reply(_ text: String) -> String { "<s:Envelope><s:Body>\(text)</s:Body></s:Envelope>" }
        func fault(_ code: Int) -> (Int, String) {
            (500, reply("<UPnPError><errorCode>\(code)</errorCode></UPnPError>"))
        }
        let outside = UInt16(argument("NewExternalPort"))
        if action.contains("#GetExternalIPAddress") {
            return (200, reply("<NewExternalIPAddress>\(Self.external)</NewExternalIPAddress>"))
        }
        return self.state.withLock { state in
            if action.contains("#DeletePortMapping") {
                state.mapped[outside] = nil
                return (200, reply(""))
            }
            if state.taken.contains(outside) { return fault(718) }
            if state.onlyPermanent, argument("NewLeaseDuration") != 0 { return fault(725) }
            state.mapped[outside] = UInt16(argument("NewInternalPort"))
            return (200, reply(""))
        }
    }
}

private final class NIOLockedBox<Value: Sendable>: Sendable {
    private let stored: Mutex<Value>

    init(_ value: Value) { self.stored = Mutex(value) }

    var value: Value {
        get { self.stored.withLock { $0 } }
        set { self.stored.withLock { $0 = newValue } }
    }
}

private final class Responder: ChannelInboundHandler, Sendable {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>
    typealias OutboundOut = AddressedEnvelope<ByteBuffer>

    private let answer: @Sendable (ByteBuffer) -> ByteBuffer?

    init(_ answer: @escaping @Sendable (ByteBuffer) -> ByteBuffer?) { self.answer = answer }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let request = self.unwrapInboundIn(data)
        guard let answer = self.answer(request.data) else { return }
        context.writeAndFlush(
            self.wrapOutboundOut(AddressedEnvelope(remoteAddress: request.remoteAddress, data: answer)),
            promise: nil
        )
    }
}

private final class Server: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let answer: (HTTPRequestHead, String) -> (Int, String)
    private var head: HTTPRequestHead?
    private var body = ""

    init(_ answer: @escaping (HTTPRequestHead, String) -> (Int, String)) { self.answer = answer }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.unwrapInboundIn(data) {
        case .head(let head): self.head = head
        case .body(let bytes): self.body += String(buffer: bytes)
        case .end:
            guard let head = self.head else { return }
            let (status, text) = self.answer(head, self.body)
            let response = HTTPResponseHead(
                version: .http1_1,
                status: HTTPResponseStatus(statusCode: status),
                headers: ["Content-Length": "\(text.utf8.count)", "Connection": "close"]
            )
            context.write(self.wrapOutboundOut(.head(response)), promise: nil)
            context.write(self.wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: text)))), promise: nil)
            context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
        }
    }
}
