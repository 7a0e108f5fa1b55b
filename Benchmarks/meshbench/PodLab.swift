import Glibc
import MeshCore
import NetLab

/// Two nodes of one LAN whose pods reach each other by their own addresses, in one of several ways.
///
///     west-client ─ cni0 ─ west ─── LAN ─── east ─ cni0 ─ east-app
struct PodLab {
    enum Way: String, CaseIterable {
        case ours
        /// The kernels alone: each node has a route to the other's pods.
        case routed = "routed veth"
        case openVPN = "OpenVPN"
        case tinc
        case wireGuard = "wireguard-go"

        /// Of Debian's packages.
        fileprivate var programs: [String] {
            switch self {
            case .ours, .routed: []
            case .openVPN: ["openvpn"]
            case .tinc: ["tincd"]
            case .wireGuard: ["wireguard-go", "wg"]
            }
        }
    }

    static let port = 5300

    let way: Way
    let world: World
    /// What carries packets in user space.
    private(set) var carriers: [LabProcess] = []

    /// Builds the networks and starts what carries packets, until a ping is answered.
    /// - Parameter congestionControl: of all nodes and pods; nil for this machine's.
    static func start(_ way: Way, program: String, congestionControl: String? = nil) async throws -> PodLab {
        for name in way.programs where !isInstalled(name) {
            throw BenchmarkError("\(name) is missing: run scripts/bootstrap")
        }
        var scenario = Scenario(
            name: "bench-pods-\(Way.allCases.firstIndex(of: way) ?? 0)",
            lans: [.init(name: "lan", nat: .open, nodes: [.init(name: "west"), .init(name: "east")])]
        )
        scenario.hasPodNetwork = true
        var options = World.Options()
        options.program = program
        if let congestionControl { options.sysctls["ipv4/tcp_congestion_control"] = congestionControl }
        var lab = PodLab(way: way, world: try await World.create(scenario, options))
        do {
            let server = try lab.world.lab.start(
                on: try lab.server.name,
                ["iperf3", "-s", "-p", "\(Self.port)"],
                log: "iperf3"
            )
            try await lab.world.lab.waitForListener(server, .tcp, port: UInt16(Self.port))
            try await lab.startCarriers()
            try await lab.world.lab.wait(for: "a ping by \(way.rawValue)", within: .seconds(60)) {
                try await lab.world.lab.run(
                    on: try lab.client.name,
                    ["busybox", "ping", "-c", "1", "-W", "1", try lab.target]
                ).status.isSuccess
            }
            return lab
        } catch {
            try? lab.world.remove()
            throw error
        }
    }

    var client: NodeLab.Pod { get throws { try self.world.node("west").client } }
    var server: NodeLab.Pod {
        get throws {
            guard let pod = try self.world.node("east").apps.first else { throw BenchmarkError("east has no pod") }
            return pod
        }
    }
    var target: String { get throws { "\(try self.server.address)" } }

    /// What they have used until now; nil if the kernel carries.
    func usage() throws -> ProcessUsage? {
        self.carriers.isEmpty ? nil : try ProcessUsage.total(of: self.carriers.map(\.processID))
    }

    // MARK: Ways

    private mutating func startCarriers() async throws {
        if self.way == .ours {
            try await self.world.startAgents()
            self.carriers = try ["west", "east"].compactMap { try self.world.agent(of: $0) }
            return
        }
        // What a node does to packets that leave it as its own is no part of a plain route.
        for node in ["west", "east"] {
            try await self.world.lab.output(on: node, ["nft", "delete", "table", "inet", "pods"])
        }
        let sides = [try self.side("west", peer: "east", number: 1), try self.side("east", peer: "west", number: 2)]
        for side in sides { try await self.prepare(side) }
        for side in sides {
            if let command = try await self.command(of: side, beside: sides[2 - side.number]) {
                self.carriers.append(
                    try self.world.lab.start(on: side.node, command, log: "\(side.node)-\(command[0])")
                )
            }
        }
        for side in sides { try await self.connect(side, to: sides[2 - side.number]) }
    }

    /// A node, and what the other one is to know of it.
    private struct Side {
        var node: String
        var number: Int
        var address: String
        var pods: String
        var peer: String
        var directory: String

        /// Of its own on each node: wireguard-go makes a file of this name that all nodes of a lab see.
        var device: String { "bench\(self.number)" }
    }

    private func side(_ node: String, peer: String, number: Int) throws -> Side {
        let found = try self.world.node(node)
        return Side(
            node: node,
            number: number,
            address: "\(found.address)",
            pods: "10.244.\(found.number).0/24",
            peer: peer,
            directory: "\(self.world.lab.directory)/\(node).\(self.way)"
        )
    }

    private func run(_ side: Side, _ script: String) async throws {
        try await self.world.lab.output(
            on: side.node,
            ["sh", "-ec", "mkdir -p \(side.directory); cd \(side.directory); \(script)"],
            deadline: .seconds(30)
        )
    }

    /// Keys and files.
    private func prepare(_ side: Side) async throws {
        switch self.way {
        case .ours, .routed: break
        case .openVPN:
            try await self.run(
                side,
                """
                openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=\(side.node) \
                    -keyout key.pem -out certificate.pem 2>/dev/null
                openssl x509 -in certificate.pem -noout -fingerprint -sha256 | cut -d = -f 2 > fingerprint
                """
            )
        case .tinc:
            // Its own defaults are Blowfish and four bytes of SHA-1.
            try await self.run(
                side,
                """
                mkdir -p hosts
                printf 'Name = \(side.node)\\nConnectTo = \(side.peer)\\nInterface = \(side.device)\\n' > tinc.conf
                printf 'Address = \(side.address)\\nSubnet = \(side.pods)\\nCipher = aes-128-cbc\\nDigest = sha256\\n' \
                    > hosts/\(side.node)
                tincd -c . -K2048 </dev/null 2>/dev/null
                """
            )
        case .wireGuard:
            try await self.run(side, "umask 077; wg genkey > key; wg pubkey < key > public")
        }
    }

    /// What carries the packets of a node; nil for the kernel.
    private func command(of side: Side, beside peer: Side) async throws -> [String]? {
        switch self.way {
        case .ours, .routed: return nil
        case .openVPN:
            let fingerprint = try readText("\(peer.directory)/fingerprint").filter { !$0.isWhitespace }
            let role = side.number == 1 ? ["--tls-server", "--dh", "none"] : ["--tls-client"]
            return [
                "openvpn", "--cd", side.directory, "--dev", side.device, "--dev-type", "tun", "--proto", "udp",
                "--remote", peer.address, "--ifconfig", "10.99.0.\(side.number)", "10.99.0.\(peer.number)",
                "--cert", "certificate.pem", "--key", "key.pem", "--peer-fingerprint", fingerprint,
                "--data-ciphers", "AES-128-GCM",
            ] + role
        case .tinc:
            try await self.run(side, "cp \(peer.directory)/hosts/\(peer.node) hosts/")
            return ["tincd", "-c", side.directory, "-D", "--pidfile=\(side.directory)/pid"]
        case .wireGuard:
            return ["wireguard-go", "-f", side.device]
        }
    }

    /// The way to the pods of the other node.
    private func connect(_ side: Side, to peer: Side) async throws {
        guard self.way != .routed else {
            return try await self.run(side, "ip route add \(peer.pods) via \(peer.address)")
        }
        try await self.world.lab.wait(for: "the device of \(self.way.rawValue) on \(side.node)") {
            try await self.world.lab.run(on: side.node, ["ip", "link", "show", side.device]).status.isSuccess
        }
        if self.way == .wireGuard {
            try await self.run(
                side,
                """
                wg set \(side.device) listen-port 51820 private-key key peer $(cat \(peer.directory)/public) \
                    allowed-ips \(peer.pods) endpoint \(peer.address):51820
                """
            )
        }
        try await self.run(
            side,
            "ip link set \(side.device) up; ip route add \(peer.pods) dev \(side.device)"
        )
    }

    private static func isInstalled(_ program: String) -> Bool {
        ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].contains {
            access("\($0)/\(program)", X_OK) == 0
        }
    }
}
