import ByteStreams
import DequeModule
import Glibc
import MeshCore
public import NIOCore

/// A UDP socket as a channel of `AddressedEnvelope<ByteBuffer>`. Confined to the simulation's loop.
/// Unchecked, as the compiler cannot see it: the simulation's one thread alone touches what can change, see `Simulation`.
public final class SimulatedDatagramChannel: SimulatedChannel, @unchecked Sendable {  // Safe because loop-confined.
    /// Datagrams that wait for a reader; more are lost, as with a kernel's full receive buffer.
    static let maximumWaiting = 256
    /// IP's limit, without the headers of IPv4 and UDP.
    static let maximumSize = 65_507

    let binding: PortTable.Binding
    private let stack: UDPStack
    private var received = Deque<AddressedEnvelope<ByteBuffer>>()
    private var writes: [(envelope: AddressedEnvelope<ByteBuffer>, promise: EventLoopPromise<Void>?)] = []
    private var isDelivering = false

    init(_ binding: PortTable.Binding, stack: UDPStack) {
        self.binding = binding
        self.stack = stack
        super.init(loop: stack.machine.simulation.loop)
        self.local = TransportAddress(binding.address, binding.port)
    }

    func receive(_ bytes: ByteBuffer, from source: TransportAddress) {
        guard self.received.count < Self.maximumWaiting else { return }
        self.received.append(AddressedEnvelope(remoteAddress: SocketAddress(source), data: bytes))
        self.deliver()
    }

    func unreachable(_ about: Unreachable) {
        self.pipeline.fireErrorCaught(
            IOError(errnoCode: TCPEndpoint.Failure.unreachable(about.reason).errno, reason: "recvmsg")
        )
    }

    public override func read0() {
        guard self.isActive else { return }
        self.readIsOpen = true
        self.deliver()
    }

    private func deliver() {
        guard self.isActive, !self.isDelivering else { return }
        self.isDelivering = true
        while self.readIsOpen, !self.isClosed, !self.received.isEmpty {
            self.readIsOpen = false
            var count = 0
            while count < self.settings.messagesPerRead, !self.isClosed, let next = self.received.popFirst() {
                count += 1
                self.pipeline.fireChannelRead(next)
            }
            guard !self.isClosed else { break }
            self.pipeline.fireChannelReadComplete()
            if self.settings.autoRead, !self.isClosed { self.pipeline.read() }
        }
        self.isDelivering = false
    }

    public override func write0(_ data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard !self.isClosed else {
            promise?.fail(ChannelError.ioOnClosedChannel)
            return
        }
        guard let envelope = self.tryUnwrapData(data, as: AddressedEnvelope<ByteBuffer>.self) else {
            promise?.fail(ChannelError.operationUnsupported)
            return
        }
        self.writes.append((envelope, promise))
    }

    public override func flush0() {
        let writes = self.writes
        self.writes = []
        for write in writes {
            do {
                try self.send(write.envelope)
                write.promise?.succeed()
            } catch {
                write.promise?.fail(error)
            }
        }
    }

    private func send(_ envelope: AddressedEnvelope<ByteBuffer>) throws {
        guard envelope.data.readableBytes <= Self.maximumSize else {
            throw IOError(errnoCode: EMSGSIZE, reason: "sendmsg")
        }
        let machine = self.stack.machine
        guard let target = TransportAddress(envelope.remoteAddress), let source = machine.source(for: target.address)
        else { throw IOError(errnoCode: ENETUNREACH, reason: "sendmsg") }
        let address = self.binding.address.isUnspecified ? source : self.binding.address
        machine.send(Packet(from: TransportAddress(address, self.binding.port), to: target, .udp(envelope.data)))
    }

    public override func close0(error: any Error, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard mode == .all, !self.isClosed else {
            promise?.fail(mode == .all ? ChannelError.alreadyClosed : ChannelError.operationUnsupported)
            return
        }
        self.stack.remove(self)
        let writes = self.writes
        self.writes = []
        for write in writes { write.promise?.fail(ChannelError.ioOnClosedChannel) }
        self.becomeInactive(error: nil)
        promise?.succeed()
    }
}
