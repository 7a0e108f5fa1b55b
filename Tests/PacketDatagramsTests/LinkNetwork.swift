import MeshCore
import NIOCore

@testable import PacketDatagrams

extension DatagramParties {
    static let sample = DatagramParties(opener: Array("one".utf8), acceptor: Array("two".utf8))
}

/// Two links, and what lies between them, on virtual time.
final class LinkNetwork {
    /// What a side sits behind.
    struct NAT {
        var outside: IPAddress
        /// Another port outside for each address that is sent to.
        var isSymmetric = false
        /// Ports outside, by the address that was sent to; by nothing if it is not symmetric.
        var ports: [TransportAddress?: UInt16] = [:]
        /// Who may send to a port outside.
        var admitted: [UInt16: Set<TransportAddress>] = [:]
        var nextPort: UInt16 = 40_000

        /// All mappings are gone; what comes next has another port.
        mutating func forget() {
            (self.ports, self.admitted) = ([:], [:])
            self.nextPort += 100
        }
    }

    struct Side {
        var link: DatagramLink
        var address: TransportAddress
        var nat: NAT?
        /// What it tells the other side of its addresses.
        var told: [TransportAddress]
        var received: [[UInt8]] = []
        var hellos = 0
        var indices: Set<UInt32> = []
    }

    private enum Cargo {
        case hello(ByteBuffer)
        case datagram(ByteBuffer, from: TransportAddress)
    }

    private struct Event {
        let time: MonotonicTime
        let order: Int
        let side: Int
        let cargo: Cargo
    }

    var now = MonotonicTime(nanoseconds: 0)
    var sides: [Side] = []
    var delay = Duration.milliseconds(10)
    /// Added to the delay, at random.
    var jitter = Duration.zero
    var loss = 0.0
    /// The longest datagram that passes.
    var longest = 65_507
    var isCut = false
    var passesHellos = true
    private(set) var datagrams = 0
    private var events: [Event] = []
    private var order = 0
    private var nextIndex: UInt32 = 1
    var generator: SeededGenerator

    static let ports: [UInt16] = [20_006, 20_006]

    /// - Parameter nats: what each side sits behind; nil for nothing.
    init(
        seed: UInt64,
        nats: [NAT?] = [nil, nil],
        prefersAES: [Bool] = [true, true],
        configuration: DatagramLink.Configuration = .init()
    ) {
        self.generator = SeededGenerator(seed: seed)
        for (number, role) in [DatagramExchange.Role.opener, .acceptor].enumerated() {
            let inside = TransportAddress(.v4(IPv4Address(10, 0, UInt8(number), 2)), Self.ports[number])
            let open = TransportAddress(.v4(IPv4Address(31, 0, 0, UInt8(number + 1))), Self.ports[number])
            let nat = nats[number]
            self.sides.append(
                Side(
                    link: DatagramLink(
                        role,
                        of: .sample,
                        prefersAES: prefersAES[number],
                        configuration: configuration,
                        now: self.now
                    ),
                    address: nat == nil ? open : inside,
                    nat: nat,
                    // Behind a NAT it guesses that the port is kept.
                    told: nat.map { [inside, TransportAddress($0.outside, Self.ports[number])] } ?? [open]
                )
            )
        }
    }

    static func nat(_ number: UInt8, isSymmetric: Bool = false) -> NAT {
        NAT(outside: .v4(IPv4Address(31, 0, 1, number)), isSymmetric: isSymmetric)
    }

    // MARK: Time

    /// Lets time pass until `condition` holds.
    /// - Returns: whether it did in time.
    @discardableResult
    func run(for time: Duration, until condition: (LinkNetwork) -> Bool = { _ in false }) -> Bool {
        let end = self.now + time
        while !condition(self) {
            self.wake()
            if condition(self) { return true }
            let wakes = self.sides.compactMap { $0.link.wakeTime }
            let next = (wakes + self.events.map(\.time)).min() ?? end
            guard next <= end else {
                self.now = end
                return condition(self)
            }
            self.now = max(self.now, next)
            self.deliver()
        }
        return true
    }

    private func wake() {
        for number in self.sides.indices {
            var outputs = self.sides[number].link.wake(now: self.now, using: &self.generator)
            if self.sides[number].link.isToAsk(now: self.now) {
                outputs += self.sides[number].link.ask(
                    index: self.newIndex(number),
                    addresses: self.sides[number].told,
                    now: self.now
                )
            }
            self.handle(outputs, of: number)
        }
    }

    private func deliver() {
        while let index = self.events.indices.min(by: { self.isEarlier(self.events[$0], self.events[$1]) }),
            self.events[index].time <= self.now
        {
            let event = self.events.remove(at: index)
            switch event.cargo {
            case .hello(let bytes):
                self.sides[event.side].hellos += 1
                let outputs = try? self.sides[event.side].link.received(
                    hello: bytes,
                    index: event.side == 1 ? self.newIndex(event.side) : 0,
                    addresses: self.sides[event.side].told,
                    now: self.now
                )
                self.handle(outputs ?? [], of: event.side)
            case .datagram(let bytes, let source):
                var plain = ByteBuffer()
                let received = bytes.withUnsafeReadableBytes {
                    self.sides[event.side].link.receive($0, from: source, into: &plain, now: self.now)
                }
                switch received {
                case .packet: self.sides[event.side].received.append(Array(plain.readableBytesView))
                case .control(let outputs): self.handle(outputs, of: event.side)
                case .refused: break
                }
            }
        }
    }

    private func isEarlier(_ one: Event, _ other: Event) -> Bool {
        one.time == other.time ? one.order < other.order : one.time < other.time
    }

    private func newIndex(_ side: Int) -> UInt32 {
        defer { self.nextIndex += 1 }
        self.sides[side].indices.insert(self.nextIndex)
        return self.nextIndex
    }

    // MARK: Sending

    /// Sends a packet if there is a way.
    @discardableResult
    func send(_ packet: [UInt8], from side: Int) -> Bool {
        guard let most = self.sides[side].link.maximumPacket, packet.count <= most,
            let address = self.sides[side].link.address
        else { return false }
        var datagram = ByteBuffer()
        guard packet.withUnsafeBytes({ self.sides[side].link.seal($0, into: &datagram) }) else { return false }
        self.sides[side].link.sent(now: self.now)
        self.transmit(datagram, from: side, to: address)
        return true
    }

    private func handle(_ outputs: [DatagramLink.Output], of side: Int) {
        for output in outputs {
            switch output {
            case .hello(let bytes): if self.passesHellos { self.schedule(.hello(bytes), for: 1 - side, self.delay) }
            case .datagram(let bytes, let address): self.transmit(bytes, from: side, to: address)
            case .forget(let index): self.sides[side].indices.remove(index)
            }
        }
    }

    private func transmit(_ bytes: ByteBuffer, from side: Int, to target: TransportAddress) {
        self.datagrams += 1
        var source = self.sides[side].address
        if var nat = self.sides[side].nat {
            let key = nat.isSymmetric ? target : nil
            let isKept = !nat.isSymmetric && nat.ports.isEmpty && nat.nextPort == 40_000
            let port = nat.ports[key] ?? (isKept ? source.port : nat.nextPort)
            if nat.ports[key] == nil, !isKept { nat.nextPort += 1 }
            nat.ports[key] = port
            nat.admitted[port, default: []].insert(target)
            source = TransportAddress(nat.outside, port)
            self.sides[side].nat = nat
        }
        let isLost = Double.random(in: 0..<1, using: &self.generator) < self.loss
        guard !self.isCut, !isLost, bytes.readableBytes <= self.longest else { return }
        let receiver = self.sides[1 - side]
        if let nat = receiver.nat {
            guard target.address == nat.outside, nat.admitted[target.port]?.contains(source) == true else { return }
        } else {
            guard target == receiver.address else { return }
        }
        let extra = Int64.random(in: 0...max(0, self.jitter.saturatedNanoseconds), using: &self.generator)
        self.schedule(.datagram(bytes, from: source), for: 1 - side, self.delay + .nanoseconds(extra))
    }

    private func schedule(_ cargo: Cargo, for side: Int, _ delay: Duration) {
        self.order += 1
        self.events.append(Event(time: self.now + delay, order: self.order, side: side, cargo: cargo))
    }

    // MARK: State

    /// Packets of this length pass both ways.
    func carries(_ length: Int) -> Bool {
        self.sides.allSatisfy { $0.link.maximumPacket ?? 0 >= length }
    }
}
