public import LinuxNetwork
public import Logging
import MeshCore
import NIOCore
import NIOPosix
import PacketWire

/// A device of layer 3 whose packets come to this process.
protocol PodDevice: Sendable {
    var name: String { get }
    var offloads: TunDevice.Offloads { get }
    var queueCount: Int { get }

    /// Reads queue `index` on a loop.
    func open(queue index: Int, on loop: any EventLoop, reader: PacketWorkerHandle) -> EventLoopFuture<any Channel>

    /// Writes a packet behind its header. Never waits; false if the device does not take it.
    func write(_ header: [UInt8], _ packet: UnsafeRawBufferPointer, queue index: Int) -> Bool
}

extension TunDevice: PodDevice {
    var queueCount: Int { self.queues.count }

    func open(queue index: Int, on loop: any EventLoop, reader: PacketWorkerHandle) -> EventLoopFuture<any Channel> {
        TunQueue.open(self, queue: index, on: loop, reader: reader)
    }

    func write(_ header: [UInt8], _ packet: UnsafeRawBufferPointer, queue index: Int) -> Bool {
        (try? TunDevice.write(header, packet, to: self.queues[index])) != nil
    }
}

/// What the network of pods asks of the machine below it, so that all else runs in tests without one.
public struct PodNetworkPlatform: Sendable {
    var makeDevice: @Sendable (_ name: String, _ queues: Int, _ mtu: Int) throws -> any PodDevice
    /// The addresses of this node, besides those of the tunnel's device.
    var networks: @Sendable (_ device: String) throws -> HostNetworks
    var setRoutes: @Sendable (_ blocks: [CIDR], _ sources: [IPAddress], any PodDevice) throws -> Void
    /// Lets packets of pods pass the host as they are, now and whenever a firewall was made anew.
    var rules: any PodNetworkRuling
    /// Calls back on the loop when the networks of this node have changed; returns how that ends.
    var observe: @Sendable (any EventLoop, @escaping @Sendable () -> Void) -> @Sendable () -> Void

    /// This machine.
    /// - Parameter backend: which packet filter the rules go to: `auto`, `nftables`, `iptables` or `none`.
    public static func live(backend: String, logger: Logger) -> PodNetworkPlatform {
        PodNetworkPlatform(
            makeDevice: { try TunDevice(name: $0, queues: $1, mtu: $2) },
            networks: { try HostNetworks.read(besides: $0) },
            setRoutes: { blocks, sources, device in
                guard let device = device as? TunDevice else { return }
                try CaptureRoutes.set(blocks, over: device, from: sources)
            },
            rules: PodNetworkRules(
                device: EdgeCNISettings.deviceName,
                backend: backend,
                forwarding: ForwardAcceptance(logger: logger)
            ),
            observe: { loop, changed in
                let monitor = NetworkMonitor(on: loop, logger: logger, changed: changed)
                monitor.start()
                return { monitor.stop() }
            }
        )
    }
}
