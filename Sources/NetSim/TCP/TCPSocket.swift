import MeshCore
import NIOCore

/// What uses a socket: a channel, or a listener until it is accepted.
protocol TCPSocketUser: AnyObject {
    func handle(_ event: TCPEndpoint.Event)
}

/// A connection of a machine: its state machine, its timer, its user. Confined to the simulation's loop.
/// Unchecked, as the compiler cannot see it: the simulation's one thread alone touches what can change, see `Simulation`.
final class TCPSocket: @unchecked Sendable {  // Safe because the simulation's loop alone touches it.
    let local: TransportAddress
    let remote: TransportAddress
    let binding: PortTable.Binding?
    private(set) var endpoint: TCPEndpoint
    var user: (any TCPSocketUser)?
    private unowned let stack: TCPStack
    private var timer: (time: NIODeadline, timer: SimulatedLoop.Timer)?

    init(
        local: TransportAddress,
        remote: TransportAddress,
        binding: PortTable.Binding?,
        endpoint: TCPEndpoint,
        stack: TCPStack
    ) {
        self.local = local
        self.remote = remote
        self.binding = binding
        self.endpoint = endpoint
        self.stack = stack
    }

    var now: NIODeadline { self.stack.loop.now }

    /// Sends the segment with which the connection opens.
    func open() { self.settle() }

    func write(_ writes: [ByteBuffer]) {
        self.endpoint.write(writes, at: self.now)
        self.settle()
    }

    func read(upTo limit: Int) -> ByteBuffer? {
        let bytes = self.endpoint.read(upTo: limit)
        if !self.endpoint.output.isEmpty { self.settle() }
        return bytes
    }

    func closeOutput() {
        self.endpoint.closeOutput(at: self.now)
        self.settle()
    }

    /// The user goes: nothing is told to it any more.
    func close(reset: Bool) {
        self.user = nil
        if reset { self.endpoint.abort() } else { self.endpoint.close(at: self.now) }
        self.settle()
    }

    /// The machine crashes.
    func vanish() {
        self.endpoint.vanish()
        self.settle()
        self.user?.handle(.failed(.reset))
    }

    func receive(_ segment: TCPSegment) {
        self.endpoint.receive(segment, at: self.now)
        self.settle()
    }

    func unreachable(_ reason: Unreachable.Reason) {
        self.endpoint.unreachable(reason)
        self.settle()
    }

    /// Passes on what the state machine has to say.
    private func settle() {
        let (segments, events) = (self.endpoint.output, self.endpoint.events)
        self.endpoint.output = []
        self.endpoint.events = []
        for segment in segments { self.stack.send(Packet(from: self.local, to: self.remote, .tcp(segment))) }
        self.setTimer()
        if self.endpoint.state == .closed { self.stack.remove(self) }
        for event in events { self.user?.handle(event) }
    }

    /// A timer that comes early looks again; so a deadline that only moves away costs nothing.
    private func setTimer() {
        let deadline = self.endpoint.state == .closed ? nil : self.endpoint.deadline
        if let timer = self.timer {
            if let deadline, deadline >= timer.time { return }
            self.stack.loop.cancel(timer.timer)
            self.timer = nil
        }
        guard let deadline else { return }
        let timer = self.stack.loop.schedule(at: deadline) { [weak self] in
            guard let self else { return }
            self.timer = nil
            self.endpoint.timeHasCome(self.now)
            self.settle()
        }
        self.timer = (deadline, timer)
    }
}
