import MeshCore

// The checks of names: who answers on the DNS address, and who asks there.
extension SystemChecks {
    func dnsPort() async -> CheckResult {
        let name = "dns-port"
        let address = TransportAddress(self.expectation.bridgeAddress, self.expectation.dnsPort)
        var free: [TransportProtocol] = []
        for transport in [TransportProtocol.udp, .tcp] {
            guard let reason = self.host.bindError(address, transport) else {
                free.append(transport)
                continue
            }
            switch reason {
            case 98:  // EADDRINUSE
                let holders = await self.host.holders(address, transport)
                // Who cannot look into other processes has to take the running agent for the holder.
                let isAgent = holders.isEmpty || holders.contains { $0.processID == self.expectation.agentProcess }
                if self.expectation.isAgentRunning && isAgent { continue }
                return CheckResult(
                    name,
                    .fail,
                    "\(address)/\(transport) is in use by \(holders.first?.description ?? "another program")",
                    mend:
                        "see it with `ss -lnp 'sport = :\(address.port)'`; a resolver that listens on all addresses must "
                        + "be told to leave \(address.address) alone"
                )
            case 13, 1:  // EACCES, EPERM
                return CheckResult(
                    name,
                    .fail,
                    "\(address)/\(transport) may not be opened by this user",
                    mend: "run as root or with CAP_NET_BIND_SERVICE"
                )
            default:
                return CheckResult(
                    name,
                    .warn,
                    "\(address)/\(transport) cannot be opened: errno \(reason)",
                    mend: "look at the address in commonConfig.bridgeDeviceIP"
                )
            }
        }
        guard self.expectation.isAgentRunning else { return CheckResult(name, .pass, "\(address) is free") }
        if free.isEmpty { return CheckResult(name, .pass, "\(address) is held by the running agent") }
        return CheckResult(
            name,
            .fail,
            "an agent runs, but \(address) is free over \(free.map(\.description).joined(separator: " and ")): its DNS is not up",
            mend: "see `edgemesh status` for the module edgeDNS"
        )
    }

    /// `/etc/resolv.conf` of the node itself: where queries for other zones go.
    func nodeResolver() -> CheckResult {
        let name = "node-resolver"
        guard let text = self.host.file("/etc/resolv.conf") else {
            return CheckResult(
                name,
                .warn,
                "there is no /etc/resolv.conf: only cluster names can be answered",
                mend: "set modules.edgeDNS.cacheDNS.upstreamServers"
            )
        }
        let servers = Self.nameservers(inResolvConf: text)
        if servers.isEmpty {
            return CheckResult(
                name,
                .warn,
                "/etc/resolv.conf names no server: only cluster names can be answered",
                mend: "set modules.edgeDNS.cacheDNS.upstreamServers"
            )
        }
        if servers.allSatisfy({ $0 == self.expectation.bridgeAddress }) {
            return CheckResult(
                name,
                .warn,
                "/etc/resolv.conf names only the mesh itself: other names would be asked in a circle",
                mend: "set modules.edgeDNS.cacheDNS.upstreamServers to the site's resolvers"
            )
        }
        return CheckResult(name, .pass, "upstream: \(servers.map(\.description).joined(separator: ", "))")
    }

    static func nameservers(inResolvConf text: String) -> [IPAddress] {
        text.split(separator: "\n").compactMap { line in
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            guard words.count >= 2, words[0] == "nameserver" else { return nil }
            return IPAddress(words[1].prefix { $0 != "%" })
        }
    }

    /// Whether the kubelet or KubeEdge's edgecore gives pods the mesh as their resolver.
    func podResolver() -> CheckResult {
        let name = "pod-resolver"
        let places = ["/var/lib/kubelet/config.yaml", "/etc/kubeedge/config/edgecore.yaml"]
        let wanted = self.expectation.bridgeAddress
        var read: [String] = []
        for place in places {
            guard let text = self.host.file(place) else { continue }
            let addresses = Self.clusterDNS(inConfig: text)
            if addresses.contains(wanted) {
                return CheckResult(name, .pass, "\(place) gives pods \(wanted)")
            }
            let given = addresses.isEmpty ? "no clusterDNS" : addresses.map(\.description).joined(separator: ", ")
            read.append("\(place) gives pods \(given)")
        }
        if read.isEmpty {
            return CheckResult(
                name,
                .warn,
                "found neither \(places.joined(separator: " nor "))",
                mend: "make sure that pods get \(wanted) as their DNS server (clusterDNS)"
            )
        }
        return CheckResult(
            name,
            .warn,
            read.joined(separator: "; "),
            mend: "set clusterDNS to [\(wanted)] there and restart it, unless a DNS of the cluster forwards to the mesh"
        )
    }

    /// The addresses under every key `clusterDNS` of a YAML text, as a list in either form. A line scan on purpose: the
    /// files belong to others and need not be valid for us.
    static func clusterDNS(inConfig text: String) -> [IPAddress] {
        var addresses: [IPAddress] = []
        var isInList = false
        for line in text.split(separator: "\n") {
            let words = line.drop { $0 == " " || $0 == "\t" }
            if words.hasPrefix("clusterDNS:") {
                isInList = true
                let rest = words.dropFirst("clusterDNS:".count)
                addresses += rest.split { " []\"',".contains($0) }.compactMap { IPAddress($0) }
            } else if isInList, words.hasPrefix("-") {
                addresses += words.dropFirst().split { " \"'".contains($0) }.prefix(1).compactMap { IPAddress($0) }
            } else {
                isInList = false
            }
        }
        return addresses
    }

    func kubeProxy() async -> CheckResult {
        let name = "kube-proxy"
        if let mode = self.host.localHTTP(port: 10_249, path: "/proxyMode") {
            let mode = mode.filter { !$0.isWhitespace }
            return CheckResult(
                name,
                .pass,
                "kube-proxy runs in mode \(mode); the mesh's rules come first whatever the order of starting"
            )
        }
        if self.host.file("/sys/class/net/kube-ipvs0/operstate") != nil {
            return CheckResult(
                name,
                .warn,
                "the device kube-ipvs0 is there, but no kube-proxy answers: its mode ipvs left the addresses of services on this node, where those that the mesh does not serve end",
                mend: "start kube-proxy, or clear them with `kube-proxy --cleanup`"
            )
        }
        if let ipvs = self.host.file("/proc/net/ip_vs"), ipvs.split(separator: "\n").count > 3 {
            return CheckResult(
                name,
                .warn,
                "IPVS services are there, but no kube-proxy answers: leftovers may shadow services",
                mend: "start kube-proxy, or clear them with `kube-proxy --cleanup`"
            )
        }
        if let tables = await self.host.run("nft", ["list", "tables"], input: ""),
            tables.output.contains("kube-proxy")
        {
            return CheckResult(
                name,
                .warn,
                "kube-proxy's nftables table is there, but no kube-proxy answers",
                mend: "start kube-proxy, or clear its rules with `kube-proxy --cleanup`"
            )
        }
        return CheckResult(name, .pass, "no kube-proxy: the mesh serves alone")
    }
}
