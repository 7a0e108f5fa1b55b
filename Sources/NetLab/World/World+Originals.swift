public import Documents
import Glibc
public import MeshCore

/// Agents of v1.17 on the nodes of a world. They read no folder of objects, so a world with them needs an API server.
extension World {
    /// All nodes reach the router in the middle, which is none of them.
    public static let apiServerHost = Internet.core
    public static let apiServerAddress = IPv4Address(1, 1, 1, 1)
    public static let apiServerPort: UInt16 = 8080
    public static let apiServerURL = "http://\(World.apiServerAddress):\(World.apiServerPort)"

    /// All objects of the folder as an API server has them, with `Endpoints` beside the slices: v1.17 knows no others.
    public func objects() throws -> [Document] {
        let documents = try Files.names(in: self.manifestsDirectory).flatMap { name in
            try Document.parseYAML(try Files.read("\(self.manifestsDirectory)/\(name)"))
        }
        return documents + documents.compactMap(Self.endpoints)
    }

    private static func endpoints(_ slice: Document) -> Document? {
        guard slice["kind"]?.string == "EndpointSlice",
            let service = slice["metadata"]?["labels"]?["kubernetes.io/service-name"]
        else { return nil }
        let addresses = (slice["endpoints"]?.array ?? []).flatMap { endpoint in
            (endpoint["addresses"]?.array ?? []).map { address -> Document in
                ["ip": address, "nodeName": endpoint["nodeName"] ?? ""]
            }
        }
        return [
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": ["name": service, "namespace": slice["metadata"]?["namespace"] ?? "default"],
            "subsets": [["addresses": .array(addresses), "ports": slice["ports"] ?? []]],
        ]
    }

    /// Starts an agent of v1.17 on a node, which follows the API server and holds the world's pre-shared key.
    public func startOriginal(_ program: String, on node: String) throws(LabError) -> LabProcess {
        let relays = self.relayItems.map { "      \($0)\n" }
        let configuration = "\(self.lab.directory)/\(node)-original.yaml"
        try Files.write(
            """
            kubeAPIConfig: {master: "\(Self.apiServerURL)", contentType: application/json}
            modules:
              edgeDNS: {enable: false}
              edgeProxy: {enable: true}
              edgeTunnel:
                enable: true
                psk: {enable: true, path: \(self.pskFile)}
                relayNodes:\(relays.isEmpty ? " []" : "")
            \(relays.joined())
            """,
            to: configuration
        )
        // It wants to raise a limit further than most machines let it, and ends otherwise; told that it has, it starts.
        let trace = [
            "strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=prlimit64,setrlimit", "-e",
            "inject=prlimit64,setrlimit:retval=0",
        ]
        return try self.lab.start(
            on: node,
            trace + [program, "--config-file=\(configuration)"],
            environment: ["NODE_NAME": node, "NAMESPACE": "kubeedge"],
            log: "\(node)-agent"
        )
    }

    /// Ends the trace of an agent of v1.17 whose start is over: it would slow down every signal that it sends itself.
    public static func endTrace(ofOriginal agent: LabProcess) throws(LabError) {
        let status = try Files.readText("/proc/\(agent.processID)/status")
        let line = status.split(separator: "\n").first { $0.hasPrefix("TracerPid:") }
        if let tracer = line?.split(separator: "\t").last.flatMap({ Int32($0) }), tracer > 0 { kill(tracer, SIGKILL) }
    }
}
