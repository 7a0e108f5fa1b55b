import Synchronization

/// Which interfaces belong to the tunnel. Any thread.
///
/// Those that container runtimes and the agents make lead to no other node. A bridge may: `br0` or `br-lan` is the uplink of many a
/// machine. So only the bridges of containers, `br-` and twelve hexadecimal digits, are left out, and nothing is that carries the
/// default route, unless the configuration names its prefix.
final class InterfaceSelection: Sendable {
    /// Prefixes of names; with those of v1.17 but `br`.
    static let virtual = [
        "docker", "edgemesh", "tunl", "flannel", "cni", "kube-ipvs", "veth", "cali", "cilium", "lxc", "virbr",
        "nodelocaldns", "dummy", "podman",
    ]

    private let named: Set<String>
    private let filtered: [String]
    private let uplinks = Mutex<Set<String>>([])

    /// - Parameters:
    ///   - named: the only interfaces that count, if there are any.
    ///   - filtered: prefixes of names of others that do not.
    init(named: Set<String>, filtered: [String]) {
        self.named = named
        self.filtered = filtered
    }

    /// Whether all interfaces are listened on, so that one socket does for them.
    var isOpen: Bool { self.named.isEmpty }

    /// Which devices carry a default route.
    func setUplinks(_ names: Set<String>) { self.uplinks.withLock { $0 = names } }

    func admits(_ name: String) -> Bool {
        if self.filtered.contains(where: { name.hasPrefix($0) }) { return false }
        if !self.named.isEmpty { return self.named.contains(name) }
        if name == "lo" { return false }
        if self.uplinks.withLock({ $0.contains(name) }) { return true }
        return !Self.virtual.contains { name.hasPrefix($0) } && !Self.isContainerBridge(name)
    }

    private static func isContainerBridge(_ name: String) -> Bool {
        guard name.hasPrefix("br-") else { return false }
        let rest = name.dropFirst(3)
        return rest.utf8.count == 12 && rest.allSatisfy { $0.isHexDigit && !$0.isUppercase }
    }
}
