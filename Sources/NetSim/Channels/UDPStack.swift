import Glibc
import MeshCore
import NIOCore

/// The datagram sockets of one machine. Confined to the simulation's loop.
final class UDPStack {
    private var channels: [UInt16: [SimulatedDatagramChannel]] = [:]
    private var ports = PortTable()
    unowned let machine: Machine

    init(machine: Machine) {
        self.machine = machine
    }

    func bind(_ address: TransportAddress, reuse: Bool) throws -> SimulatedDatagramChannel {
        let binding = try self.machine.bind(address, reuse: reuse, in: &self.ports)
        let channel = SimulatedDatagramChannel(binding, stack: self)
        self.channels[binding.port, default: []].append(channel)
        return channel
    }

    func remove(_ channel: SimulatedDatagramChannel) {
        let left = (self.channels[channel.binding.port] ?? []).filter { $0 !== channel }
        self.channels[channel.binding.port] = left.isEmpty ? nil : left
        self.ports.unbind(channel.binding)
    }

    func receive(_ bytes: ByteBuffer, _ packet: Packet) {
        guard let channel = self.channel(for: packet.destination) else {
            if self.machine.answersClosedPorts, let refusal = packet.refusal { self.machine.send(refusal) }
            return
        }
        channel.receive(bytes, from: packet.source)
    }

    func unreachable(_ about: Unreachable) {
        self.channel(for: about.source)?.unreachable(about)
    }

    private func channel(for address: TransportAddress) -> SimulatedDatagramChannel? {
        let fitting = (self.channels[address.port] ?? []).filter {
            $0.binding.address.family == address.address.family
        }
        return fitting.first { $0.binding.address == address.address }
            ?? fitting.first { $0.binding.address.isUnspecified }
    }

    func crash() {
        for port in self.channels.keys.sorted() {
            for channel in self.channels[port] ?? [] { channel.close(promise: nil) }
        }
    }
}
