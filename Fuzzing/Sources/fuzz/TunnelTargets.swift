import NIOCore

@testable import EdgeTunnel

extension FuzzTarget {
    /// The discovery message of v1.17. What is read is written in one form that reads back the same.
    static let discovery = FuzzTarget(name: "discovery") { data, count in
        check(DiscoveryMessage.self, data, count)
    }

    /// The request and the answer of v1.17, and what follows from their text.
    static let proxy = FuzzTarget(name: "proxy") { data, count in
        let message = try? ProxyMessage(buffer(data, count))
        _ = (message?.target, message?.transport, message?.packetProtocol)
        return check(ProxyMessage.self, data, count)
    }

    /// The request and the answer of our own flows.
    static let flow = FuzzTarget(name: "flow") { data, count in
        if let reply = try? OpenReply(buffer(data, count)) {
            precondition(reply.message.utf8.count <= OpenReply.maximumMessageBytes)
            guard reply.code == nil || (try? OpenReply(reply.buffer)) == reply else {
                fatalError("\(reply) does not read back")
            }
        }
        return check(OpenRequest.self, data, count)
    }

    /// A stream of datagrams, in pieces: the same ones come out of it however it is cut.
    static let datagrams = FuzzTarget(name: "datagrams") { data, count in
        guard count > 1, let step = data?[0] else { return 0 }
        let bytes = UnsafeBufferPointer(start: data, count: count).dropFirst()
        precondition(decode(bytes, step: bytes.count) == decode(bytes, step: Int(step) + 1))
        return 0
    }
}

private func buffer(_ data: UnsafePointer<UInt8>?, _ count: Int) -> ByteBuffer {
    ByteBuffer(bytes: UnsafeBufferPointer(start: data, count: count))
}

private func check<Message: TunnelMessage & Equatable>(
    _: Message.Type,
    _ data: UnsafePointer<UInt8>?,
    _ count: Int
) -> CInt {
    guard let message = try? Message(buffer(data, count)) else { return 0 }
    guard (try? Message(message.buffer)) == message else { fatalError("\(message) does not read back") }
    return 0
}

/// The datagrams of a stream, and whether it broke the protocol behind them.
private func decode(_ bytes: Slice<UnsafeBufferPointer<UInt8>>, step: Int) -> [ByteBuffer?] {
    var rest = bytes
    var decoder = DatagramDecoder()
    var datagrams: [ByteBuffer?] = []
    while !rest.isEmpty {
        decoder.append(ByteBuffer(bytes: rest.prefix(step)))
        rest = rest.dropFirst(step)
        do {
            while let datagram = try decoder.next() { datagrams.append(datagram) }
        } catch {
            return datagrams + [nil]
        }
    }
    return datagrams
}
