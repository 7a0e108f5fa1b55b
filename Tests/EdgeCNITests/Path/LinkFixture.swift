import KubeModel
import LinuxNetwork
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import NIOEmbedded
import PacketWire
import ServiceCatalog
import Synchronization
import Testing

@testable import EdgeCNI

/// Workers on loops that the test turns, a tunnel whose answers it gives, and a device that keeps what it is given. This node is `here`
/// with 10.244.1.0/24; `far` has 10.244.2.0/24, `other` 10.244.3.0/24.
final class LinkFixture {
    /// A tunnel that opens what the test says.
    final class Tunnel: PacketTunneling {
        struct Attempt: Sendable {
            var node: String
            var promise: EventLoopPromise<PacketChannel>
        }

        private let state = Mutex<[Attempt]>([])

        var attempts: [Attempt] { self.state.withLock { $0 } }

        func openPackets(
            to node: String,
            on loop: any EventLoop,
            deadline: NIODeadline
        ) -> EventLoopFuture<PacketChannel> {
            let promise = loop.makePromise(of: PacketChannel.self)
            self.state.withLock { $0.append(Attempt(node: node, promise: promise)) }
            return promise.futureResult
        }

        func acceptPackets(_ accept: (@Sendable (PacketChannel) -> Void)?) {}
    }

    /// What a worker gave to the device.
    final class Device: Sendable {
        struct Packet: Hashable, Sendable {
            var header: [UInt8]
            var bytes: [UInt8]
        }

        private let state = Mutex<[Packet]>([])
        let isFull = Atomic(false)

        /// Takes them away.
        func take() -> [Packet] {
            self.state.withLock { packets in
                defer { packets = [] }
                return packets
            }
        }

        func put(_ header: [UInt8], _ bytes: UnsafeRawBufferPointer) -> Bool {
            guard !self.isFull.load(ordering: .relaxed) else { return false }
            self.state.withLock { $0.append(Packet(header: header, bytes: Array(bytes))) }
            return true
        }
    }

    let loops = [EmbeddedEventLoop(), EmbeddedEventLoop()]
    let tunnel = Tunnel()
    let device = Device()
    let homes = NodeHomes()
    /// Where channels would live, by node.
    let places = Places()

    final class Places: Sendable {
        let loops = Mutex<[String: EmbeddedEventLoop]>([:])
    }

    init(limits: EdgeCNILimits = EdgeCNILimits(), offloads: TunDevice.Offloads = [.tcp, .udp]) throws {
        var handles: [PacketWorkerHandle] = []
        for (index, loop) in self.loops.enumerated() {
            let environment = PacketWorker.Environment(
                mtu: 1400,
                offloads: offloads,
                deliver: { [device] in device.put($0, $1) },
                tunnel: self.tunnel,
                eventLoop: { [places] node in places.loops.withLock { $0[node] } },
                limits: limits,
                homes: self.homes,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            )
            let handle = PacketWorkerHandle.make(on: loop, index: index, environment)
            loop.run()
            handles.append(try handle.wait())
        }
        self.homes.replaceHandles(handles)
        let routes = try Self.routes()
        for handle in handles {
            handle.run { $0.replaceRoutes(routes) }
        }
        self.turn()
    }

    deinit {
        for handle in self.homes.handles { handle.run { $0.stop() } }
        for loop in self.loops { loop.run() }
    }

    static func routes() throws -> PodRoutes {
        let nodes = [("here", 1), ("far", 2), ("other", 3)].map { name, number in
            var node = NodeObject(name: name)
            node.podCIDRs = ["10.244.\(number).0/24", "fd00:244:\(number)::/64"].compactMap { CIDR($0) }
            return node
        }
        var builder = PodRouteBuilder(
            localNode: "here",
            networks: PodNetworks(mesh: ["10.244.0.0/16", "fd00:244::/32"].compactMap { CIDR($0) })
        )
        let made = builder.apply(CatalogSnapshot(services: [], nodes: nodes), changed: [])
        return try #require(made)
    }

    /// Lets both loops do all that there is to do.
    func turn() {
        for _ in 0..<4 { for loop in self.loops { loop.run() } }
    }

    /// The device gives packets to the queue of a loop.
    func read(_ packets: [[UInt8]], offload: [UInt8] = [UInt8](repeating: 0, count: 10), on index: Int = 0) {
        guard let handle = self.homes.handle(index) else { return }
        for packet in packets { handle.read(ByteBuffer(bytes: offload + packet)) }
        handle.readComplete()
        self.turn()
    }

    func channel(on index: Int = 0) throws -> EmbeddedChannel {
        let channel = EmbeddedChannel(handler: OpenInput(), loop: self.loops[index])
        channel.connect(to: try SocketAddress(ipAddress: "192.0.2.1", port: 1), promise: nil)
        return channel
    }

    /// Opens a channel for the latest attempt of the tunnel.
    func open(_ form: PacketChannel.Form = .framed, on index: Int = 0) throws -> EmbeddedChannel {
        let attempt = try #require(self.tunnel.attempts.last)
        let channel = try self.channel(on: index)
        attempt.promise.succeed(PacketChannel(channel: channel, node: attempt.node, form: form))
        self.turn()
        return channel
    }

    /// A channel on which all was sent.
    func idleChannel(reader index: Int = 0) throws -> EmbeddedChannel {
        self.read([Self.packet(1)], on: index)
        let channel = try self.open()
        _ = try self.written(to: channel)
        return channel
    }

    func fail(_ code: TunnelError.Code) throws {
        let attempt = try #require(self.tunnel.attempts.last)
        attempt.promise.fail(TunnelError(code: code, message: "\(code)"))
        self.turn()
    }

    /// A channel that the agent of a node has opened.
    func accept(
        _ form: PacketChannel.Form = .framed,
        from node: String = "far",
        on index: Int = 0
    ) throws -> EmbeddedChannel {
        let channel = try self.channel(on: index)
        self.homes.take(PacketChannel(channel: channel, node: node, form: form), isOpened: false)
        self.turn()
        return channel
    }

    /// What was written to a channel and flushed.
    func written(to channel: EmbeddedChannel) throws -> ByteBuffer {
        var all = ByteBuffer()
        while var buffer = try channel.readOutbound(as: ByteBuffer.self) { all.writeBuffer(&buffer) }
        return all
    }

    func packets(in bytes: ByteBuffer, _ form: PacketChannel.Form = .framed) throws -> [[UInt8]] {
        var stream = PacketStream(form: form)
        var packets: [[UInt8]] = []
        try stream.take(bytes) { bytes, _ in packets.append(Array(bytes)) }
        return packets
    }

    func sent(on channel: EmbeddedChannel, _ form: PacketChannel.Form = .framed) throws -> [[UInt8]] {
        try self.packets(in: self.written(to: channel), form)
    }

    func report(of index: Int = 0) throws -> PacketWorker.Report {
        let handle = try #require(self.homes.handle(index))
        let report = handle.ask { $0.report() }
        self.turn()
        return try report.wait()
    }

    func drops(of index: Int = 0) throws -> [PacketForwarder.Drop: UInt64] { try self.report(of: index).counters.drops }

    /// Embedded channels know no half-closure: what ends the output would end them.
    private final class OpenInput: ChannelOutboundHandler {
        typealias OutboundIn = ByteBuffer

        func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
            if mode == .output { promise?.succeed() } else { context.close(mode: mode, promise: promise) }
        }
    }

    // MARK: Packets

    /// From a pod here to one of the node with that number.
    static func packet(_ number: UInt8, to node: UInt8 = 2, size: Int = 4, port: UInt8 = 1) -> [UInt8] {
        let target = IPAddress.v4(IPv4Address(10, 244, node, 9))
        var payload = SamplePackets.udp(payload: [UInt8](repeating: number, count: size), and: target)
        payload[1] = port
        return SamplePackets.version4(target: target, payload: payload)
    }

    /// From a pod of `far` to one here.
    static func back(_ number: UInt8, from node: UInt8 = 2) -> [UInt8] {
        let source = IPAddress.v4(IPv4Address(10, 244, node, 9))
        return SamplePackets.version4(
            source: source,
            target: SamplePackets.source4,
            payload: SamplePackets.udp(payload: [number], between: source, and: SamplePackets.source4)
        )
    }

    static func frames(_ packets: [[UInt8]]) -> ByteBuffer {
        var frames = ByteBuffer()
        for packet in packets { packet.withUnsafeBytes { PacketFrame.write($0, .none, to: &frames) } }
        return frames
    }
}
