import MeshCore

/// What a lab of several LANs consists of: the content of a scenario file.
///
/// Every node has an agent, a pod that calls (`NODE-client`) and pods that answer (`NODE-app`), which stand behind a service
/// with the node's name.
public struct Scenario: Sendable, Hashable {
    public struct LAN: Sendable, Hashable {
        public var name: String
        public var nat = NATKind.masquerade
        /// Its line to the internet.
        public var link = LinkConditions()
        public var nodes: [Node] = []

        public init(name: String, nat: NATKind = .masquerade, link: LinkConditions = .init(), nodes: [Node] = []) {
            self.name = name
            self.nat = nat
            self.link = link
            self.nodes = nodes
        }
    }

    public struct Node: Sendable, Hashable {
        public var name: String
        /// Whether other nodes use it as a relay; it has to be reachable from everywhere.
        public var isRelay = false
        /// Whether it has a second card, on the network of clients that are not in the mesh, and a gateway for them.
        public var isGateway = false
        /// How many pods answer.
        public var pods = 1
        /// Its cable to the LAN.
        public var link = LinkConditions()

        public init(
            name: String,
            isRelay: Bool = false,
            isGateway: Bool = false,
            pods: Int = 1,
            link: LinkConditions = .init()
        ) {
            self.name = name
            self.isRelay = isRelay
            self.isGateway = isGateway
            self.pods = pods
            self.link = link
        }
    }

    /// A service before the pods of several nodes.
    public struct Service: Sendable, Hashable {
        public enum Balancing: String, Sendable, CaseIterable {
            case roundRobin = "ROUND_ROBIN"
            case random = "RANDOM"
        }

        public var name: String
        public var nodes: [String]
        public var balancing: Balancing?

        public init(name: String, nodes: [String], balancing: Balancing? = nil) {
            self.name = name
            self.nodes = nodes
            self.balancing = balancing
        }
    }

    public enum Transport: String, Sendable, CaseIterable { case tcp, ws }

    public var name: String
    /// What it shows, for people.
    public var summary = ""
    public var transport = Transport.tcp
    /// Whether the agents serve the network of pods (`edgeCNI`); pods have IPv6, too, then.
    public var hasPodNetwork = false
    public var lans: [LAN]
    public var services: [Service] = []

    public init(name: String, lans: [LAN], services: [Service] = []) {
        self.name = name
        self.lans = lans
        self.services = services
    }

    public var nodes: [Node] { self.lans.flatMap(\.nodes) }

    /// NATs that a file may name. `firewall-v6` is not among them: pods of the lab have IPv4.
    static let natKinds = NATKind.allCases.filter { $0.families.contains(.v4) }
    static let maximumNodes = 200
    static let maximumPods = 20
}
