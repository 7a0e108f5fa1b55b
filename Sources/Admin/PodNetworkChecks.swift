import MeshCore

/// Whether packets between pods of different nodes cross this host as they are.
extension SystemChecks {
    private static var device: String { "edge_tun0" }

    func podNetwork() async -> [CheckResult] {
        var results = [self.tunnelDevice()]
        if self.expectation.podFamilies.contains(.v6) { results.append(self.ip6Forward()) }
        if self.expectation.isAgentRunning { results.append(await self.podSources()) }
        return results
    }

    func tunnelDevice() -> CheckResult {
        let name = "tunnel-device"
        if self.host.file("/proc/sys/net/ipv4/conf/\(Self.device)/rp_filter") != nil {
            return CheckResult(name, .pass, "\(Self.device) is there")
        }
        guard !self.expectation.isAgentRunning else {
            return CheckResult(
                name,
                .fail,
                "there is no device \(Self.device): pods of other nodes are not reached by their addresses",
                mend: "see edgeCNI in `edgemesh status -o json`, and the agent's log"
            )
        }
        let drivers = self.host.file("/proc/misc")?.split(separator: "\n") ?? []
        guard drivers.contains(where: { $0.hasSuffix(" tun") }) else {
            return CheckResult(
                name,
                .warn,
                "the kernel has no driver for TUN devices loaded, which edgeCNI needs",
                mend: "modprobe tun; in a container, let it have /dev/net/tun"
            )
        }
        return CheckResult(name, .pass, "the kernel makes TUN devices")
    }

    func ip6Forward() -> CheckResult {
        let name = "ip6-forward"
        switch self.host.file("/proc/sys/net/ipv6/conf/all/forwarding")?.first {
        case "1": return CheckResult(name, .pass, "the kernel forwards IPv6")
        case "0":
            return CheckResult(
                name,
                .fail,
                "the kernel does not forward IPv6: pods of other nodes are not reached by it",
                mend:
                    "sysctl -w net.ipv6.conf.all.forwarding=1, and in /etc/sysctl.d for the next start; uplinks that take addresses from router advertisements need accept_ra=2"
            )
        default:
            return CheckResult(
                name,
                .warn,
                "this host has no IPv6, and meshCIDRConfig has",
                mend: "take the blocks of IPv6 out of modules.edgeCNI.meshCIDRConfig, or switch IPv6 on"
            )
        }
    }

    /// Rules that masquerade would give packets of pods the node's address, which other nodes refuse.
    func podSources() async -> CheckResult {
        let name = "pod-sources"
        guard self.expectation.kernelBackend != "none" else {
            return CheckResult(name, .pass, "kernelBackend none: the kernel's rules are made by other means")
        }
        let table = await self.host.run("nft", ["list", "table", "ip", "edgemesh-cni"], input: "")
        if table?.output.contains("snat to") == true {
            return CheckResult(name, .pass, "packets of pods keep their addresses on their way to other nodes")
        }
        for tool in ["iptables-legacy", "iptables-nft", "iptables"] {
            let saved = await self.host.run("\(tool)-save", ["-t", "nat"], input: "")
            guard saved?.output.contains("-j EDGECNI-POSTROUTING") != true else {
                return CheckResult(name, .pass, "packets of pods keep their addresses on their way to other nodes")
            }
        }
        return CheckResult(
            name,
            .warn,
            "the rules are missing by which packets of pods keep their addresses: others may translate them",
            mend: "see edgeCNI.problems in `edgemesh status -o json`, and the agent's log"
        )
    }
}
