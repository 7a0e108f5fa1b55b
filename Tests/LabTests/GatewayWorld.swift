import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

/// A world with a gateway on an edge node in one LAN and one within the agent of another node there, applications behind the NAT of
/// another LAN, and a client outside of the mesh; shared by the tests of one suite.
struct GatewayWorld: SuiteTrait, TestScoping {
    @TaskLocal private static var current: World?

    static var world: World { get throws { try #require(Self.current) } }

    static let node = "gate-1"
    /// Its agent serves a gateway.
    static let agentNode = "gate-2"

    private static var scenario: Scenario {
        var scenario = Scenario(
            name: "gateway",
            lans: [
                .init(name: "cloud", nat: .open, nodes: [.init(name: "relay-1", isRelay: true, pods: 0)]),
                .init(
                    name: "near",
                    nodes: [.init(name: Self.node, isGateway: true), .init(name: Self.agentNode, isGateway: true)]
                ),
                .init(name: "far", nodes: [.init(name: "far-1", pods: 2), .init(name: "far-2")]),
            ]
        )
        scenario.services = [.init(name: "both", nodes: ["far-1", "far-2"], balancing: .roundRobin)]
        return scenario
    }

    func provideScope(
        for test: Test,
        testCase: Test.Case?,
        performing function: @concurrent @Sendable () async throws -> Void
    ) async throws {
        try await withWorld(Self.scenario, name: "gateway") { options in
            // The node's own addresses are left to its applications.
            let settings = "edgeGateway: {enable: true, nic: \(WorldPlan.outsideInterface)}"
            options.agentModules = [Self.agentNode: [settings]]
        } _: { world in
            try await world.startAgents(within: .seconds(90))
            try await Self.startServers(in: world)
            try await GatewayObjects.apply(to: world)
            try world.startGateway(of: Self.node)
            try await world.eventually("the gateway to answer", "http://shop.example/") {
                $0.body.hasPrefix("far-1-app")
            }
            try await Self.$current.withValue(world, operation: function)
        }
    }

    /// What the lab's own applications do not do, by Debian's Python.
    private static func startServers(in world: World) async throws {
        for (name, script, port) in [("echo", GatewayServers.echo, 9000), ("grpc", GatewayServers.grpc, 50_051)] {
            let server = try world.lab.start(
                on: "far-1-app",
                ["/usr/bin/python3", "-c", script],
                log: "far-1-app-\(name)"
            )
            // Debian's interpreter compiles what it imports at its first start.
            try await world.lab.waitForListener(server, .tcp, port: UInt16(port), within: .seconds(60))
        }
    }
}

extension Trait where Self == GatewayWorld {
    static var gateway: GatewayWorld { GatewayWorld() }
}

/// What curl got.
struct GatewayReply: Sendable, CustomStringConvertible {
    /// 0 without an answer.
    var status = 0
    var version = ""
    var body = ""
    var exit: NetLab.ExitStatus
    var errors: String

    init(_ output: CommandOutput) {
        self.exit = output.status
        self.errors = output.standardError.trimmed
        // What `-w` writes stands behind the last line feed.
        let text = output.standardOutput
        guard let end = text.lastIndex(of: "\n") else { return }
        self.body = String(text[..<end]).trimmed
        let words = text[text.index(after: end)...].split(separator: " ")
        self.status = words.first.flatMap { Int($0) } ?? 0
        self.version = words.count > 1 ? String(words[1]) : ""
    }

    var description: String { "\(self.status) HTTP/\(self.version) \(self.body) (\(self.exit)) \(self.errors)" }
}

extension World {
    var authorityDirectory: String { "\(self.lab.directory)/authority" }

    /// Of the gateway, as a client outside dials it.
    func gatewayAddress(_ family: Int = 4, of node: String = GatewayWorld.node) throws -> String {
        let addresses = try self.node(node).outsideAddresses.map { "\($0)" }
        return try #require(addresses.first { $0.contains(":") == (family == 6) })
    }

    /// Asks the gateway from outside by curl, whatever address the URL's name has.
    func fetch(
        _ url: String,
        _ options: [String] = [],
        family: Int = 4,
        of node: String = GatewayWorld.node,
        maxTime: Int = 30
    ) async throws -> GatewayReply {
        let address = try self.gatewayAddress(family, of: node)
        let output = try await self.curlOutside(
            [
                "--connect-to", family == 6 ? "::[\(address)]:" : "::\(address):", "--cacert",
                "\(self.authorityDirectory)/ca.crt", "-w", "\\n%{http_code} %{http_version}",
            ] + options + [url],
            maxTime: maxTime
        )
        return GatewayReply(output)
    }

    /// Asks until the reply is as wanted: changes of objects reach the gateway when they do.
    @discardableResult
    func eventually(
        _ what: String,
        _ url: String,
        _ options: [String] = [],
        _ isWanted: (GatewayReply) -> Bool
    ) async throws -> GatewayReply {
        var last: GatewayReply?
        do {
            try await self.lab.wait(for: what, within: .seconds(60)) {
                let reply = try await self.fetch(url, options, maxTime: 5)
                last = reply
                return isWanted(reply)
            }
        } catch let error as LabError {
            let log = self.gatewayLogTail(of: GatewayWorld.node) ?? ""
            throw LabError(error.code, error.message, cause: "last: \(last.map { "\($0)" } ?? "")\n\(log)")
        }
        return try #require(last)
    }

    /// Runs openssl's client against the gateway from outside, and returns what it says of the connection.
    func handshake(_ name: String, port: Int = 443, _ options: [String] = []) async throws -> CommandOutput {
        let target = "\(try self.gatewayAddress()):\(port)"
        return try await self.lab.run(
            on: WorldPlan.outside,
            [
                "openssl", "s_client", "-connect", target, "-servername", name, "-CAfile",
                "\(self.authorityDirectory)/ca.crt",
            ] + options,
            deadline: .seconds(30)
        )
    }
}

/// Servers in Python.
enum GatewayServers {
    /// Answers with the request as it came; `/hang` never, `/sum` with the length and hash of the content.
    static let echo = """
        import hashlib, http.server, threading
        class Echo(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'
            def do_GET(self):
                if self.path.startswith('/hang'):
                    threading.Event().wait()
                content = self.content()
                if self.path.startswith('/sum'):
                    answer = f'{len(content)} {hashlib.sha256(content).hexdigest()}'
                else:
                    fields = ''.join(f'{name.lower()}: {value}\\n' for name, value in self.headers.items())
                    answer = f'{self.requestline}\\n{fields}'
                self.send_response(200)
                self.send_header('content-length', str(len(answer)))
                self.send_header('x-backend', 'echo')
                self.end_headers()
                self.wfile.write(answer.encode())
            do_POST = do_PUT = do_GET
            def content(self):
                if self.headers.get('transfer-encoding') != 'chunked':
                    return self.rfile.read(int(self.headers.get('content-length', 0)))
                content = b''
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return content
            def log_message(self, *arguments):
                pass
        server = http.server.ThreadingHTTPServer(('0.0.0.0', 9000), Echo)
        server.daemon_threads = True
        server.serve_forever()
        """

    /// All four kinds of calls, a status that is an error, and metadata behind the answer.
    static let grpc = """
        import concurrent.futures, grpc
        def say(request, context):
            context.set_trailing_metadata((('lab-trailer', 'seen'),))
            return b'hello ' + request
        def refuse(request, context):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'not today')
        def count(request, context):
            for number in range(int(request)):
                yield str(number).encode()
        def join(requests, context):
            return b' '.join(requests)
        def shout(requests, context):
            for request in requests:
                yield request.upper()
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler('lab.Echo', {
            'Say': grpc.unary_unary_rpc_method_handler(say),
            'Refuse': grpc.unary_unary_rpc_method_handler(refuse),
            'Count': grpc.unary_stream_rpc_method_handler(count),
            'Join': grpc.stream_unary_rpc_method_handler(join),
            'Shout': grpc.stream_stream_rpc_method_handler(shout),
        }),))
        server.add_insecure_port('0.0.0.0:50051')
        server.start()
        server.wait_for_termination()
        """

    /// Arguments: the gateway's address and port, the name to ask for, the authority's certificate.
    static let grpcClient = """
        import grpc, sys
        target, name, authority = sys.argv[1:]
        credentials = grpc.ssl_channel_credentials(open(authority, 'rb').read())
        options = [('grpc.ssl_target_name_override', name), ('grpc.enable_http_proxy', 0)]
        with grpc.secure_channel(target, credentials, options) as channel:
            say = channel.unary_unary('/lab.Echo/Say')
            answer, call = say.with_call(b'world', timeout=30)
            print(answer.decode(), dict(call.trailing_metadata()).get('lab-trailer'))
            print(b' '.join(channel.unary_stream('/lab.Echo/Count')(b'5', timeout=30)).decode())
            print(channel.stream_unary('/lab.Echo/Join')(iter([b'a', b'b', b'c']), timeout=30).decode())
            print(b' '.join(channel.stream_stream('/lab.Echo/Shout')(iter([b'x', b'y']), timeout=30)).decode())
            for method in ['Refuse', 'Nothing']:
                try:
                    channel.unary_unary('/lab.Echo/' + method)(b'', timeout=30)
                except grpc.RpcError as error:
                    print(error.code().value[0], error.details())
        """
}
