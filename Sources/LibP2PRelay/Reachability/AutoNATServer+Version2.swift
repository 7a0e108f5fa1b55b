import LibP2P
import Multiformats
import NIOCore

/// AutoNAT 2 (libp2p/specs, autonat/autonat-v2.md): one address is dialled, and the peer sees by a nonce that it was.
extension AutoNATServer {
    static let requestProtocolID: ProtocolID = "/libp2p/autonat/2/dial-request"
    static let dialBackProtocolID: ProtocolID = "/libp2p/autonat/2/dial-back"

    /// What a peer sends before an address that is not the one it is seen at is dialled: more than a handshake costs, so that
    /// nobody gains by pointing at others.
    private static let dialData: ClosedRange<UInt64> = 30_000...100_000
    /// Less data in one message, and time is being wasted.
    private static let minimumData = 100

    func handleVersion2() {
        self.host.handle(Self.requestProtocolID) { [weak self] stream in
            let loop = stream.channel.eventLoop
            guard let self else {
                return loop.makeFailedFuture(LibP2PRelayError(code: .unexpected, message: "the service has ended"))
            }
            return loop.runTask { try await self.answerVersion2(stream) }
        }
    }

    private func answerVersion2(_ stream: InboundStream) async throws {
        let messages = try MessageStream(
            stream,
            maximumLength: AutoNATv2Message.maximumLength,
            timeout: self.configuration.requestTimeout
        )
        do {
            let question = try AutoNATv2Message(try await messages.receive().get())
            guard case .dialRequest(let addresses, let nonce) = question else {
                throw LibP2PRelayError(code: .unexpected, message: "an answer where a question is due")
            }
            let response = try await self.response(to: stream.connection, addresses, nonce: nonce, messages)
            messages.send(response.encoded)
            messages.finish()
        } catch {
            messages.reset()
            throw error
        }
    }

    private func response(
        to connection: Connection,
        _ addresses: [Multiaddr?],
        nonce: UInt64,
        _ messages: MessageStream
    ) async throws -> AutoNATv2Message {
        let peer = connection.remotePeer
        let index = addresses.firstIndex { address in
            address.map { DialBackPolicy.isDialable($0, own: self.host.listenAddresses, self.configuration) } ?? false
        }
        guard !connection.isRelayed, let index, let address = addresses[index]?.withoutPeerID else {
            return .dialResponse(status: .dialRefused, index: 0, dialStatus: .unused)
        }
        guard self.admit(peer, now: connection.eventLoop.now) else {
            return .dialResponse(status: .requestRejected, index: 0, dialStatus: .unused)
        }
        if address.ipAddress != connection.remoteAddress.ipAddress {
            try await self.collectData(for: index, messages)
        }
        let status = await self.dialBack(peer, address, nonce: nonce, on: connection.eventLoop)
        return .dialResponse(status: .ok, index: index, dialStatus: status)
    }

    private func collectData(for index: Int, _ messages: MessageStream) async throws {
        let span = Self.dialData.upperBound - Self.dialData.lowerBound + 1
        let wanted = Self.dialData.lowerBound + self.host.configuration.randomNumber() % span
        messages.send(AutoNATv2Message.dialDataRequest(index: index, bytes: wanted).encoded)
        var received: UInt64 = 0
        while received < wanted {
            guard case .dialDataResponse(let data) = try AutoNATv2Message(try await messages.receive().get()),
                data.readableBytes <= AutoNATv2Message.maximumData,
                data.readableBytes >= Self.minimumData || received + UInt64(data.readableBytes) >= wanted
            else { throw LibP2PRelayError(code: .unexpected, message: "no data for a dial was sent") }
            received += UInt64(data.readableBytes)
        }
    }

    private func dialBack(
        _ peer: PeerID,
        _ address: Multiaddr,
        nonce: UInt64,
        on loop: any EventLoop
    ) async -> AutoNATv2Message.DialStatus {
        guard let back = try? await self.dial(peer, [address], on: loop) else { return .dialError }
        defer { back.close() }
        do {
            let options = OpenStreamOptions(timeout: self.configuration.dialTimeout)
            let stream = try await back.openStream(protocols: [Self.dialBackProtocolID], options: options).get()
            let messages = try MessageStream(
                stream,
                maximumLength: AutoNATv2DialBack.maximumLength,
                timeout: self.configuration.dialTimeout
            )
            messages.send(AutoNATv2DialBack.encode(nonce: nonce))
            let answer = try await messages.receive().get()
            messages.finish()
            return AutoNATv2DialBack.isAccepted(answer) ? .ok : .dialBackError
        } catch {
            return .dialBackError
        }
    }
}
