import LibP2P
import Multiformats
import NIOCore

/// AutoNAT 2: asks about one address after the other, and believes a success only if the nonce has come back.
extension AutoNATClient {
    /// A server may ask for up to 100 kB, so that its dials are of no use against others; more is not sent.
    private static let maximumDialData: UInt64 = 100_000
    private static let padding = ByteBuffer(repeating: 0, count: AutoNATv2Message.maximumData)

    func handleDialBack() {
        self.host.handle(AutoNATServer.dialBackProtocolID) { [weak self] stream in
            let loop = stream.channel.eventLoop
            guard let self else {
                return loop.makeFailedFuture(LibP2PRelayError(code: .unexpected, message: "the service has ended"))
            }
            return loop.runTask { try await self.takeDialBack(stream) }
        }
    }

    private func takeDialBack(_ stream: InboundStream) async throws {
        let messages = try MessageStream(
            stream,
            maximumLength: AutoNATv2DialBack.maximumLength,
            timeout: self.configuration.requestTimeout
        )
        do {
            let nonce = try AutoNATv2DialBack.nonce(in: try await messages.receive().get())
            guard self.take(nonce: nonce) else {
                throw LibP2PRelayError(code: .unexpected, message: "a nonce that was not sent")
            }
            messages.send(AutoNATv2DialBack.accepted)
            messages.finish()
        } catch {
            messages.reset()
            throw error
        }
    }

    func askVersion2(_ peer: PeerID, _ addresses: [Multiaddr], nonce: UInt64) async throws -> Answer {
        let response = try await self.exchange(
            with: peer,
            AutoNATServer.requestProtocolID,
            maximumLength: AutoNATv2Message.maximumLength
        ) { messages in
            messages.send(AutoNATv2Message.dialRequest(addresses: addresses, nonce: nonce).encoded)
            var isPaid = false
            while true {
                let answer = try AutoNATv2Message(try await messages.receive().get())
                guard case .dialDataRequest(let index, let bytes) = answer, addresses.indices.contains(index),
                    bytes <= Self.maximumDialData, !isPaid
                else { return answer }
                isPaid = true
                var left = bytes
                while left > 0 {
                    messages.send(AutoNATv2Message.dialDataResponse(Self.padding).encoded)
                    left -= min(left, UInt64(Self.padding.readableBytes))
                }
            }
        }
        guard case .dialResponse(.ok, let index, let status) = response, addresses.indices.contains(index) else {
            return Answer(outcome: .noAnswer)
        }
        switch status {
        case .ok where self.hasReturned(nonce: nonce): return Answer(outcome: .reachable, reached: addresses[index])
        case .dialError: return Answer(outcome: .unreachable)
        case .ok, .dialBackError, .unused: return Answer(outcome: .noAnswer)
        }
    }
}
