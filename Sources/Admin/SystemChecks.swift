import LinuxNetwork
public import MeshCore

/// The checks of the machine under `edgemesh check`. Each reads, none changes anything. They work without an agent.
public struct SystemChecks<Host: HostReading>: Sendable {
    /// What the checks measure the machine against.
    public struct Expectation: Hashable, Sendable {
        public var bridgeAddress: IPAddress
        public var dnsPort: UInt16
        public var isDNSEnabled: Bool
        public var isProxyEnabled: Bool
        /// Whether an agent answers on the admin socket: then its ports are taken, as they should be.
        public var isAgentRunning: Bool
        /// Its process, if it is known.
        public var agentProcess: Int32?
        /// The configured one: `auto`, `nftables`, `iptables` or `none`.
        public var kernelBackend: String
        /// Of the addresses of pods that edgeCNI serves; none if it is off.
        public var podFamilies: Set<IPFamily>

        public init(
            bridgeAddress: IPAddress,
            dnsPort: UInt16,
            isDNSEnabled: Bool,
            isProxyEnabled: Bool,
            isAgentRunning: Bool,
            agentProcess: Int32? = nil,
            kernelBackend: String = "auto",
            podFamilies: Set<IPFamily> = []
        ) {
            self.bridgeAddress = bridgeAddress
            self.dnsPort = dnsPort
            self.isDNSEnabled = isDNSEnabled
            self.isProxyEnabled = isProxyEnabled
            self.isAgentRunning = isAgentRunning
            self.agentProcess = agentProcess
            self.kernelBackend = kernelBackend
            self.podFamilies = podFamilies
        }
    }

    let host: Host
    let expectation: Expectation

    public init(host: Host, expectation: Expectation) {
        self.host = host
        self.expectation = expectation
    }

    public func run() async -> [CheckResult] {
        var results = [self.fileLimit()]
        // A gateway by itself changes nothing on its node.
        if self.expectation.isProxyEnabled || self.expectation.isDNSEnabled || !self.expectation.podFamilies.isEmpty {
            results.insert(self.privileges(), at: 0)
        }
        if self.expectation.isProxyEnabled {
            results.append(await self.packetFilter())
            results.append(self.ipForward())
            results.append(self.bridgeFilter())
            results.append(self.conntrack())
            results.append(await self.kubeProxy())
            results.append(await self.forwarding())
            results.append(self.defaultRoute())
        }
        if !self.expectation.podFamilies.isEmpty {
            if !self.expectation.isProxyEnabled { results += [self.ipForward(), await self.forwarding()] }
            results += await self.podNetwork()
        }
        if self.expectation.isDNSEnabled {
            results.append(await self.dnsPort())
            results.append(self.nodeResolver())
            results.append(self.podResolver())
        }
        return results
    }

    func privileges() -> CheckResult {
        let name = "privileges"
        let capNetAdmin = 12
        guard let status = self.host.file("/proc/self/status"),
            let line = status.split(separator: "\n").first(where: { $0.hasPrefix("CapEff:") }),
            let mask = UInt64(line.dropFirst(7).filter { !$0.isWhitespace }, radix: 16)
        else {
            return CheckResult(name, .warn, "cannot read the capabilities of this process", mend: "mount /proc")
        }
        guard mask >> UInt64(capNetAdmin) & 1 == 1 else {
            return CheckResult(
                name,
                .fail,
                "this process lacks CAP_NET_ADMIN",
                mend: "run as root, or give the container privileged: true or the capability NET_ADMIN"
            )
        }
        return CheckResult(name, .pass, "CAP_NET_ADMIN is there")
    }

    func fileLimit() -> CheckResult {
        let name = "file-limit"
        let wanted: UInt64 = 16_384
        let limit = self.host.fileLimit
        guard limit >= wanted else {
            return CheckResult(
                name,
                .warn,
                "\(limit) open files at most: about \(limit / 2) proxied connections at once",
                mend: "raise LimitNOFILE of the unit or the container runtime to \(wanted) or more"
            )
        }
        return CheckResult(name, .pass, "\(limit) open files at most")
    }

    func packetFilter() async -> CheckResult {
        let name = "packet-filter"
        let capabilities = await self.host.kernelCapabilities()
        let nfTables = capabilities.nfTables.reason
        do {
            let backend = try ServiceProgrammingBackend.choose(
                configured: self.expectation.kernelBackend,
                capabilities
            )
            switch backend {
            case .none:
                return CheckResult(name, .pass, "kernelBackend none: the kernel's rules are made by other means")
            case .nftables: return CheckResult(name, .pass, nfTables)
            case .iptables(let variant) where self.expectation.kernelBackend == "iptables":
                return CheckResult(name, .pass, "\(variant.rawValue) serves, as configured")
            case .iptables(let variant):
                return CheckResult(
                    name,
                    .warn,
                    "\(nfTables); \(variant.rawValue) serves instead",
                    mend: "load the modules named: with nftables changes are cheaper and no rule is needed per service"
                )
            }
        } catch {
            return CheckResult(
                name,
                .fail,
                error.description,
                mend: "load the modules named, or install iptables; run as root to see more"
            )
        }
    }

    func ipForward() -> CheckResult {
        let name = "ip-forward"
        switch self.host.file("/proc/sys/net/ipv4/ip_forward")?.first {
        case "1": return CheckResult(name, .pass, "the kernel forwards IPv4")
        case "0":
            return CheckResult(
                name,
                .fail,
                "the kernel does not forward IPv4: pods cannot reach other pods through a service",
                mend: "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d for the next start"
            )
        default: return CheckResult(name, .warn, "cannot read net.ipv4.ip_forward", mend: "mount /proc/sys")
        }
    }

    func bridgeFilter() -> CheckResult {
        let name = "bridge-nf-call-iptables"
        switch self.host.file("/proc/sys/net/bridge/bridge-nf-call-iptables")?.first {
        case "1": return CheckResult(name, .pass, "bridged packets pass the packet filter")
        case "0":
            return CheckResult(
                name,
                .warn,
                "bridged packets skip the packet filter: a pod may not reach a service whose endpoint is on its own bridge",
                mend: "sysctl -w net.bridge.bridge-nf-call-iptables=1"
            )
        default:
            return CheckResult(
                name,
                .warn,
                "br_netfilter is not loaded: needed where pods sit behind a Linux bridge",
                mend: "modprobe br_netfilter, unless the pod network has no bridge"
            )
        }
    }

    func conntrack() -> CheckResult {
        let name = "conntrack"
        guard let limit = self.number("/proc/sys/net/netfilter/nf_conntrack_max"), limit > 0 else {
            return CheckResult(
                name,
                .warn,
                "connection tracking is not loaded yet",
                mend: "modprobe nf_conntrack; the agent's rules load it"
            )
        }
        let count = self.number("/proc/sys/net/netfilter/nf_conntrack_count") ?? 0
        guard count * 10 < limit * 8 else {
            return CheckResult(
                name,
                .warn,
                "\(count) of \(limit) tracked connections are in use: new ones will be dropped",
                mend: "sysctl -w net.netfilter.nf_conntrack_max=\(limit * 2)"
            )
        }
        return CheckResult(name, .pass, "\(count) of \(limit) tracked connections are in use")
    }

    private func number(_ path: String) -> Int? {
        self.host.file(path).flatMap { Int($0.prefix { $0.isNumber }) }
    }
}
