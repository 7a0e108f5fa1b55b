import Documents
import FakeKube
import Glibc
import MeshCore
import NIOCore
import NIOPosix
import NetLab

/// Memory of an idle agent, the time of its first program and the time from a watch event to the kernel and to DNS, with
/// as many services as asked, ten endpoints each, from an API server.
struct ScaleBenchmark {
    var services: Int
    static let endpointsPerService = 10
    /// Events whose way to the kernel and to DNS is timed.
    static let events = 20

    func run(program: String, into report: inout Report) async throws {
        var plan = LabPlan(name: "bench-scale")
        plan.addLAN("lan")
        plan.addNode(
            "node",
            on: "lan",
            address: InterfaceAddress(IPv4Address(192, 168, 50, 2), prefixLength: 24),
            podBridge: InterfaceAddress(IPv4Address(10, 244, 1, 1), prefixLength: 24),
            // Service addresses need a route to be sent at all; where it leads does not matter.
            gateway: .v4(IPv4Address(192, 168, 50, 1))
        )
        let lab = try await Lab.create(plan)
        defer { try? lab.remove() }
        // The API server and the clocks live in the node's namespace, in a process of their own.
        let output = try await lab.output(
            on: "node",
            ["/proc/self/exe", "scale-in-namespace", program, "\(self.services)", lab.directory],
            deadline: .seconds(180)
        )
        let figures = try Document.parseJSON(Array(output.utf8))
        let name = "\(self.services) services"
        func budget(_ small: Double, _ middle: Double, _ large: Double) -> Figure.Budget {
            .atMost(self.services <= 8 ? small : self.services <= 500 ? middle : large)
        }
        report.add("\(name): resident memory", try figures.number("residentMB"), "MB", budget: budget(16, 18, 80))
        report.add("\(name): anonymous memory", try figures.number("anonymousMB"), "MB", budget: budget(6, 8, 60))
        report.add("\(name): start to everything served", try figures.number("startMilliseconds"), "ms")
        report.add("\(name): restart to names served", try figures.number("restartMilliseconds"), "ms")
        report.add(
            "\(name): first program of the kernel",
            try figures.number("firstProgramMilliseconds"),
            "ms",
            budget: self.services == 500 ? .atMost(50) : nil
        )
        report.add(
            "\(name): event to kernel, median",
            try figures.number("kernelMilliseconds"),
            "ms",
            budget: .atMost(20)
        )
        report.add("\(name): event to DNS, median", try figures.number("dnsMilliseconds"), "ms", budget: .atMost(20))
    }

    /// The part that runs inside the node: prints its figures as JSON.
    static func runInNamespace(program: String, services: Int, directory: String) async throws {
        let fake = FakeKube()
        fake.fill(services: services, endpoints: Self.endpointsPerService)
        let probe = try ChangingService()
        probe.point(fake, at: 0)
        try await fake.start()

        let configuration = "\(directory)/agent.yaml"
        try writeText(
            BenchmarkLab.agentConfiguration(directory: directory, upstream: nil)
                + "kubeAPIConfig:\n  master: \(fake.url)\n",
            to: configuration
        )
        let started = MonotonicTime.now()
        func start() throws -> pid_t {
            try startProcess(
                program,
                ["edgemesh-agent", "--config-file=\(configuration)"],
                environment: ["NODE_NAME=node-0", "NAMESPACE=kubeedge", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                log: "\(directory)/agent.log"
            )
        }
        var agent = try start()
        defer { kill(agent, SIGKILL) }
        let last = "svc-\(services - 1)"
        do {
            try await within(.seconds(120)) {
                DNSProbe.addresses(of: "\(last).default.svc.cluster.local").isEmpty == false && probe.answer() == 0
            }
        } catch {
            throw BenchmarkError(
                "the agent did not serve \(services) services:\n\(try readText("\(directory)/agent.log").suffix(2000))"
            )
        }
        let startup = MonotonicTime.now() - started

        var kernel: [Double] = []
        var dns: [Double] = []
        for event in 1...Self.events {
            let change = MonotonicTime.now()
            probe.point(fake, at: event % 2)
            try await within(.seconds(5)) { probe.answer() == event % 2 }
            kernel.append((MonotonicTime.now() - change).inSeconds * 1e3)
            let second = MonotonicTime.now()
            probe.pointName(fake, at: event)
            try await within(.seconds(5)) {
                DNSProbe.addresses(of: ChangingService.headlessName) == [probe.nameAddress(event)]
            }
            dns.append((MonotonicTime.now() - second).inSeconds * 1e3)
        }
        // Idle: what was needed once has been given back.
        try await Task.sleep(for: .seconds(8))
        let usage = try ProcessUsage(of: agent)
        // Killed and started again, it has every service at hand from the first moment: one program of all.
        kill(agent, SIGKILL)
        waitpid(agent, nil, 0)
        agent = try start()
        let restarted = MonotonicTime.now()
        try await within(.seconds(60)) { !DNSProbe.addresses(of: "\(last).default.svc.cluster.local").isEmpty }
        let restart = MonotonicTime.now() - restarted
        try await Task.sleep(for: .seconds(3))
        let first = try firstProgramMilliseconds(program: program, directory: directory)
        let figures: [Document.Member] = [
            .init("residentMB", .init(.number(Double(usage.resident) / 1e6))),
            .init("anonymousMB", .init(.number(Double(usage.anonymous) / 1e6))),
            .init("startMilliseconds", .init(.number(startup.inSeconds * 1e3))),
            .init("restartMilliseconds", .init(.number(restart.inSeconds * 1e3))),
            .init("firstProgramMilliseconds", .init(.number(first))),
            .init("kernelMilliseconds", .init(.number(kernel.sorted()[kernel.count / 2]))),
            .init("dnsMilliseconds", .init(.number(dns.sorted()[dns.count / 2]))),
        ]
        print(Document.object(figures).jsonText())
    }

    /// The longest transaction of the agent so far: that of its first program.
    private static func firstProgramMilliseconds(program: String, directory: String) throws -> Double {
        let path = "\(directory)/status.json"
        let status = try startProcess(
            program,
            ["edgemesh", "status", "--socket", "\(directory)/admin.sock", "-o", "json"],
            environment: [],
            log: path
        )
        var code: Int32 = 0
        waitpid(status, &code, 0)
        let document = try Document.parseJSON(Array(try readText(path).utf8))
        return try document.number("edgeProxy", "kernel", "maximumLatencyMilliseconds")
    }
}

/// A service whose one endpoint moves between two listeners of this process, and a headless service whose address changes.
private struct ChangingService {
    static let headlessName = "changing-name.default.svc.cluster.local"
    private static let clusterIP = "10.97.0.1"
    private static let nodeAddress = "10.244.1.1"
    private let listeners: [Int32]

    init() throws {
        self.listeners = try (0..<2).map { number in
            let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            let bound = try SocketAddress(ipAddress: Self.nodeAddress, port: 7000 + number).withSockAddr {
                bind(listener, $0, socklen_t($1))
            }
            guard bound == 0, listen(listener, 128) == 0 else { throw BenchmarkError("cannot listen: errno \(errno)") }
            _ = fcntl(listener, F_SETFL, O_NONBLOCK)
            return listener
        }
    }

    func point(_ fake: FakeKube, at number: Int) {
        fake.apply(FakeObjects.service(name: "changing", clusterIP: Self.clusterIP))
        fake.apply(
            FakeObjects.endpointSlice(service: "changing", addresses: [Self.nodeAddress], port: 7000 + number)
        )
    }

    func nameAddress(_ number: Int) -> String { "10.250.0.\(number + 1)" }

    func pointName(_ fake: FakeKube, at number: Int) {
        if number == 1 { fake.apply(FakeObjects.service(name: "changing-name", clusterIP: "None")) }
        fake.apply(FakeObjects.endpointSlice(service: "changing-name", addresses: [self.nameAddress(number)]))
    }

    /// Connects to the service: which listener was reached; nil if none.
    func answer() -> Int? {
        let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(client) }
        _ = fcntl(client, F_SETFL, O_NONBLOCK)
        _ = try? SocketAddress(ipAddress: Self.clusterIP, port: 80).withSockAddr {
            connect(client, $0, socklen_t($1))
        }
        var ready = self.listeners.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        guard poll(&ready, 2, 2) > 0 else { return nil }
        var reached: Int?
        for (number, listener) in self.listeners.enumerated() {
            while case let accepted = accept(listener, nil, nil), accepted >= 0 {
                close(accepted)
                reached = number
            }
        }
        return reached
    }
}

/// One A query to the agent at a time.
private enum DNSProbe {
    static func addresses(of name: String) -> [String] {
        let client = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        defer { close(client) }
        var query: [UInt8] = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
        for label in name.split(separator: ".") { query += [UInt8(label.utf8.count)] + Array(label.utf8) }
        query += [0, 0, 1, 0, 1]
        let sent = try? SocketAddress(ipAddress: BenchmarkLab.dnsAddress, port: 53).withSockAddr {
            sendto(client, query, query.count, 0, $0, socklen_t($1))
        }
        var ready = pollfd(fd: client, events: Int16(POLLIN), revents: 0)
        guard sent == query.count, poll(&ready, 1, 100) > 0 else { return [] }
        var reply = [UInt8](repeating: 0, count: 4096)
        let count = recv(client, &reply, reply.count, 0)
        guard count > query.count, reply[3] & 0xF == 0 else { return [] }
        // Answers are A records with a compressed or repeated name: the address is the last four bytes of each.
        var addresses: [String] = []
        var index = query.count
        for _ in 0..<(Int(reply[6]) << 8 | Int(reply[7])) {
            while index < count, reply[index] != 0, reply[index] < 0xC0 { index += Int(reply[index]) + 1 }
            index += index < count && reply[index] >= 0xC0 ? 2 : 1
            guard index + 14 <= count else { break }
            addresses.append(reply[(index + 10)..<(index + 14)].map { "\($0)" }.joined(separator: "."))
            index += 14
        }
        return addresses
    }
}

/// Polls a condition every fifth of a millisecond: the figures are in milliseconds.
private func within(_ deadline: Duration, _ condition: () -> Bool) async throws {
    let end = MonotonicTime.now() + deadline
    while !condition() {
        guard MonotonicTime.now() < end else { throw BenchmarkError("waited \(deadline) in vain") }
        usleep(200)
    }
}

/// Starts a program with its output in a file.
private func startProcess(_ program: String, _ arguments: [String], environment: [String], log: String) throws -> pid_t
{
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    var argv: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
    var envp: [UnsafeMutablePointer<CChar>?] = environment.map { strdup($0) } + [nil]
    defer { (argv + envp).forEach { free($0) } }
    var child: pid_t = 0
    let error = posix_spawn(&child, program, &actions, nil, &argv, &envp)
    guard error == 0 else { throw BenchmarkError("cannot start \(program): errno \(error)") }
    return child
}
