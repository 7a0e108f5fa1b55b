import CLibFuzzer

/// A parser under test: it may refuse any bytes, but may not trap, hang or contradict itself.
struct FuzzTarget {
    var name: String
    var run: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt

    static let all: [FuzzTarget] = [
        .json, .yaml, .configuration, .dns, .watch, .multiaddr, .protobuf, .keys, .envelope, .psk, .noise,
        .noisePayload, .tlsCertificate, .yamux, .webSocket, .handshake, .session, .multistream, .identify, .services,
        .relay, .reachability, .kademlia, .mdns, .gateway, .discovery, .proxy, .flow, .datagrams, .gatewayMatch,
        .gatewayObjects, .httpRequest, .httpResponse, .http2Head, .httpProxy, .clientHello, .ipPacket,
        .packetStream, .datagramHello, .sealedDatagram, .packetFrames,
    ]
}

/// `fuzz TARGET [libFuzzer options and corpus folders]`
@main
struct Main {
    static func main() {
        guard CommandLine.argc > 1, let name = CommandLine.unsafeArgv[1],
            let target = FuzzTarget.all.first(where: { $0.name == String(cString: name) })
        else {
            for target in FuzzTarget.all { print(target.name) }
            return
        }
        // libFuzzer sees the arguments without the name of the target.
        CommandLine.unsafeArgv[1] = CommandLine.unsafeArgv[0]
        var count = CommandLine.argc - 1
        var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv + 1
        _ = LLVMFuzzerRunDriver(&count, &arguments, target.run)
    }
}
