import LinuxNetwork
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import PacketWire

/// The packets of one event loop: those of its queue of the device, and those of the channels that live on it. Confined to the loop.
final class PacketWorker {
    struct Environment: Sendable {
        var mtu: Int
        var offloads: TunDevice.Offloads
        /// Gives a packet behind its header to the device; false if it does not take it. On the worker's loop.
        var deliver: @Sendable (_ header: [UInt8], _ packet: UnsafeRawBufferPointer) -> Bool
        var tunnel: any PacketTunneling
        /// Where a channel to a node would live.
        var eventLoop: @Sendable (_ node: String) -> (any EventLoop)?
        var limits: EdgeCNILimits
        var homes: NodeHomes
        var logger: Logger
    }

    /// Where packets to a node go.
    private enum Outlet {
        case link(PacketLink)
        case handover(PacketHandover)
    }

    /// A packet of this length goes on in the buffer that it was read into: to copy it costs more than a piece of its own.
    private static let wholePacketLength = 16 << 10

    let loop: any EventLoop
    let index: Int
    private let environment: Environment
    private var forwarder: PacketForwarder
    private var outlets: [String: Outlet] = [:]
    /// The outlets to which something was given since the last `flush`.
    private var touched: [String: Outlet] = [:]
    /// Of the nodes whose channels live here, or some of them.
    private(set) var links: [String: PacketLink] = [:]
    private var unreachable: Set<String> = []
    /// Bytes of the packets that wait in all links.
    var waitingBytes = 0
    private var refusedStreams: UInt64 = 0
    private var isStopped = false
    private var header = [UInt8](repeating: 0, count: VirtioNetHeader.length)

    init(loop: any EventLoop, index: Int, environment: Environment) {
        self.loop = loop
        self.index = index
        self.environment = environment
        self.forwarder = PacketForwarder(
            routes: PodRoutes(),
            mtu: environment.mtu,
            offloads: environment.offloads,
            now: .now()
        )
    }

    func replaceRoutes(_ routes: PodRoutes) {
        self.forwarder.routes = routes
    }

    // MARK: From the device

    /// Takes a header and a packet; `flush` sends it on.
    func read(_ buffer: ByteBuffer) {
        buffer.withUnsafeReadableBytes { bytes in
            switch self.forwarder.outgoing(bytes, now: .now()) {
            case .send(let sending):
                self.send(UnsafeRawBufferPointer(rebasing: bytes[VirtioNetHeader.length...]), sending, in: buffer)
            case .answer(let answer):
                self.tell(answer)
            case .drop:
                break
            }
        }
    }

    /// - Parameter buffer: ends with the packet.
    private func send(
        _ packet: UnsafeRawBufferPointer,
        _ sending: PacketForwarder.Sending,
        in buffer: ByteBuffer
    ) {
        guard !self.isStopped else { return }
        let outlet = self.outlets[sending.node] ?? self.makeOutlet(to: sending.node)
        switch outlet {
        case .link(let link):
            if packet.count >= Self.wholePacketLength, !sending.isOpening,
                let whole = buffer.getSlice(at: buffer.writerIndex - packet.count, length: packet.count),
                link.sendWhole(whole, sending.offload)
            {
                break
            }
            link.send(packet, sending)
        case .handover(let handover):
            handover.add(flow: sending.flow, limit: self.environment.limits.link.batch) {
                self.write(packet, sending, to: &$0)
            }
        }
        self.touched[sending.node] = outlet
    }

    /// There are no more packets for the moment.
    func flush() {
        guard !self.touched.isEmpty else { return }
        for outlet in self.touched.values {
            switch outlet {
            case .link(let link): link.flush()
            case .handover(let handover): handover.flush()
            }
        }
        self.touched.removeAll(keepingCapacity: true)
    }

    /// Appends a packet.
    /// - Returns: whether it has joined the one before it.
    @discardableResult
    func write(
        _ packet: UnsafeRawBufferPointer,
        _ sending: PacketForwarder.Sending,
        to batch: inout FrameBatch
    ) -> Bool {
        guard sending.isOpening else { return batch.append(sending.packet, packet, sending.offload) }
        return batch.append(sending.packet, packet, sending.offload) { self.forwarder.clamp(sending, in: $0) }
    }

    /// Calls `body` with the packets that a frame stands for, each whole, as v1.17 takes them.
    func withOriginals(of frame: ByteBuffer, _ body: (UnsafeRawBufferPointer) -> Void) {
        self.withPacket(of: frame) { packet, bytes, offload in
            guard packet.family == .v4, let segments = try? PacketSegments(offload, of: packet, bytes),
                segments.maximumLength <= PacketChannel.maximumOriginalWrite
            else {
                self.forwarder.drop(.unsupported)
                return
            }
            self.cut(segments, of: bytes, body)
        }
    }

    /// Calls `body` with each segment of a packet.
    private func cut(
        _ segments: PacketSegments,
        of bytes: UnsafeRawBufferPointer,
        _ body: (UnsafeRawBufferPointer) -> Void
    ) {
        withUnsafeTemporaryAllocation(byteCount: segments.maximumLength, alignment: 1) { room in
            for index in 0..<segments.count {
                let length = segments.write(index, of: bytes, to: room)
                body(UnsafeRawBufferPointer(rebasing: room[..<length]))
            }
        }
    }

    /// Tells the receiver of a packet that it met a queue.
    func markCongestion(in packet: UnsafeMutableRawBufferPointer) {
        if IPPacket.markCongestion(in: packet) { self.forwarder.countMarked() }
    }

    /// Tells the sender of a packet that its node is not to be had.
    func refuse(_ frame: ByteBuffer) {
        self.forwarder.drop(.unreachable)
        self.withPacket(of: frame) { packet, bytes, _ in
            if let answer = self.forwarder.answer(.unreachable, to: packet, bytes, now: .now()) { self.tell(answer) }
        }
    }

    /// - Parameter body: is called with the packet in a frame of this agent's, unless that is none.
    func withPacket(
        of frame: ByteBuffer,
        _ body: (IPPacket, UnsafeRawBufferPointer, PacketOffload) -> Void
    ) {
        frame.withUnsafeReadableBytes { frame in
            guard let offload = try? PacketFrame.head(frame)?.offload else { return }
            let bytes = UnsafeRawBufferPointer(rebasing: frame[PacketFrame.headerLength...])
            guard let packet = try? IPPacket(parsing: bytes) else { return }
            body(packet, bytes, offload)
        }
    }

    private func tell(_ answer: [UInt8]) {
        answer.withUnsafeBytes { self.deliver($0, VirtioNetHeader()) }
    }

    /// Whether so much more may wait for channels.
    func mayWait(_ bytes: Int) -> Bool { self.waitingBytes + bytes <= self.environment.limits.waitingBytes }

    func countOverflow(_ packets: UInt64) {
        if packets > 0 { self.forwarder.drop(.overflow, count: packets) }
    }

    func isUnreachable(_ node: String) -> Bool { self.unreachable.contains(node) }

    // MARK: From peers

    /// - Returns: why it is lost, if that is for what it says of itself.
    func receive(
        _ bytes: UnsafeRawBufferPointer,
        _ offload: PacketOffload,
        from node: String
    ) -> PacketForwarder.Drop? {
        switch self.forwarder.incoming(bytes, offload, from: node) {
        case .deliver(let header): self.deliver(bytes, header)
        case .cut(let segments): self.cut(segments, of: bytes) { self.deliver($0, VirtioNetHeader()) }
        case .drop(let reason): return reason
        }
        return nil
    }

    /// A peer sends in the names of others.
    func tellOfSpoofing(by node: String) {
        self.environment.logger.warning(
            "a node sends packets from addresses that are not its pods': they are dropped",
            metadata: ["node": "\(node)", "see": "docs/cni.md, droppedSpoofed"]
        )
    }

    private func deliver(_ packet: UnsafeRawBufferPointer, _ header: VirtioNetHeader) {
        self.header.withUnsafeMutableBytes { header.write(to: $0) }
        if !self.environment.deliver(self.header, packet) { self.forwarder.drop(.device) }
    }

    func refuseStream(of node: String, _ error: any Error) {
        self.refusedStreams &+= 1
        self.environment.logger.warning(
            "a stream of packets is ended: what comes on it is none",
            metadata: ["node": "\(node)", "error": "\(error)"]
        )
    }

    // MARK: Links

    private var handle: PacketWorkerHandle? { self.environment.homes.handle(self.index) }

    private func makeOutlet(to node: String) -> Outlet {
        let homes = self.environment.homes
        let preferred = self.environment.eventLoop(node).flatMap { homes.index(of: $0) }
        let home = homes.home(of: node, orElse: preferred ?? self.index)
        let outlet: Outlet
        if home != self.index, let target = homes.handle(home) {
            outlet = .handover(PacketHandover(node: node, target: target))
        } else {
            outlet = .link(self.link(to: node))
        }
        self.outlets[node] = outlet
        return outlet
    }

    private func link(to node: String) -> PacketLink {
        if let link = self.links[node] { return link }
        let link = PacketLink(node: node, worker: self, limits: self.environment.limits.link)
        self.links[node] = link
        return link
    }

    /// Takes packets that another loop has read.
    func take(_ batch: PacketHandover.Batch, to node: String) {
        guard !self.isStopped else { return }
        switch self.outlets[node] ?? self.makeOutlet(to: node) {
        case .link(let link): link.send(batch)
        case .handover(let handover):
            // The channel has moved while they were on their way.
            var frames = batch.frames.bytes
            for (flow, length) in batch.packets {
                guard let frame = frames.readSlice(length: length) else { break }
                self.hand(frame, flow: flow, to: handover)
            }
            handover.flush()
        }
    }

    func openChannel(to node: String, within timeout: TimeAmount) {
        guard !self.isStopped, let handle = self.handle else { return }
        self.environment.tunnel.openPackets(to: node, on: self.loop, deadline: .now() + timeout).whenComplete {
            [homes = self.environment.homes] result in
            switch result {
            case .success(let channel):
                homes.take(channel, isOpened: true)
                handle.run { $0.links[node]?.opened() }
            case .failure(let error):
                handle.run { $0.links[node]?.failedToOpen(error) }
            }
        }
    }

    /// Takes a channel of this loop.
    func take(_ channel: PacketChannel, isOpened: Bool) {
        guard !self.isStopped else { return channel.channel.close(promise: nil) }
        let (homes, node, index) = (self.environment.homes, channel.node, self.index)
        self.link(to: node).add(channel, isOpened: isOpened)
        let home = homes.home(of: node, orElse: index)
        guard home != index else { return }
        // Packets are sent where a channel is: an accepted one of v1.17 is none for that.
        if isOpened {
            homes.move(node, to: index)
        } else if channel.form == .framed {
            homes.handle(home)?.run { worker in
                if worker.links[node]?.sending == nil { homes.move(node, to: index) }
            }
        }
    }

    /// Packets to a node go by another loop from now on.
    func moved(_ node: String, to home: Int) {
        guard !self.isStopped, self.outlets[node] != nil || self.links[node] != nil else { return }
        if let before = self.outlets[node], case .handover(let handover) = before { handover.flush() }
        self.touched[node] = nil
        self.outlets[node] = nil
        guard let link = self.links[node] else { return }
        link.flush()
        guard home != self.index, case .handover(let handover) = self.makeOutlet(to: node) else {
            self.outlets[node] = .link(link)
            return
        }
        for frame in link.takeAll() {
            self.hand(frame, flow: nil, to: handover)
        }
        handover.flush()
    }

    /// - Parameter flow: nil if the packet itself is to be asked.
    private func hand(_ frame: ByteBuffer, flow: UInt32?, to handover: PacketHandover) {
        self.withPacket(of: frame) { packet, content, offload in
            let flow = flow ?? packet.flowHash(in: content)
            handover.add(flow: flow, limit: self.environment.limits.link.batch) {
                $0.append(packet, content, offload)
            }
        }
    }

    func replaceUnreachable(_ nodes: Set<String>) {
        let back = self.unreachable.subtracting(nodes)
        self.unreachable = nodes
        for node in back { self.links[node]?.recover() }
    }

    /// Ends what was not used for a while.
    func sweep() {
        let time = self.loop.now - self.environment.limits.idleTimeout
        for (node, link) in self.links where link.sweep(idleSince: time) {
            self.links[node] = nil
            if case .link? = self.outlets[node] {
                self.outlets[node] = nil
                self.environment.homes.forget(node, at: self.index)
            }
        }
    }

    func stop() {
        self.isStopped = true
        for link in self.links.values { link.close() }
        (self.links, self.outlets, self.touched) = ([:], [:], [:])
    }

    // MARK: Figures

    struct Report: Sendable {
        struct Peer: Sendable {
            var node: String
            /// Nil if none is open.
            var form: PacketChannel.Form?
            var channels: Int
            var waitingPackets: Int
            var waitingBytes: Int
            var isOpening: Bool
            var failures: Int
            var lastFailure: String?
            var spoofedPackets: UInt64

            func joined(with other: Peer) -> Peer {
                Peer(
                    node: self.node,
                    form: self.form ?? other.form,
                    channels: self.channels + other.channels,
                    waitingPackets: self.waitingPackets + other.waitingPackets,
                    waitingBytes: self.waitingBytes + other.waitingBytes,
                    isOpening: self.isOpening || other.isOpening,
                    failures: max(self.failures, other.failures),
                    lastFailure: self.lastFailure ?? other.lastFailure,
                    spoofedPackets: self.spoofedPackets &+ other.spoofedPackets
                )
            }
        }

        var counters: PacketForwarder.Counters
        var refusedStreams: UInt64
        var waitingBytes: Int
        var peers: [Peer]
    }

    func report() -> Report {
        Report(
            counters: self.forwarder.counters,
            refusedStreams: self.refusedStreams,
            waitingBytes: self.waitingBytes,
            peers: self.links.values.map { link in
                Report.Peer(
                    node: link.node,
                    form: link.sending?.form,
                    channels: link.channels.count,
                    waitingPackets: link.queue.count,
                    waitingBytes: link.queue.bytes,
                    isOpening: link.isOpening,
                    failures: link.failures,
                    lastFailure: link.failures > 0 ? link.lastFailure : nil,
                    spoofedPackets: link.spoofedPackets
                )
            }
        )
    }
}

/// Talks to a worker from any thread.
struct PacketWorkerHandle: Sendable, TunReading {
    let loop: any EventLoop
    private let worker: NIOLoopBound<PacketWorker>

    static func make(
        on loop: any EventLoop,
        index: Int,
        _ environment: PacketWorker.Environment
    ) -> EventLoopFuture<PacketWorkerHandle> {
        loop.submit {
            let worker = PacketWorker(loop: loop, index: index, environment: environment)
            return PacketWorkerHandle(loop: loop, worker: NIOLoopBound(worker, eventLoop: loop))
        }
    }

    func run(_ body: @escaping @Sendable (PacketWorker) -> Void) {
        self.loop.execute { body(self.worker.value) }
    }

    func ask<Value: Sendable>(_ body: @escaping @Sendable (PacketWorker) -> Value) -> EventLoopFuture<Value> {
        self.loop.submit { body(self.worker.value) }
    }

    // On the worker's loop.
    func read(_ buffer: ByteBuffer) { self.worker.value.read(buffer) }
    func readComplete() { self.worker.value.flush() }
}
