import LibP2P
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import NetSim
import PeerIdentity
import Synchronization

@testable import EdgeTunnel

extension SimulatedNode {
    /// Two nodes of the internet.
    static func pair(_ simulation: Simulation, identity: KeyPair? = nil) throws -> (SimulatedNode, SimulatedNode) {
        let nodes = try ["one", "two"].enumerated().map { index, name in
            let machine = simulation.machine(name)
            machine.attach(to: simulation.internet, CIDR("31.0.0.0/24").host(UInt32(index + 1)))
            return try SimulatedNode(name, on: machine, identity: index == 1 ? identity : nil)
        }
        return (nodes[0], nodes[1])
    }

    static func stop(_ nodes: [SimulatedNode]) async {
        for node in nodes { await node.stop() }
    }
}

/// Two nodes behind NATs, and relays in the internet.
struct RelayedNodes {
    let relays: [SimulatedNode]
    let one: SimulatedNode
    let two: SimulatedNode
    var all: [SimulatedNode] { self.relays + [self.one, self.two] }

    init(_ simulation: Simulation, relays count: Int, holePunching: Bool = false) throws {
        let names = (0..<count).map { "relay-\($0)" }
        let hosts = (0..<count).map { IPv4Address(31, 0, 0, UInt8($0 + 1)) }
        let known = zip(names, hosts).map { TunnelSettings.Relay($0, at: $1) }
        self.relays = try zip(names, hosts).enumerated().map { index, relay in
            let machine = simulation.machine(relay.0)
            let far = Link(delay: .milliseconds(Int64(10 * (index + 1))))
            machine.attach(to: simulation.internet, .v4(relay.1), link: far)
            return try SimulatedNode(relay.0, on: machine, relays: known)
        }
        let homes = [1, 2].map { number in
            simulation.home(
                "home-\(number)",
                NATBehavior(),
                inside: "10.0.0.0/24",
                outside: CIDR("31.0.1.0/24").host(UInt32(number))
            )
        }
        self.one = try SimulatedNode("one", on: homes[0].machine("one", 2, in: simulation), relays: known) {
            $0.holePunching = holePunching
        }
        self.two = try SimulatedNode("two", on: homes[1].machine("two", 3, in: simulation), relays: known) {
            $0.holePunching = holePunching
        }
    }
}

/// Calls to a node, one after the other at an even pace, none of which waits for another.
///
/// Each asks for a target that the other agent refuses to dial: its refusal has come all the way.
final class Calls: Sendable {
    struct Call: Sendable {
        let began: NIODeadline
        var ended: NIODeadline?
        var isAnswered = false
    }

    static let pace = TimeAmount.milliseconds(100)
    static let timeout = TimeAmount.seconds(5)

    private let calls = Mutex<[Call]>([])
    private let task = Mutex<RepeatedTask?>(nil)

    init(from one: SimulatedNode, to two: SimulatedNode) {
        let loop = one.machine.simulation.loop
        let target = TunnelTarget(node: two.name, address: TransportAddress(.v4(IPv4Address(10, 9, 9, 9)), 80))
        let task = loop.scheduleRepeatedTask(initialDelay: .zero, delay: Self.pace) { [weak self] _ in
            guard let self else { return }
            let index = self.calls.withLock { calls in
                calls.append(Call(began: loop.now))
                return calls.count - 1
            }
            one.mesh.open(target, .tcp, on: loop, deadline: loop.now + Self.timeout).whenComplete { result in
                let isAnswered: Bool
                switch result {
                case .success(let channel):
                    channel.close(promise: nil)
                    isAnswered = true
                case .failure(let error): isAnswered = (error as? TunnelError)?.code == .notAllowed
                }
                self.calls.withLock { calls in
                    calls[index].ended = loop.now
                    calls[index].isAnswered = isAnswered
                }
            }
        }
        self.task.withLock { $0 = task }
    }

    func stop() { self.task.withLock { $0.take() }?.cancel() }

    var all: [Call] { self.calls.withLock { $0 } }
    var lost: Int { self.all.count { $0.ended != nil && !$0.isAnswered } }

    /// When the first call that began after `time` was answered.
    func firstAnswer(after time: NIODeadline) -> NIODeadline? {
        self.all.filter { $0.began >= time && $0.isAnswered }.compactMap(\.ended).min()
    }
}
