import LinuxNetwork

/// Whether packets that our rules translated get on.
extension SystemChecks {
    /// A chain that drops what it forwards, in any table, ends a flow that another has accepted.
    func forwarding() async -> CheckResult {
        let name = "forward-policy"
        let chains = await self.host.run("nft", ["list", "chains"], input: "")?.output ?? ""
        let mark = "0x0" + String(ForwardAcceptance.mark, radix: 16)
        var tools: [String] = []
        for (chain, drops) in Self.forwardChains(inListing: chains) {
            if chain == "ip filter FORWARD" {
                tools.append("iptables-nft")
                continue
            }
            guard drops else { continue }
            let listing = await self.host.run("nft", ["list", "chain", chain], input: "")?.output ?? ""
            guard !listing.contains("ct status dnat accept"), !listing.contains("ct mark & \(mark)") else { continue }
            return CheckResult(
                name,
                .warn,
                "the nftables chain \(chain) drops what none of its rules accepts: pods may not be reached through services",
                mend:
                    "nft insert rule \(chain) 'ct mark & \(mark) != 0 accept', and in the file that makes this chain: the agent marks the flows that it translates"
            )
        }
        if self.host.file("/proc/net/ip_tables_names")?.split(separator: "\n").contains("filter") == true {
            tools.append("iptables-legacy")
        }
        var accepted: [String] = []
        for tool in tools {
            guard let saved = await self.host.run("\(tool)-save", ["-t", "filter"], input: "")?.output else { continue }
            switch ForwardState(saved: saved) {
            case .open: continue
            case .accepting: accepted.append(tool)
            case .closed:
                return CheckResult(
                    name,
                    .warn,
                    "\(tool) refuses packets in FORWARD, by its policy or a rule: pods may not be reached through services",
                    mend:
                        "start the agent, which accepts the flows that it translates and no others; or \(tool) -I FORWARD -m connmark --mark \(mark)/\(mark) -j ACCEPT"
                )
            }
        }
        return CheckResult(
            name,
            .pass,
            accepted.isEmpty
                ? "no packet filter refuses forwarded packets"
                : "\(accepted.joined(separator: ", ")) refuses packets in FORWARD, and accepts flows to services"
        )
    }

    /// Base chains of the forward hook, as `ip filter FORWARD`, in what `nft list chains` prints, and whether their policy is drop.
    static func forwardChains(inListing text: String) -> [(chain: String, drops: Bool)] {
        var found: [(chain: String, drops: Bool)] = []
        var table = ""
        var chain = ""
        for line in text.split(separator: "\n") {
            let words = line.split { $0 == " " || $0 == "\t" }
            if words.first == "table", words.count > 2 {
                table = "\(words[1]) \(words[2])"
            } else if words.first == "chain", words.count > 1 {
                chain = String(words[1])
            } else if line.contains("hook forward") {
                found.append(("\(table) \(chain)", line.contains("policy drop")))
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
