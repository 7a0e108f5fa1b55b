import NIOCore
import NIOEmbedded
import PeerIdentity

@testable import LibP2PSecurity

extension FuzzTarget {
    /// What a private network reads of its peer, in pieces. Garbage never opens it.
    static let psk = FuzzTarget(name: "psk") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard let step = bytes.first else { return 0 }
        let channel = EmbeddedChannel()
        guard (try? PrivateNetwork.add(to: channel, key: SecurityFixture.key)) != nil else { fatalError("no handler") }
        for piece in pieces(of: bytes.dropFirst(), Int(step)) {
            channel.pipeline.fireChannelRead(piece)
            channel.pipeline.fireChannelReadComplete()
        }
        _ = PrivateNetwork.looksEncrypted(bytes)
        _ = try? PreSharedKey(swarmKey: String(decoding: bytes, as: UTF8.self))
        end(channel)
        return 0
    }

    /// A Noise handshake, either role, whose peer lies: bytes in place of what an honest one sends, or changes to it.
    static let noise = FuzzTarget(name: "noise") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard bytes.count >= 2 else { return 0 }
        let (mode, step) = (bytes[0], Int(bytes[1]))
        let input = bytes.dropFirst(2)
        let loop = EmbeddedEventLoop()
        let victim = EmbeddedChannel(loop: loop)
        let honest = EmbeddedChannel(loop: loop)
        for channel in [victim, honest] {
            channel.connect(to: SecurityFixture.address, promise: nil)
        }
        let role: ConnectionRole = mode & 1 == 0 ? .initiator : .responder
        var result: Result<SecuredPeer, any Error>?
        SecurityFixture.noise.secure(victim, role: role, expectedPeer: nil, muxers: ["/a"], received: nil)
            .assumeIsolated().whenComplete { result = $0 }
        if mode & 2 == 0 {
            for piece in pieces(of: input, step) { victim.pipeline.fireChannelRead(piece) }
        } else {
            let other: ConnectionRole = role == .initiator ? .responder : .initiator
            _ = SecurityFixture.noise.secure(
                honest,
                role: other,
                expectedPeer: nil,
                muxers: ["/b", "/a"],
                received: nil
            )
            var changes = input.makeIterator()
            for _ in 0..<4 {
                while let sent = try? victim.readOutbound(as: ByteBuffer.self) { honest.pipeline.fireChannelRead(sent) }
                while let sent = try? honest.readOutbound(as: ByteBuffer.self) {
                    let changed = sent.readableBytesView.map { $0 ^ (changes.next() ?? 0) }
                    changed.withUnsafeBytes { changed in
                        for piece in pieces(of: changed[...], step) {
                            victim.pipeline.fireChannelRead(piece)
                        }
                    }
                }
            }
        }
        end(victim)
        end(honest)
        switch result {
        case .none: fatalError("a handshake without a result")
        case .failure(let error): precondition(error is LibP2PSecurityError, "\(error)")
        case .success: precondition(mode & 2 != 0, "an identity out of nothing")
        }
        return 0
    }

    /// Certificates of libp2p's TLS. Only who signed the vectors of the corpus can be proved.
    static let tlsCertificate = FuzzTarget(name: "tls-certificate") { data, count in
        let bytes = Array(UnsafeRawBufferPointer(start: data, count: count))
        if let key = try? HostCertificate.verify([bytes], now: 1_780_000_000) {
            precondition(SecurityFixture.vectorPeers.contains("\(key.peerID)"), "a forged certificate of \(key.peerID)")
        }
        return 0
    }
}

extension FuzzTarget {
    /// What a peer says within the Noise handshake, once it is decrypted. What is read is written and read again as the same.
    static let noisePayload = FuzzTarget(name: "noise-payload") { data, count in
        let bytes = Array(UnsafeRawBufferPointer(start: data, count: count))
        guard let payload = try? NoisePayload(protobuf: bytes) else { return 0 }
        guard let again = try? NoisePayload(protobuf: payload.protobuf), again.identityKey == payload.identityKey,
            again.identitySignature == payload.identitySignature, again.muxers == payload.muxers
        else { fatalError("\(payload) does not read back") }
        guard (try? payload.verified(staticKey: SecurityFixture.key.bytes)) == nil else { fatalError("a forged proof") }
        return 0
    }
}

/// Closes a channel, unless a handler has, and runs what that has set going: only then is it released.
func end(_ channel: EmbeddedChannel) {
    _ = try? channel.finish(acceptAlreadyClosed: true)
    channel.embeddedEventLoop.run()
}

private enum SecurityFixture {
    static let key = PreSharedKey(originalFileBytes: "fuzz".utf8)
    static let address = SocketAddress(ipv4: 0x7F00_0001)
    static let noise: NoiseSecurity = {
        guard let noise = try? NoiseSecurity(identity: .generate()) else { fatalError("no Noise") }
        return noise
    }()
    static let vectorPeers = [
        "12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv", "QmfXbAwNjJLXfesgztEHe8HwgVDCMMpZ9Eax1HYq6hn9uE",
    ]
}

/// Cuts an input as reads of a socket would.
func pieces(of bytes: Slice<UnsafeRawBufferPointer>, _ step: Int) -> [ByteBuffer] {
    let step = max(1, step)
    return stride(from: bytes.startIndex, to: bytes.endIndex, by: step).map {
        ByteBuffer(bytes: bytes[$0..<min(bytes.endIndex, $0 + step)])
    }
}

extension SocketAddress {
    fileprivate init(ipv4: UInt32) {
        guard let address = try? SocketAddress(packedIPAddress: ByteBuffer(integer: ipv4), port: 20006) else {
            fatalError("no address")
        }
        self = address
    }
}
