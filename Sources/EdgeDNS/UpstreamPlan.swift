import HashTreeCollections
import KubeModel
import MeshCore
import ServiceCatalog

/// Which upstreams are to be asked, decided from the settings, the resolver configuration and the catalog.
struct UpstreamPlan: Hashable, Sendable {
    /// In the order of preference, each once.
    var upstreams: [TransportAddress] = []
    /// What an operator should know, one sentence each.
    var problems: [String] = []

    /// More than this many upstreams are not asked: a list that long is no list of name servers.
    static let maximumUpstreams = 16
    static let clusterDNSNamespace = "kube-system"
    static let clusterDNSNames = ["coredns", "kube-dns"]

    /// - Parameter resolvConf: nil if the file is not there or cannot be read.
    init(settings: EdgeDNSSettings, resolvConf: ResolvConf?, snapshot: CatalogSnapshot) {
        let origin: String
        if let cacheDNS = settings.cacheDNS {
            origin = "cacheDNS.upstreamServers or the cluster's DNS services"
            if cacheDNS.autoDetect {
                self.upstreams += UpstreamPlan.clusterDNS(in: snapshot)
            }
            self.upstreams += cacheDNS.upstreamServers
        } else if let upstreams = settings.upstreams {
            origin = "the configured upstreams"
            self.upstreams = upstreams
        } else {
            origin = settings.resolvConfPath
            self.upstreams = resolvConf?.nameServers ?? []
            for line in resolvConf?.unusable ?? [] {
                self.problems.append("\(origin): '\(line)' cannot be used: give an address without a scope")
            }
        }
        let own = self.upstreams.filter { upstream in
            settings.listenAddresses.contains { listening in
                listening.port == upstream.port
                    && (listening.address == upstream.address
                        || listening.address.isUnspecified && upstream.address.isLoopback)
            }
        }
        for address in Set(own).sorted() {
            self.problems.append(
                "\(origin) names this server itself (\(address)) as an upstream; it is left out, since queries would go "
                    + "in a circle: name the network's own DNS server there"
            )
        }
        var seen = Set(own)
        self.upstreams = self.upstreams.filter { seen.insert($0).inserted }
        if self.upstreams.count > UpstreamPlan.maximumUpstreams {
            self.problems.append(
                "\(origin) gives \(self.upstreams.count) upstreams; only the first \(UpstreamPlan.maximumUpstreams) are asked"
            )
            self.upstreams.removeLast(self.upstreams.count - UpstreamPlan.maximumUpstreams)
        }
        if self.upstreams.isEmpty {
            self.problems.append(
                settings.cacheDNS == nil
                    ? "\(origin) gives no usable upstream: cluster names are answered, all others are refused"
                    : "cacheDNS has no upstream yet: no service coredns, kube-dns or with the label k8s-app=kube-dns in "
                        + "kube-system has a cluster IP, and none is configured; every name is refused until one appears"
            )
        }
    }

    /// The cluster's own DNS: the services of the usual names, then those with its label, in order of name. A service that
    /// has the label but no UDP port is something beside the server, such as its metrics.
    private static func clusterDNS(in snapshot: CatalogSnapshot) -> [TransportAddress] {
        let named = self.clusterDNSNames.compactMap {
            snapshot.services[ObjectName(namespace: self.clusterDNSNamespace, name: $0)]
        }
        let labelled = snapshot.services.values.filter {
            $0.object.filterLabels.contains(.clusterDNS) && $0.name.namespace == self.clusterDNSNamespace
                && $0.object.ports.contains { $0.transport == .udp }
        }
        return (named + labelled.sorted { $0.name < $1.name }).flatMap { service in
            let ports = service.object.ports.filter { $0.transport == .udp }.map(\.port)
            let port = ports.contains(53) ? 53 : ports.first ?? 53
            return service.object.clusterIPs.map { TransportAddress($0, port) }
        }
    }
}
