import Glibc
import MeshCore
import NetLab

/// Three gateways beside each other on one processor, with the clients and the backend on the other.
///
///     client  192.168.60.101… ─┐
///                              LAN ─ gateway 192.168.60.10: ours, nginx, haproxy
///     backend 192.168.60.20  ──┘
///
/// All of them add the fields that a backend wants to know of (`x-forwarded-for`, `-proto`, `-host`, `x-request-id`), log no
/// request, and keep connections to the backend open.
struct GatewayLab {
    enum Gateway: String, CaseIterable {
        case ours, nginx, haproxy

        /// Clear HTTP; HTTPS is the port behind it, and TLS that is passed on the one behind that.
        var httpPort: Int {
            switch self {
            case .ours: 8001
            case .nginx: 8101
            case .haproxy: 8201
            }
        }
        var httpsPort: Int { self.httpPort + 1 }
        var passthroughPort: Int { self.httpPort + 2 }
    }

    static let gatewayAddress = "192.168.60.10"
    static let backendAddress = "192.168.60.20"
    /// One client address has fewer connections than our default limit for one.
    static let clientAddresses = (101...108).map { "192.168.60.\($0)" }
    static let host = "bench.example"
    private static let (gatewayCore, otherCore) = ("0", "1")
    private static let (webPort, tlsPort) = (8080, 8443)
    /// What a request is answered with.
    private static let content = String(repeating: "x", count: 1024)
    /// For passthrough; sparse.
    static let bigFileBytes = 1 << 30

    let lab: Lab
    private(set) var processes: [Gateway: LabProcess] = [:]

    /// Builds the lab and starts the backend.
    static func start() async throws -> GatewayLab {
        var plan = LabPlan(name: "bench-gateway")
        plan.addLAN("lan")
        var client = LabPlan.Host(name: "client")
        client.interfaces = [
            .init(
                name: "eth0",
                attachment: .lan("lan"),
                addresses: Self.clientAddresses.compactMap { IPv4Address($0) }.map {
                    InterfaceAddress($0, prefixLength: 24)
                }
            )
        ]
        plan.add(client)
        for (name, last) in [("gateway", UInt8(10)), ("backend", 20)] {
            plan.addHost(
                name,
                on: "lan",
                address: InterfaceAddress(IPv4Address(192, 168, 60, last), prefixLength: 24)
            )
        }
        let lab = GatewayLab(lab: try await Lab.create(plan))
        do {
            try await lab.startBackend()
            return lab
        } catch {
            try? lab.lab.remove()
            throw error
        }
    }

    private var directory: String { self.lab.directory }

    private func startBackend() async throws {
        let authority = try await LabAuthority(in: "\(self.directory)/tls")
        let certificate = try await authority.issue("bench", hosts: [Self.host])
        // haproxy wants both in one file.
        try writeText(
            try readText(certificate.certificateFile) + readText(certificate.keyFile),
            to: "\(self.directory)/bench.pem"
        )
        try writeText(try await authority.secret("bench", certificate), to: "\(self.directory)/secret.yaml")
        try await self.lab.output(
            on: "backend",
            ["truncate", "-s", "\(Self.bigFileBytes)", "\(self.directory)/big"]
        )
        let configuration = try self.write(
            "backend.conf",
            """
            \(self.nginxMain("backend"))
            http {
              access_log off;
              keepalive_requests 1000000000;
              keepalive_timeout 300s;
              server {
                listen \(Self.webPort) backlog=4096;
                location / { default_type text/plain; return 200 "\(Self.content)"; }
              }
              server {
                listen \(Self.tlsPort) ssl;
                \(self.nginxCertificate)
                root \(self.directory);
              }
            }

            """
        )
        let backend = try self.startPinned(Self.otherCore, ["nginx", "-c", configuration], on: "backend")
        try await self.lab.waitForListener(backend, .tcp, port: UInt16(Self.tlsPort))
    }

    /// Starts a gateway.
    ///
    /// - Parameter program: The `edgemesh` executable, for ours.
    mutating func start(_ gateway: Gateway, program: String) async throws {
        let process =
            switch gateway {
            case .ours: try self.startOurs(program)
            case .nginx:
                try self.startPinned(Self.gatewayCore, ["nginx", "-c", try self.write("nginx.conf", self.nginx)])
            case .haproxy:
                try self.startPinned(
                    Self.gatewayCore,
                    ["haproxy", "-db", "-f", try self.write("haproxy.cfg", self.haproxy)]
                )
            }
        for port in [gateway.httpPort, gateway.httpsPort, gateway.passthroughPort] {
            try await self.lab.waitForListener(process, .tcp, port: UInt16(port), within: .seconds(20))
        }
        self.processes[gateway] = process
        let url = "https://\(Self.host):\(gateway.httpsPort)/"
        try await self.lab.wait(for: "\(gateway.rawValue) to answer", within: .seconds(20)) {
            try await self.lab.run(on: "client", self.curl(url)).status.isSuccess
        }
    }

    /// A process and its children, such as nginx and its worker.
    func processIDs(of gateway: Gateway) throws -> [Int32] {
        guard let process = self.processes[gateway], process.isRunning else {
            throw BenchmarkError("\(gateway.rawValue) does not run")
        }
        let main = process.processID
        let children = try readText("/proc/\(main)/task/\(main)/children").split(separator: " ").compactMap {
            Int32($0.filter(\.isNumber))
        }
        return [main] + children
    }

    // MARK: Clients

    func curl(_ url: String) -> [String] {
        ["curl", "-sS", "-k", "--fail", "--connect-to", "\(Self.host)::\(Self.gatewayAddress):", url]
    }

    /// Runs a program of the client's side, and returns what it prints.
    func load(_ arguments: [String], deadline: Duration = .seconds(120)) async throws -> String {
        try await self.lab.output(
            on: "client",
            ["taskset", "-c", Self.otherCore] + arguments,
            program: "/usr/bin/taskset",
            deadline: deadline
        )
    }

    /// Sockets of the client that are connected to a gateway and have had one answer each.
    func openIdle(_ count: Int, to gateway: Gateway) throws -> [Int32] {
        let request = "GET / HTTP/1.1\r\nHost: \(Self.host)\r\n\r\n"
        var descriptors: [Int32] = []
        for index in 0..<count {
            let source = Self.clientAddresses[index % Self.clientAddresses.count]
            let descriptor = try self.lab.withNetwork(of: "client") {
                socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            }
            guard descriptor >= 0 else { throw BenchmarkError("no further socket: errno \(errno)") }
            descriptors.append(descriptor)
            var buffer = [UInt8](repeating: 0, count: 4096)
            let bytes = Array(request.utf8)
            var isAnswered =
                Self.call(bind, descriptor, source, 0)
                && Self.call(connect, descriptor, Self.gatewayAddress, gateway.httpPort)
                && send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
            var received = 0
            // The content alone is longer than that.
            while isAnswered, received < Self.content.utf8.count {
                let count = recv(descriptor, &buffer, buffer.count, 0)
                isAnswered = count > 0
                received += count
            }
            guard isAnswered else {
                for descriptor in descriptors { close(descriptor) }
                throw BenchmarkError("\(gateway.rawValue) took \(index) of \(count) connections: errno \(errno)")
            }
        }
        return descriptors
    }

    private static func call(
        _ function: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32,
        _ descriptor: Int32,
        _ address: String,
        _ port: Int
    ) -> Bool {
        var value = sockaddr_in()
        value.sin_family = sa_family_t(AF_INET)
        value.sin_port = UInt16(port).bigEndian
        value.sin_addr.s_addr = (IPv4Address(address)?.rawValue ?? 0).bigEndian
        return withUnsafePointer(to: &value) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                function(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }

    // MARK: Gateways

    private func write(_ name: String, _ text: String) throws -> String {
        let path = "\(self.directory)/\(name)"
        try writeText(text, to: path)
        return path
    }

    private func startPinned(_ core: String, _ arguments: [String], on host: String = "gateway") throws -> LabProcess {
        try self.lab.start(
            on: host,
            ["taskset", "-c", core] + arguments,
            program: "/usr/bin/taskset",
            environment: ["NODE_NAME": "gateway", "NAMESPACE": "kubeedge"],
            log: "\(host)-\(arguments[0].split(separator: "/").last ?? "")"
        )
    }

    private func startOurs(_ program: String) throws -> LabProcess {
        let manifests = "\(self.directory)/manifests"
        mkdir(manifests, 0o755)
        _ = try self.write("manifests/secret.yaml", try readText("\(self.directory)/secret.yaml"))
        _ = try self.write("manifests/gateway.yaml", Self.manifests)
        let configuration = try self.write(
            "gateway.yaml",
            """
            apiVersion: gateway.edgemesh.config.kubeedge.io/v1alpha1
            kind: EdgeMeshGateway
            commonConfig:
              stateDir: \(self.directory)/state
              adminSocket: \(self.directory)/admin.sock
            modules:
              edgeGateway: {enable: true}
              edgeTunnel: {enable: false}

            """
        )
        // taskset replaces itself by the program, which takes its role from the first argument.
        return try self.startPinned(
            Self.gatewayCore,
            [program, "gateway", "--config-file=\(configuration)", "--manifests=\(manifests)"]
        )
    }

    private static var manifests: String {
        func server(_ port: Int, _ name: String, _ protocolName: String, _ tls: String) -> String {
            "  - {port: {number: \(port), name: \(name), protocol: \(protocolName)}, hosts: ['*']\(tls)}\n"
        }
        let ours = Gateway.ours
        return """
            apiVersion: v1
            kind: Service
            metadata: {name: backend, namespace: default}
            spec:
              clusterIP: 10.96.10.1
              ports: [{name: web, port: \(Self.webPort)}, {name: tls, port: \(Self.tlsPort)}]
            ---
            apiVersion: discovery.k8s.io/v1
            kind: EndpointSlice
            metadata: {name: backend-1, namespace: default, labels: {kubernetes.io/service-name: backend}}
            addressType: IPv4
            ports: [{name: web, port: \(Self.webPort)}, {name: tls, port: \(Self.tlsPort)}]
            endpoints: [{addresses: [\(Self.backendAddress)], nodeName: gateway, conditions: {ready: true}}]
            ---
            apiVersion: networking.istio.io/v1
            kind: Gateway
            metadata: {name: bench, namespace: default}
            spec:
              servers:
            \(server(ours.httpPort, "web", "HTTP", ""))\
            \(server(ours.httpsPort, "secure", "HTTPS", ", tls: {mode: SIMPLE, credentialName: bench}"))\
            \(server(ours.passthroughPort, "pass", "TLS", ", tls: {mode: PASSTHROUGH}"))\
            ---
            apiVersion: networking.istio.io/v1
            kind: VirtualService
            metadata: {name: bench, namespace: default}
            spec:
              gateways: [bench]
              hosts: ['*']
              http: [{route: [{destination: {host: backend, port: {number: \(Self.webPort)}}}]}]
              tls:
              - match: [{sniHosts: [\(Self.host)]}]
                route: [{destination: {host: backend, port: {number: \(Self.tlsPort)}}}]

            """
    }
}

// MARK: - Their configurations

extension GatewayLab {
    private func nginxMain(_ name: String) -> String {
        """
        daemon off;
        user root;
        worker_processes 1;
        worker_rlimit_nofile 19000;
        pid \(self.lab.directory)/\(name).pid;
        error_log stderr error;
        events { worker_connections 15000; }
        """
    }

    private var nginxCertificate: String {
        "ssl_certificate \(self.lab.directory)/tls/bench.crt; ssl_certificate_key \(self.lab.directory)/tls/bench.key;"
    }

    private var nginx: String {
        """
        load_module /usr/lib/nginx/modules/ngx_stream_module.so;
        \(self.nginxMain("nginx"))
        http {
          access_log off;
          keepalive_requests 10000;
          keepalive_timeout 75s;
          upstream web { server \(Self.backendAddress):\(Self.webPort); keepalive 256; keepalive_requests 1000000000; }
          server {
            listen \(Gateway.nginx.httpPort) backlog=4096;
            listen \(Gateway.nginx.httpsPort) ssl http2 backlog=4096;
            \(self.nginxCertificate)
            location / {
              proxy_pass http://web;
              proxy_http_version 1.1;
              proxy_set_header Connection "";
              proxy_set_header Host $http_host;
              proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
              proxy_set_header X-Forwarded-Proto $scheme;
              proxy_set_header X-Forwarded-Host $http_host;
              proxy_set_header X-Request-Id $request_id;
            }
          }
        }
        stream {
          map $ssl_preread_server_name $chosen { \(Self.host) tls; }
          upstream tls { server \(Self.backendAddress):\(Self.tlsPort); }
          server { listen \(Gateway.nginx.passthroughPort); ssl_preread on; proxy_pass $chosen; }
        }

        """
    }

    private var haproxy: String {
        """
        global
          maxconn 15000
          no strict-limits
          nbthread 1
        defaults
          timeout connect 5s
          timeout client 300s
          timeout server 300s
          timeout http-keep-alive 75s
        frontend web
          mode http
          bind :\(Gateway.haproxy.httpPort)
          bind :\(Gateway.haproxy.httpsPort) ssl crt \(self.lab.directory)/bench.pem alpn h2,http/1.1
          option forwardfor
          http-request set-header X-Forwarded-Proto https if { ssl_fc }
          http-request set-header X-Forwarded-Proto http if !{ ssl_fc }
          http-request set-header X-Forwarded-Host %[req.hdr(host)]
          http-request set-header X-Request-Id %[uuid()]
          default_backend web
        backend web
          mode http
          http-reuse always
          server web \(Self.backendAddress):\(Self.webPort)
        frontend tls
          mode tcp
          bind :\(Gateway.haproxy.passthroughPort)
          tcp-request inspect-delay 5s
          tcp-request content accept if { req.ssl_hello_type 1 }
          use_backend tls if { req.ssl_sni -i \(Self.host) }
        backend tls
          mode tcp
          server tls \(Self.backendAddress):\(Self.tlsPort)

        """
    }
}
