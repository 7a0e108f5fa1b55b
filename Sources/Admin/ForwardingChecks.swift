import LinuxNetwork

/// Whether packets that our rules translated get on.
extension SystemChecks {
    /// A chain that drops what it forwards, in any table, ends a flow that another has accepted.
    func forwarding() async -> CheckResult {
        let name = "forward-policy"
        let chains = await self.host.run("nft", ["list", "chains"], input: "")?.output ?? ""
        var tools: [String] = []
        for chain in Self.droppingForwardChains(inListing: chains) {
            if chain == "ip filter FORWARD" {
                tools.append("iptables-nft")
                continue
            }
            let listing = await self.host.run("nft", ["list", "chain", chain], input: "")?.output ?? ""
            guard !listing.contains("ct status dnat accept") else { continue }
            return CheckResult(
                name,
                .warn,
                "the nftables chain \(chain) drops what none of its rules accepts: pods may not be reached through services",
                mend: "nft insert rule \(chain) ct status dnat accept, and in the file that makes this chain"
            )
        }
        if self.host.file("/proc/net/ip_tables_names")?.split(separator: "\n").contains("filter") == true {
            tools.append("iptables-legacy")
        }
        var accepted: [String] = []
        for tool in tools {
            guard let saved = await self.host.run("\(tool)-save", ["-t", "filter"], input: "")?.output,
                saved.contains(":FORWARD DROP")
            else { continue }
            // Ours, or one that an operator made.
            guard saved.contains("-j EDGEMESH-FORWARD") || saved.contains("--ctstate DNAT -j ACCEPT") else {
                return CheckResult(
                    name,
                    .warn,
                    "\(tool) drops what it does not accept to forward (FORWARD policy DROP): pods may not be reached through services",
                    mend:
                        "start the agent, which accepts flows to services; or \(tool) -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT"
                )
            }
            accepted.append(tool)
        }
        return CheckResult(
            name,
            .pass,
            accepted.isEmpty
                ? "no packet filter drops forwarded packets by policy"
                : "\(accepted.joined(separator: ", ")) has FORWARD policy DROP, and accepts flows to services"
        )
    }

    /// Base chains of the forward hook with the policy drop, as `ip filter FORWARD`, in what `nft list chains` prints.
    static func droppingForwardChains(inListing text: String) -> [String] {
        var found: [String] = []
        var table = ""
        var chain = ""
        for line in text.split(separator: "\n") {
            let words = line.split { $0 == " " || $0 == "\t" }
            if words.first == "table", words.count > 2 {
                table = "\(words[1]) \(words[2])"
            } else if words.first == "chain", words.count > 1 {
                chain = String(words[1])
            } else if line.contains("hook forward"), line.contains("policy drop") {
                found.append("\(table) \(chain)")
            }
        }
        return found
    }

    /// A process of this node that calls a cluster IP needs a route to it before the rules translate it.
    func defaultRoute() -> CheckResult {
        let name = "default-route"
        guard let routes = self.host.file("/proc/net/route") else {
            return CheckResult(name, .warn, "cannot read /proc/net/route", mend: "mount /proc")
        }
        let hasDefault = routes.split(separator: "\n").dropFirst().contains { line in
            let fields = line.split { $0 == "\t" || $0 == " " }
            return fields.count > 7 && fields[1] == "00000000" && fields[7] == "00000000"
        }
        guard hasDefault else {
            return CheckResult(
                name,
                .warn,
                "no default route: this node's own processes cannot call cluster IPs (network is unreachable); pods can",
                mend: "add a default route, or one for the block of service addresses: ip route add BLOCK dev DEVICE"
            )
        }
        return CheckResult(name, .pass, "there is a default route")
    }
}
