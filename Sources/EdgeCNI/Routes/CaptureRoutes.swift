public import LinuxNetwork
public import MeshCore

/// The routes of the main table that lead packets for pods of other nodes into the tunnel's device.
///
/// The kernel takes the longest prefix: networks of devices, and of another network plugin (flannel, Calico), are smaller than the
/// blocks of the mesh and come first. Of equal prefixes the metric makes ours the last choice.
public enum CaptureRoutes {
    static let metric: UInt32 = 4096
    /// Who made them; not among the numbers of `/etc/iproute2/rt_protos`.
    static let origin: UInt8 = 237

    /// Makes the routes over a device those to `blocks`: what is missing is added, others of ours are removed. In the network
    /// namespace of the thread that calls; blocks for the kernel's answers.
    /// - Parameter sources: the addresses that packets of this host itself have there, one for each family.
    public static func set(_ blocks: [CIDR], over device: TunDevice, from sources: [IPAddress] = []) throws {
        let wanted = Set(
            blocks.map { block in
                DeviceRoute(
                    block: block,
                    linkIndex: device.index,
                    metric: Self.metric,
                    origin: Self.origin,
                    source: sources.first { $0.family == block.address.family }
                )
            }
        )
        let present = Set(try RouteNetlink.deviceRoutes().filter { $0.origin == Self.origin })
        for route in present.subtracting(wanted) { try RouteNetlink.removeRoute(route) }
        for route in wanted.subtracting(present) { try RouteNetlink.ensureRoute(route) }
    }
}
